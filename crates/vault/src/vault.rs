//! The vault as its users see it.

use std::sync::Arc;

use bytes::Bytes;
use disk::{DiskRead, Progress};
use model::{DiskName, Error, Kind, PointId, RestorePoint, Result, ServerName, crash};
use serde::{Deserialize, Serialize};

use crate::bucket::{Bucket, Put};
use crate::keys::{
    Identity, KeyObject, Keys, Recipient, RecipientInfo, VaultId, broken, check_key_id, damaged, no_point, unwrap, wrap,
};
use crate::layout::{KEYS, VAULT};
use crate::manifest::ManifestRef;
use crate::options::Options;
use crate::reader::{ChangedDisk, Handle, VaultDisk};
use crate::shared::{Shared, lock};
use crate::verify::{self, VerifyReport, VerifyScope};
use crate::writer::PointWriter;

/// What stands in `vault.json`, in this order, without spaces.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    format: String,
    version: u32,
    /// 128 random bits, hexadecimal.
    id: String,
}

const FORMAT: &str = "replicate-vault";
const VERSION: u32 = 2;

impl Marker {
    fn read(bytes: &[u8], bucket: &str) -> Result<VaultId> {
        let what = || format!("cannot open vault {bucket}");
        let marker: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::new(Kind::Damaged, what()).because(e.to_string()))?;
        if marker.format == FORMAT && marker.version != VERSION {
            let hint = match marker.version {
                0..VERSION => {
                    "a program from before the first release made it: restore with that one, and make a new vault"
                }
                _ => "a newer replicate made it: update this one",
            };
            let why = format!("its format has version {}, and this program knows {VERSION}", marker.version);
            return Err(Error::new(Kind::Invalid, what()).because(why).hint(hint));
        }
        let mut id = [0; 16];
        let canonical = serde_json::to_vec(&marker).is_ok_and(|canonical| canonical == bytes);
        let known = marker.format == FORMAT && hex::decode_to_slice(&marker.id, &mut id).is_ok();
        if canonical && known && hex::encode(id) == marker.id {
            return Ok(VaultId(id));
        }
        Err(damaged(what(), "its vault.json is not what it was written as"))
    }
}

/// An open vault. Cheap to share behind an [`Arc`]; any number of processes may use one vault at a time.
pub struct Vault {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("at", &self.describe()).finish_non_exhaustive()
    }
}

impl Vault {
    /// Makes a vault in an empty bucket, to be opened by any of `recipients`.
    ///
    /// `vault.json` is the commit point: a crash before it leaves key objects that open nothing, and a repeated call
    /// makes a fresh vault beside them.
    pub async fn create(bucket: Arc<dyn Bucket>, recipients: &[Recipient], options: Options) -> Result<Self> {
        let what = || format!("cannot make a vault in {}", bucket.describe());
        if recipients.is_empty() {
            return Err(Error::new(Kind::Invalid, what())
                .because("nobody could open it")
                .hint("name at least one recipient: a passphrase, or an age public key"));
        }
        match bucket.get(VAULT, None).await {
            Ok(_) => return Err(Error::new(Kind::Exists, what()).because("there is one already")),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error.within(what())),
        }
        let vault = VaultId(rand::random());
        let keys = Keys::generate(vault);
        for recipient in recipients {
            put_key(&bucket, &keys, recipient).await?;
        }
        let marker = Marker { format: FORMAT.to_owned(), version: VERSION, id: hex::encode(vault.0) };
        let bytes = serde_json::to_vec(&marker).map_err(|e| broken("vault.json has no JSON").because(e))?;
        crash::point("vault.create.before");
        bucket.put(VAULT, bytes.into(), Put::CreateOnly).await.map_err(|error| error.within(what()))?;
        crash::point("vault.create.after");
        Ok(Self { shared: Shared::new(bucket, keys, options)? })
    }

    /// Opens a vault with whichever of `identities` fits. [`Kind::Denied`] if none does, [`Kind::NotFound`] if there
    /// is no vault.
    pub async fn open(bucket: Arc<dyn Bucket>, identities: &[Identity], options: Options) -> Result<Self> {
        let place = bucket.describe();
        let marker = bucket.get(VAULT, None).await.map_err(|error| match error.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("there is no vault in {place}"))
                .because(error)
                .hint("`replicate init` or the first run makes one; check the url"),
            _ => error.within(format!("cannot open vault {place}")),
        })?;
        let vault = Marker::read(&marker, &place)?;
        let mut trouble = None;
        for object in read_keys(&bucket).await? {
            let object = match object {
                Ok(object) => object,
                Err(error) => {
                    trouble = Some(error);
                    continue;
                }
            };
            for identity in identities {
                let (object, identity) = (object.clone(), identity.clone());
                let opened = tokio::task::spawn_blocking(move || unwrap(vault, &object, &identity)).await;
                match opened.map_err(|e| broken("unwrapping a key broke off").because(e))? {
                    Ok(Some(master)) => {
                        return Ok(Self { shared: Shared::new(bucket, Keys::new(vault, master), options)? });
                    }
                    Ok(None) => {}
                    Err(error) => trouble = Some(error),
                }
            }
        }
        let denied = Error::new(Kind::Denied, format!("cannot open vault {place}"));
        Err(match trouble {
            Some(error) => denied.because(error),
            None => denied.because("none of the given keys fits any of its recipients"),
        }
        .hint("check the passphrase file or the age secret key"))
    }

    /// Where it is, for messages.
    pub fn describe(&self) -> String {
        self.shared.bucket.describe()
    }

    /// The bucket that it lies in.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.shared.bucket
    }

    /// All points, oldest first. The list is complete, or an error.
    pub async fn points(&self) -> Result<Vec<RestorePoint>> {
        let mut points = Vec::new();
        for at in self.shared.manifest_keys().await?.values() {
            points.push(self.shared.header(at).await?.point.clone());
        }
        points.sort_by(|a, b| (a.taken_at, &a.id).cmp(&(b.taken_at, &b.id)));
        Ok(points)
    }

    /// One point.
    pub async fn point(&self, id: &PointId) -> Result<RestorePoint> {
        let at = self.shared.point_ref(id).await?;
        Ok(self.shared.header(&at).await?.point.clone())
    }

    /// Begins to write a point. With a `parent`, its bytes are the base.
    pub async fn begin(&self, point: &PointId, server: &ServerName, parent: Option<&PointId>) -> Result<PointWriter> {
        PointWriter::begin(self.shared.clone(), point, server, parent).await
    }

    /// Opens a disk of a point.
    pub async fn open_disk(&self, point: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        Ok(Box::new(Handle(self.disk(point, disk).await?)))
    }

    /// Opens a disk of a point as the changes since an older point: its extents list what differs.
    pub async fn open_changes(&self, point: &PointId, since: &PointId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
        let (now, before) = (self.disk(point, disk).await?, self.disk(since, disk).await?);
        Ok(Box::new(ChangedDisk::new(now, before)))
    }

    async fn disk(&self, point: &PointId, disk: &DiskName) -> Result<Arc<VaultDisk>> {
        let (at, manifest) = self.shared.point_manifest(point).await?;
        let table = Arc::new(manifest.disk(disk)?.clone());
        Ok(VaultDisk::of_version(self.shared.clone(), table, point, at.key))
    }

    /// Reads packs back, checks them, and marks what is damaged so that a later run stores it again.
    pub async fn verify(&self, scope: &VerifyScope, progress: &dyn Progress) -> Result<VerifyReport> {
        verify::run(&self.shared, scope, progress).await
    }

    /// Drops a point's manifests, all versions. Its packs stay until the collector finds them unused. Absent is success.
    pub async fn forget(&self, point: &PointId) -> Result<()> {
        loop {
            let versions = self.shared.versions(point).await?;
            if versions.is_empty() {
                return Ok(());
            }
            // the newest goes last: a crash in between leaves the point whole
            for ManifestRef { key, .. } in versions {
                crash::point("vault.forget.before");
                self.shared.bucket.delete(&key).await?;
                lock(&self.shared.headers).remove(&key);
                crash::point("vault.forget.after");
            }
            // and again: a compaction may have put one more version meanwhile
        }
    }

    /// Who can open the vault.
    pub async fn recipients(&self) -> Result<Vec<RecipientInfo>> {
        let objects: Vec<KeyObject> = read_keys(&self.shared.bucket).await?.into_iter().collect::<Result<_>>()?;
        Ok(objects.iter().map(KeyObject::info).collect())
    }

    /// Wraps the master key for one more recipient.
    pub async fn add_recipient(&self, recipient: &Recipient) -> Result<RecipientInfo> {
        put_key(&self.shared.bucket, &self.shared.keys, recipient).await
    }

    /// Removes a recipient by id; never the last.
    pub async fn remove_recipient(&self, id: &str) -> Result<()> {
        check_key_id(id)?;
        let what = || format!("cannot remove recipient {id}");
        let recipients = self.recipients().await?;
        if !recipients.iter().any(|recipient| recipient.id == id) {
            return Err(Error::new(Kind::NotFound, what()).because("the vault has none of that id"));
        }
        if recipients.len() == 1 {
            return Err(Error::new(Kind::Invalid, what())
                .because("it is the last one: nobody could open the vault any more")
                .hint("add another recipient first"));
        }
        crash::point("vault.key.remove.before");
        self.shared.bucket.delete(&format!("{KEYS}{id}.json")).await?;
        crash::point("vault.key.remove.after");
        Ok(())
    }
}

impl Shared {
    /// The newest manifest of a point.
    pub async fn point_ref(&self, id: &PointId) -> Result<ManifestRef> {
        let at = self.manifest_keys().await?.remove(id);
        at.ok_or_else(|| no_point(id, &self.bucket.describe()))
    }
}

async fn put_key(bucket: &Arc<dyn Bucket>, keys: &Keys, recipient: &Recipient) -> Result<RecipientInfo> {
    let (vault, master, recipient) = (keys.vault, keys.master().clone(), recipient.clone());
    let wrapped = tokio::task::spawn_blocking(move || wrap(vault, &master, &recipient)).await;
    let object = wrapped.map_err(|e| broken("wrapping a key broke off").because(e))??;
    crash::point("vault.key.add.before");
    bucket.put(&object.key(), object.to_bytes()?.into(), Put::CreateOnly).await?;
    crash::point("vault.key.add.after");
    Ok(object.info())
}

/// All key objects; a damaged one does not hide the others.
async fn read_keys(bucket: &Arc<dyn Bucket>) -> Result<Vec<Result<KeyObject>>> {
    let mut objects = Vec::new();
    for object in bucket.list(KEYS).await? {
        let bytes: Bytes = match bucket.get(&object.key, None).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == Kind::NotFound => continue,
            Err(error) => return Err(error),
        };
        objects.push(KeyObject::parse(&object.key, &bytes));
    }
    Ok(objects)
}
