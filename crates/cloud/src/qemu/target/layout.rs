//! Where the target keeps things under the site's `disks` folder, and how they get there durably.
//!
//! `.making/OWNER@RUN@STEP/` is scratch: disks being written, images and instances being put together. The name alone
//! tells whose it is, so a folder that a crash left half made is still found and swept. `images/ID/` and
//! `instances/ID/` arrive whole, by one rename: that rename is the commit point.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use model::{Error, Kind, Result, Role, Tags, Token, crash, tag};

/// The file with the tags of a scratch folder.
pub(super) const TAGS: &str = "tags.json";

/// The folders of a site.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout under the site's `disks` folder.
    pub(super) fn new(disks: &Path) -> Result<Self> {
        let root = std::path::absolute(disks)
            .map_err(|error| Error::io(format!("cannot resolve the folder {}", disks.display()), error))?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn making(&self) -> PathBuf {
        self.root.join(".making")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// The scratch folder of a token.
    pub(super) fn scratch(&self, token: &Token) -> PathBuf {
        let parts = [token.owner.as_str(), token.run.as_str(), token.step.as_str()];
        self.making().join(parts.map(encode).join("@"))
    }

    /// Makes the scratch folder of a token, with its tags; an existing one is taken over as it is.
    pub(super) fn make_scratch(&self, token: &Token) -> Result<PathBuf> {
        let folder = self.scratch(token);
        make_folder(&folder)?;
        if !folder.join(TAGS).exists() {
            write_json(&folder.join(TAGS), &token.tags(Role::Scratch), "qemu.scratch-tags")?;
            sync_folder(&self.making())?;
        }
        Ok(folder)
    }

    /// All scratch folders: name and tags.
    pub(super) fn scratches(&self) -> Result<Vec<(String, Tags)>> {
        let mut found = Vec::new();
        for name in names_in(&self.making())? {
            let known = fs::read(self.making().join(&name).join(TAGS)).ok();
            let tags = known.and_then(|bytes| serde_json::from_slice::<Tags>(&bytes).ok());
            if let Some(tags) = tags.or_else(|| tags_of_name(&name)) {
                found.push((name, tags));
            }
        }
        Ok(found)
    }

    /// Deletes a folder of images or instances: it leaves its place by one rename, so that no half of it is ever
    /// seen there; what a crash leaves behind is scratch of its owner. Absent is success.
    pub(super) fn discard(&self, folder: &Path, tags: &Tags, area: &str) -> Result<()> {
        if !folder.exists() {
            return Ok(());
        }
        make_folder(&self.making())?;
        let of = |key: &str| encode(tags.get(key).map_or("unknown", String::as_str));
        let own = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let gone = self.making().join([of(tag::OWNER), of(tag::RUN), of(tag::STEP), format!("{area}-{own}")].join("@"));
        remove_tree(&gone)?;
        crash::point(&format!("qemu.{area}-discard.before"));
        fs::rename(folder, &gone).map_err(|error| Error::io(format!("cannot discard {}", folder.display()), error))?;
        crash::point(&format!("qemu.{area}-discard.after"));
        if let Some(parent) = folder.parent() {
            sync_folder(parent)?;
        }
        remove_tree(&gone)
    }
}

/// A name as a file name: letters, digits, `.`, `_` and `-` stay, everything else becomes `+` and two hex digits.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("+{byte:02x}"));
        }
    }
    out
}

/// The folder name of an id that [`encode`] has made. An id of another making names nothing here, and gets no path
/// of its own choosing.
pub(super) fn folder_of(id: &str) -> String {
    let ours = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte));
    if ours { id.to_owned() } else { encode(id) }
}

/// Reverses [`encode`].
pub(super) fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'+' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// What the name of a scratch folder tells by itself.
fn tags_of_name(name: &str) -> Option<Tags> {
    let mut parts = name.split('@').map(decode);
    let (owner, run, step) = (parts.next()??, parts.next()??, parts.next()??);
    let pairs = [(tag::OWNER, owner), (tag::POINT, run.clone()), (tag::RUN, run), (tag::STEP, step)];
    let mut tags: Tags = pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    tags.insert(tag::ROLE.to_owned(), "scratch".to_owned());
    Some(tags)
}

/// Names in a folder, in order; none if there is no such folder.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let operation = || format!("cannot list {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(operation(), error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| Error::io(operation(), error))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Makes a folder and its parents, readable by us alone: disks of servers are secrets.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::io(format!("cannot make the folder {}", folder.display()), error))
}

/// Writes a file so that a crash leaves the old content or the new one, and the new one is durable on return.
pub(super) fn write_durable(path: &Path, bytes: &[u8], point: &str) -> Result<()> {
    let operation = |error| Error::io(format!("cannot write {}", path.display()), error);
    let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary).map_err(operation)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(operation)?;
    crash::point(&format!("{point}.before"));
    fs::rename(&temporary, path).map_err(operation)?;
    if let Some(parent) = path.parent() {
        sync_folder(parent)?;
    }
    crash::point(&format!("{point}.after"));
    Ok(())
}

/// [`write_durable`] of a value as JSON that a person can read.
pub(super) fn write_json<T: serde::Serialize>(path: &Path, value: &T, point: &str) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::new(Kind::Permanent, format!("cannot write {}", path.display())).because(error))?;
    write_durable(path, &text, point)
}

/// Reads a JSON file; none if there is no such file, [`Kind::Damaged`] if it does not read.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let operation = || format!("cannot read {}", path.display());
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(operation(), error)),
    };
    let value =
        serde_json::from_slice(&bytes).map_err(|error| Error::new(Kind::Damaged, operation()).because(error))?;
    Ok(Some(value))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|error| Error::io(format!("cannot sync the folder {}", folder.display()), error))
}

/// Deletes a file. Absent is success.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot delete {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Deletes a folder with all it holds. Absent is success.
pub(super) fn remove_tree(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot delete {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_file_system() {
        for text in ["web-1", "transfer:lab", "a/b", "a+b", "x@y"] {
            let name = encode(text);
            assert!(!name.contains(['/', '@', ':']), "{name}");
            assert_eq!(decode(&name).as_deref(), Some(text));
        }
        assert_eq!(decode("+zz"), None);
        assert_eq!(folder_of("replicate-1-register+3alab"), "replicate-1-register+3alab");
        assert_eq!(folder_of("a/../b"), "a+2f..+2fb");
    }

    #[test]
    fn a_scratch_folder_without_tags_still_tells_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        make_folder(&layout.making().join("me@20261122T030000Z-7f3a9c21@transfer+3alab")).unwrap();
        let found = layout.scratches().unwrap();
        assert_eq!(found[0].1[tag::OWNER], "me");
        assert_eq!(found[0].1[tag::RUN], "20261122T030000Z-7f3a9c21");
        assert_eq!(found[0].1[tag::STEP], "transfer:lab");
    }

    #[test]
    fn a_discarded_folder_is_gone_and_discarding_it_again_is_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        let image = layout.images().join("one");
        make_folder(&image).unwrap();
        fs::write(image.join("disk.raw"), b"x").unwrap();
        for _ in 0..2 {
            layout.discard(&image, &Tags::new(), "image").unwrap();
            assert!(!image.exists());
            assert!(names_in(&layout.making()).unwrap().is_empty());
        }
    }
}
