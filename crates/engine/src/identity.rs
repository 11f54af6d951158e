//! Who this installation is. Its id marks everything it makes; it lies beside the ledger as a small file too, so that a
//! rebuilt ledger still knows its own scratch.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::{Error, Kind, OwnerId, Result};

use crate::ledger::{self, Batch, Ledger, Tree};

/// File with the installation's id.
pub(crate) const OWNER_FILE: &str = "owner";
/// File with the key that signs proofs.
pub(crate) const KEY_FILE: &str = "proof.key";
/// What stays when a damaged ledger is set aside.
pub(crate) const FILES: [&str; 2] = [OWNER_FILE, KEY_FILE];

/// The installation's id: from the ledger, else from the file beside it, else a new one.
pub(crate) async fn owner(ledger: &dyn Ledger, folder: Option<&Path>, random: u64) -> Result<OwnerId> {
    let known: Option<OwnerId> = ledger::get(ledger, Tree::Meta, "owner").await?;
    let path = folder.map(|folder| folder.join(OWNER_FILE));
    let filed = match &path {
        Some(path) => read(path)?,
        None => None,
    };
    let owner = match (known.clone(), filed.clone()) {
        (Some(owner), _) | (None, Some(owner)) => owner,
        (None, None) => OwnerId::new(format!("replicate-{random:016x}"))?,
    };
    if let (Some(path), None) = (&path, filed) {
        write_new(path, format!("{owner}\n").as_bytes(), 0o644)?;
    }
    if known.is_none() {
        let mut batch = Batch::new();
        batch.put(Tree::Meta, "owner", &owner)?;
        batch.put(Tree::Meta, "schema", &1_u32)?;
        ledger.commit(batch).await?;
    }
    Ok(owner)
}

fn read(path: &Path) -> Result<Option<OwnerId>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(OwnerId::new(text.trim())?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("cannot read {}", path.display()), error)),
    }
}

/// Writes a file that must not exist: a temporary one, fsync, rename, fsync of the folder.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let operation = || format!("cannot write {}", path.display());
    let folder = path.parent().ok_or_else(|| Error::new(Kind::Invalid, operation()).because("it has no folder"))?;
    let temporary = path.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&temporary).map_err(|e| Error::io(operation(), e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| Error::io(operation(), e))?;
    model::crash::point("file.rename.before");
    std::fs::rename(&temporary, path).map_err(|e| Error::io(operation(), e))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(operation(), e))?;
    model::crash::point("file.rename.after");
    Ok(())
}
