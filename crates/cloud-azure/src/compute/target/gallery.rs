//! An image as a version of a compute gallery: what others, in other regions too, make machines from.
//!
//! * Where an image is published stands in a tag of its boot disk's snapshot before any of it is made. So the version goes with the image,
//!   whatever died in between: first the version, then the snapshots; and its definition, when that has no other.
//! * Azure copies a version to its regions in minutes or in a day, and its call fails when one of them does. Nobody waits for the
//!   call: a version is begun, and each later look tells how far each region is. A region that has failed is taken out of the
//!   version at one look and put in at the next, which makes Azure begin it anew.
//! * A version is made of the image's snapshots, as they are: its definition is `Specialized`. Of such sources Azure makes
//!   versions for standard machines only; one of them is upgraded to Trusted Launch by whoever made it.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Arch, Error, Firmware, Gallery, ImageId, ImageOptions, Kind, Published, Replication, RestorePoint, Result, Tags,
    tag,
};
use serde_json::{Value, json};

use super::super::arm::{Shown, What};
use super::super::http::Client;
use super::super::{AzureSite, marks};
use super::image::{self, generation, snapshot};
use super::instance::system;

/// The longest name of a definition, less what is put behind a server's name.
const NAME: usize = 60;

/// What servers of one definition have in common is in its name: Azure changes none of it.
fn definition(point: &RestorePoint) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let server = point.server.as_str();
    let mut name: String = server.chars().take(NAME).map(fine).collect();
    if name != server {
        name = format!("{name}-{}", &blake3::hash(server.as_bytes()).to_hex()[..8]);
    }
    let arch = if point.machine.arch == Arch::Aarch64 { "-arm64" } else { "" };
    format!("{name}-{}{arch}", generation(&point.machine.firmware).to_lowercase())
}

/// The version's number, from the instant of the point: a newer point's is larger.
fn number(point: &RestorePoint) -> String {
    let at = point.taken_at.to_zoned(jiff::tz::TimeZone::UTC);
    let day = i32::from(at.month()) * 100 + i32::from(at.day());
    let second = i32::from(at.hour()) * 10_000 + i32::from(at.minute()) * 100 + i32::from(at.second());
    format!("{}.{day}.{second}", at.year())
}

/// `West Europe` is `westeurope`.
fn place(region: &str) -> String {
    region.to_lowercase().replace(' ', "")
}

/// Refuses what no version here can be.
pub(super) fn fits(options: &ImageOptions, site: &AzureSite) -> Result<()> {
    let Some(Gallery { name, regions, shallow }) = &options.gallery else { return Ok(()) };
    let refused = |why: String, hint: &str| {
        Err(Error::new(Kind::Invalid, format!("cannot publish in gallery {name}")).because(why).hint(hint))
    };
    let key = site.config.encryption_set.is_some();
    match regions.first() {
        Some(region) if *shallow => {
            refused(format!("a shallow version is not copied to {region}"), "leave `shallow` or `regions` out")
        }
        Some(region) if key => refused(
            format!("in {region} it would not be encrypted with the site's key, which is of {}", site.config.location),
            "leave `regions` out, and publish there what is replicated there",
        ),
        None if *shallow && key => {
            refused("a shallow version has the platform's key".to_owned(), "leave `shallow` out")
        }
        _ => Ok(()),
    }
}

/// Begins a version of an image, or looks how far it is and mends what has failed.
pub(super) async fn publish(site: &AzureSite, image: &ImageId, options: &ImageOptions) -> Result<Published> {
    let Some(gallery) = &options.gallery else { return Ok(Published::default()) };
    fits(options, site)?;
    let (client, operation) = (site.client()?, || format!("cannot publish image {image} in gallery {}", gallery.name));
    let (boot, point) = image::show(client, image).await?;
    let wanted = format!("{}/images/{}/versions/{}", gallery.name, definition(&point), number(&point));
    let noted = boot.tags.get(marks::VERSION);
    let before = Version { site, gallery, at: noted.unwrap_or(&wanted) };
    let (version, found) = match before.find().await? {
        // once, and where it was first
        Some(found) => (before, found),
        None => {
            let version = Version { at: &wanted, ..before };
            let begun = version.begin(&boot, &point, options, noted).await;
            (version, begun.map_err(|error| error.within(operation()))?)
        }
    };
    if !is_of(&found, &boot, &[tag::OWNER, tag::POINT]) {
        return Err(Error::new(Kind::Exists, operation())
            .because(format!("version {} is of another point", version.at))
            .hint("name another gallery in the policy"));
    }
    version.mended(&found, &point).await.map_err(|error| error.within(operation()))
}

/// Whether something is of the same as an image.
fn is_of(it: &Shown, boot: &Shown, keys: &[&str]) -> bool {
    keys.iter().all(|key| it.tags.get(*key) == boot.tags.get(*key))
}

/// The version of an image, wherever it stands.
#[derive(Clone, Copy)]
struct Version<'a> {
    site: &'a AzureSite,
    gallery: &'a Gallery,
    at: &'a str,
}

impl Version<'_> {
    fn client(&self) -> Result<&Client> {
        self.site.client()
    }

    async fn find(&self) -> Result<Option<Shown>> {
        self.client()?.find_expanded(What::Version, self.at, "ReplicationStatus").await
    }

    /// Notes where it will be, and begins it there. `noted`: where it was to be by an earlier policy, and is not.
    async fn begin(
        &self,
        boot: &Shown,
        point: &RestorePoint,
        options: &ImageOptions,
        noted: Option<&String>,
    ) -> Result<Shown> {
        let client = self.client()?;
        if noted.is_none_or(|noted| noted != self.at) {
            if let Some(noted) = noted {
                retire(client, noted, boot).await?;
            }
            let more = (marks::VERSION.to_owned(), self.at.to_owned());
            client.tag(What::Snapshot, &boot.name, &boot.tags.clone().into_iter().chain([more]).collect()).await?;
        }
        self.define(point, boot).await?;
        if matches!(point.machine.firmware, Firmware::Uefi { secure_boot: true, .. }) {
            tracing::warn!(server = %point.server, "its version is for standard machines: secure boot is not enforced");
        }
        client.begin(What::Version, self.at, &self.body(boot, point, options).await?).await?;
        self.find().await?.ok_or_else(|| {
            Error::new(Kind::NotYetVisible, format!("cannot look at version {}", self.at))
                .because("it is not shown yet")
        })
    }

    /// Makes the definition, or sees that it is one of this server.
    async fn define(&self, point: &RestorePoint, boot: &Shown) -> Result<()> {
        let client = self.client()?;
        let at = above(self.at);
        if client.find(What::Gallery, &self.gallery.name).await?.is_none() {
            let why = format!("group {} has no gallery {}", self.site.config.group, self.gallery.name);
            return Err(Error::new(Kind::NotFound, "cannot define an image")
                .because(why)
                .hint("make it: `az sig create`"));
        }
        if let Some(known) = client.find(What::Definition, at).await? {
            return match is_of(&known, boot, &[tag::OWNER, tag::SERVER]) {
                true => Ok(()),
                false => Err(Error::new(Kind::Exists, format!("cannot define image {at}"))
                    .because("there is one that is not of this server and installation")
                    .hint("name another gallery in the policy")),
            };
        }
        let spec = self.site.config.restore.of(&point.server);
        let name = at.rsplit('/').next().unwrap_or(at);
        let tags: Tags = [tag::OWNER, tag::SERVER]
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), boot.tags.get(*key)?.clone())))
            .collect();
        let architecture = if point.machine.arch == Arch::Aarch64 { "Arm64" } else { "x64" };
        let body = json!({
            "location": self.site.config.location, "tags": tags,
            "properties": {
                "osType": system(&spec), "osState": "Specialized", "architecture": architecture,
                "hyperVGeneration": generation(&point.machine.firmware),
                "identifier": { "publisher": "replicate", "offer": "servers", "sku": name },
            },
        });
        client.create(What::Definition, at, &body, false).await
    }

    /// Regions that it is to be in: the site's own first.
    fn wanted(&self) -> Vec<String> {
        let home = place(&self.site.config.location);
        let others: Vec<String> = self.gallery.regions.iter().map(|region| place(region)).collect();
        std::iter::once(home.clone()).chain(others.into_iter().filter(|region| *region != home)).collect()
    }

    fn regions(&self, names: &[String], disks: usize) -> Value {
        let of = |name: &String| {
            let mut region = json!({ "name": name, "regionalReplicaCount": 1 });
            if let Some(set) = &self.site.config.encryption_set {
                let data = (1..disks).map(|place| json!({ "lun": place - 1, "diskEncryptionSetId": set }));
                region["encryption"] = json!({
                    "osDiskImage": { "diskEncryptionSetId": set }, "dataDiskImages": data.collect::<Vec<_>>(),
                });
            }
            region
        };
        names.iter().map(of).collect()
    }

    async fn body(&self, boot: &Shown, point: &RestorePoint, options: &ImageOptions) -> Result<Value> {
        let client = self.client()?;
        let image = boot.name.as_str();
        let source = |place: usize| json!({ "id": client.id(What::Snapshot, &snapshot(image, place)) });
        let data = (1..point.disks.len()).map(|place| json!({ "lun": place - 1, "source": source(place) }));
        let mode = if self.gallery.shallow { "Shallow" } else { "Full" };
        let regions = self.regions(&self.wanted(), point.disks.len());
        let mut publishing = json!({ "targetRegions": regions, "replicationMode": mode });
        // for as long as the snapshots themselves
        let kept = client.find_kept(image).await?;
        let until = kept.as_ref().and_then(|kept| kept.text("/immutabilityPolicy/policyExpirationTime"));
        let until = until.filter(|_| options.immutability.is_some());
        if let Some(until) = until {
            publishing["endOfLifeDate"] = json!(until);
        }
        let tags = marks::ours(&boot.tags).map(|(_, tags)| tags).unwrap_or_default();
        Ok(json!({
            "location": self.site.config.location, "tags": tags,
            "properties": {
                "publishingProfile": publishing,
                "storageProfile": { "osDiskImage": { "source": source(0) }, "dataDiskImages": data.collect::<Vec<_>>() },
                // else no region that has failed could be taken out
                "safetyProfile": {
                    "allowDeletionOfReplicatedLocations": true, "blockDeletionBeforeEndOfLife": until.is_some(),
                },
            },
        }))
    }

    /// How far each region is. Of a version that nothing goes on with, regions that have failed are taken out, and those that lack put in.
    async fn mended(&self, found: &Shown, point: &RestorePoint) -> Result<Published> {
        let (wanted, regions) = (self.wanted(), self.states(found));
        let bad = |region: &String| matches!(regions.get(region), Some(Replication::Failed(_)));
        let busy = matches!(found.text("/provisioningState"), Some("Creating" | "Updating" | "Deleting"));
        let there: BTreeSet<String> =
            listed(found, "/publishingProfile/targetRegions", "name").map(|(it, _)| it).collect();
        let next: Vec<String> = match there.iter().any(bad) {
            true => wanted.iter().filter(|region| !bad(region)).cloned().collect(),
            false => wanted.clone(),
        };
        if busy {
            // it is changed when that has ended
        } else if bad(&wanted[0]) {
            // nothing of it can be had: the next look begins it anew
            self.client()?.delete(What::Version, self.at).await?;
        } else if next.iter().cloned().collect::<BTreeSet<_>>() != there {
            let regions = self.regions(&next, point.disks.len());
            let body = json!({ "properties": { "publishingProfile": { "targetRegions": regions } } });
            self.client()?.begin_update(What::Version, self.at, &body).await?;
        }
        Ok(Published { version: self.at.to_owned(), asked: self.gallery.clone(), regions })
    }

    /// How far each region is that it is to be in.
    fn states(&self, found: &Shown) -> BTreeMap<String, Replication> {
        let wanted = self.wanted();
        let mut regions: BTreeMap<String, Replication> =
            wanted.iter().map(|region| (region.clone(), Replication::Underway)).collect();
        for (region, it) in listed(found, "/replicationStatus/summary", "region") {
            let text = |key: &str| it.get(key).and_then(Value::as_str).unwrap_or_default();
            let state = match text("state") {
                "Completed" => Replication::Done,
                "Failed" => Replication::Failed(text("details").to_owned()),
                _ => Replication::Underway,
            };
            regions.insert(region, state);
        }
        regions.retain(|region, _| wanted.contains(region));
        regions
    }
}

/// Regions of a list among the properties, each with what is said of it.
fn listed<'a>(found: &'a Shown, path: &str, key: &'a str) -> impl Iterator<Item = (String, &'a Value)> {
    let all = found.properties.pointer(path).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(move |it| Some((place(it.get(key)?.as_str()?), it)))
}

/// The definition of a version.
fn above(version: &str) -> &str {
    version.rsplit_once("/versions/").map_or(version, |(above, _)| above)
}

/// Every version of ours, by its path below the galleries.
pub(in crate::compute) async fn versions(client: &Client) -> Result<Vec<(String, Shown)>> {
    let mut found = Vec::new();
    for gallery in client.list(What::Gallery).await? {
        let images = format!("{}/images", gallery.name);
        for definition in client.list_below(What::Definition, &images).await? {
            // nobody but us makes versions below it
            if !definition.tags.contains_key(tag::OWNER) {
                continue;
            }
            let above = format!("{images}/{}/versions", definition.name);
            let versions = client.list_below(What::Version, &above).await?;
            found.extend(versions.into_iter().map(|version| (format!("{above}/{}", version.name), version)));
        }
    }
    Ok(found)
}

/// Whether the image of a version is gone: somebody has deleted its snapshot, and left the version. A list may be late
/// and show no image that is there, so the snapshot itself is asked for.
pub(in crate::compute) async fn is_orphan(client: &Client, path: &str, version: &Shown) -> Result<bool> {
    let source = version.text("/storageProfile/osDiskImage/source/id").and_then(|id| id.rsplit('/').next());
    let Some(source) = source else { return Ok(false) };
    let image = client.find(What::Snapshot, source).await?;
    Ok(image.is_none_or(|image| image.tags.get(marks::VERSION).is_none_or(|at| at != path)))
}

/// Deletes a version whose image is gone. Absent is success.
pub(in crate::compute) async fn delete_orphan(client: &Client, path: &str) -> Result<()> {
    let Some(version) = client.find(What::Version, path).await? else { return Ok(()) };
    if !is_orphan(client, path, &version).await? {
        return Err(Error::new(Kind::Invalid, format!("cannot delete version {path}"))
            .because("its image is there, and it goes with that"));
    }
    retire(client, path, &version).await
}

/// Deletes the version of an image, and its definition if that has no other. `boot` has the image's tags.
pub(super) async fn retire(client: &Client, version: &str, boot: &Shown) -> Result<()> {
    // either may be another's by now
    if client.find(What::Version, version).await?.is_some_and(|it| is_of(&it, boot, &[tag::OWNER, tag::POINT])) {
        client.delete(What::Version, version).await?;
    }
    let definition = above(version);
    let ours = client.find(What::Definition, definition).await?.is_some_and(|it| is_of(&it, boot, &[tag::OWNER]));
    if !ours || !client.list_below(What::Version, &format!("{definition}/versions")).await?.is_empty() {
        return Ok(());
    }
    match client.delete(What::Definition, definition).await {
        // another image of the server was just published
        Err(error) if error.kind() == Kind::Invalid => Ok(()),
        done => done,
    }
}
