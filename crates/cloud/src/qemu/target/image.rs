//! Images: disks of a restore point in a folder of their own, with the point beside them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use disk::{DiskRead, DiskWrite, Format, Progress};
use model::{
    DiskName, DiskRoot, Error, ImageId, ImageOption, ImageOptions, Kind, PointDisk, RestorePoint, Result, Role, Tags,
    Token, crash, tag,
};
use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use serde::{Deserialize, Serialize};

use super::blocking;
use super::layout::{
    Layout, TAGS, encode, folder_of, make_folder, names_in, read_json, remove_file, remove_tree, sync_folder,
    write_json,
};
use super::machine::DiskFile;
use crate::ImageDisk;

/// What can be asked of images here: an image is a folder of the host, which has its own ways of locking and sharing.
pub const IMAGE_OPTIONS: &[ImageOption] = &[ImageOption::Name, ImageOption::Tags];

/// The file that makes a folder an image.
const RECORD: &str = "image.json";

/// What stands in [`RECORD`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    version: u32,
    pub(super) role: Role,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    pub(super) tags: Tags,
    pub(super) point: RestorePoint,
    /// Files are names in the image's folder.
    disks: Vec<DiskFile>,
}

/// The image that a token makes.
pub(super) fn id_of(token: &Token) -> Result<ImageId> {
    ImageId::new(encode(&token.name()))
}

fn folder(layout: &Layout, image: &ImageId) -> PathBuf {
    layout.images().join(folder_of(image.as_str()))
}

/// Reads what an image is. [`Kind::NotFound`] if there is none.
pub(super) fn load(layout: &Layout, image: &ImageId) -> Result<ImageRecord> {
    read_json(&folder(layout, image).join(RECORD))?.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot open image {image}")).because("there is no such image")
    })
}

/// The disk files of an image, with full paths.
pub(super) fn files(layout: &Layout, image: &ImageId, record: &ImageRecord) -> Vec<DiskFile> {
    let folder = folder(layout, image);
    record.disks.iter().map(|disk| DiskFile { path: folder.join(&disk.path), ..disk.clone() }).collect()
}

/// All images, of either role.
pub(super) fn list(layout: &Layout) -> Result<Vec<(ImageId, ImageRecord)>> {
    let mut found = Vec::new();
    for name in names_in(&layout.images())? {
        let record = read_json::<ImageRecord>(&layout.images().join(&name).join(RECORD))?;
        // a folder without a record was put there by a person
        if let (Ok(id), Some(record)) = (ImageId::new(name), record) {
            found.push((id, record));
        }
    }
    Ok(found)
}

/// Makes a scratch disk and opens it for writing; what an earlier call with the token has written is gone.
pub(super) async fn create_disk(
    layout: &Layout,
    format: Format,
    disk: &DiskName,
    size: u64,
    base: Option<&ImageId>,
    token: &Token,
) -> Result<(ImageDisk, Box<dyn DiskWrite>)> {
    let base = match base {
        Some(image) => {
            let (file, root) = find(layout, image, disk).await?;
            Some(disk::Base::open(&file.path, file.format, &root).await?)
        }
        None => None,
    };
    let path = {
        let (layout, disk, token) = (layout.clone(), disk.clone(), token.clone());
        blocking(move || place_for(&layout, format, &disk, &token)).await?
    };
    crash::point("qemu.disk-create.before");
    let writer = disk::create_recorded(&path, format, size, base).await?;
    crash::point("qemu.disk-create.after");
    let id = path.to_str().ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot use {}", path.display())).because("its name is not UTF-8")
    })?;
    Ok((ImageDisk { name: disk.clone(), id: id.to_owned() }, writer))
}

/// A free place for a scratch disk.
fn place_for(layout: &Layout, format: Format, disk: &DiskName, token: &Token) -> Result<PathBuf> {
    let scratch = layout.make_scratch(token)?;
    let stem = encode(disk.as_str());
    let own = |name: &String| {
        name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with(".raw") || rest.starts_with(".qcow2"))
    };
    for old in names_in(&scratch)?.iter().filter(|name| own(name)) {
        remove_file(&scratch.join(old))?;
    }
    Ok(scratch.join(format!("{stem}.{}", format.name())))
}

/// The file of a disk of an image, and the root that its point says it has.
async fn find(layout: &Layout, image: &ImageId, disk: &DiskName) -> Result<(DiskFile, DiskRoot)> {
    let (layout, image, disk) = (layout.clone(), image.clone(), disk.clone());
    blocking(move || {
        let record = load(&layout, &image)?;
        let file = files(&layout, &image, &record).into_iter().find(|file| file.name == disk);
        let root = record.point.disks.iter().find(|known| known.name == disk).map(|known| known.root);
        file.zip(root).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("cannot open disk {disk} of image {image}"))
                .because("it has no such disk")
        })
    })
    .await
}

/// Opens a disk of an image for reading everything.
pub(super) async fn open(layout: &Layout, image: &ImageId, disk: &DiskName) -> Result<Box<dyn DiskRead>> {
    let (file, _) = find(layout, image, disk).await?;
    disk::open_file(&file.path, file.format).await
}

/// Reads back what the making of a disk has stored.
pub(super) async fn check_written(
    layout: &Layout,
    image: &ImageId,
    disk: &PointDisk,
    progress: &dyn Progress,
) -> Result<Option<u64>> {
    let (file, _) = find(layout, image, &disk.name).await?;
    disk::check_written(&file.path, file.format, &disk.root, progress).await
}

/// Makes an image of scratch disks. The rename of its finished folder is the commit point; whatever runs before a
/// crash is found and completed by the next call with the same token.
pub(super) fn register(
    layout: &Layout,
    disks: &[ImageDisk],
    point: &RestorePoint,
    options: &ImageOptions,
    role: Role,
    token: &Token,
) -> Result<ImageId> {
    options.within(IMAGE_OPTIONS, "qemu")?;
    let id = id_of(token)?;
    let place = folder(layout, &id);
    if let Some(there) = read_json::<ImageRecord>(&place.join(RECORD))? {
        if there.point.id != point.id {
            return Err(Error::new(Kind::Exists, format!("cannot register image {id}"))
                .because(format!("it exists and holds restore point {}", there.point.id)));
        }
        clear(layout, disks)?;
        return Ok(id);
    }
    let staging = layout.make_scratch(token)?;
    let mut files = Vec::new();
    for disk in disks {
        files.push(move_in(layout, disk, &staging)?);
    }
    for wanted in &point.disks {
        if !files.iter().any(|file| file.name == wanted.name) {
            return Err(Error::new(Kind::Invalid, format!("cannot register image {id}"))
                .because(format!("disk {} of restore point {} was not written", wanted.name, point.id)));
        }
    }
    let mut tags = options.tags.clone();
    tags.extend(token.tags(role));
    tags.insert(tag::POINT.to_owned(), point.id.to_string());
    tags.insert(tag::SERVER.to_owned(), point.server.to_string());
    let name = options.name.clone();
    let record = ImageRecord { version: 1, role, name, tags, point: point.clone(), disks: files };
    write_json(&staging.join(RECORD), &record, "qemu.image-record")?;
    make_folder(&layout.images())?;
    crash::point("qemu.image-commit.before");
    fs::rename(&staging, &place).map_err(|error| Error::io(format!("cannot register image {id}"), error))?;
    sync_folder(&layout.images())?;
    sync_folder(&layout.making())?;
    crash::point("qemu.image-commit.after");
    clear(layout, disks)?;
    Ok(id)
}

/// Removes the scratch folders that the disks have left, once they hold nothing more.
fn clear(layout: &Layout, disks: &[ImageDisk]) -> Result<()> {
    for disk in disks {
        let folder = Path::new(&disk.id).parent().filter(|folder| folder.parent() == Some(&layout.making()));
        if let Some(folder) = folder
            && names_in(folder)?.iter().all(|name| name == TAGS)
        {
            remove_tree(folder)?;
        }
    }
    Ok(())
}

/// Moves a written disk into the folder of the image to be. One that an earlier call has moved is left alone.
fn move_in(layout: &Layout, disk: &ImageDisk, staging: &Path) -> Result<DiskFile> {
    let from = PathBuf::from(&disk.id);
    let operation = || format!("cannot register disk {}", disk.name);
    if !from.starts_with(layout.making()) {
        return Err(Error::new(Kind::Invalid, operation())
            .because(format!("{} is no scratch disk of this site", from.display())));
    }
    let format: Format = from.extension().and_then(|text| text.to_str()).unwrap_or_default().parse()?;
    let name = format!("{}.{format}", encode(disk.name.as_str()));
    let to = staging.join(&name);
    if from.exists() {
        if from != to {
            crash::point("qemu.disk-move.before");
            // the record of its leaves goes first: one without its disk says nothing
            let record = disk::leaves_path(&from);
            if record.exists() {
                fs::rename(record, disk::leaves_path(&to)).map_err(|error| Error::io(operation(), error))?;
            }
            fs::rename(&from, &to).map_err(|error| Error::io(operation(), error))?;
            sync_folder(staging)?;
            crash::point("qemu.disk-move.after");
        }
    } else if !to.exists() {
        return Err(Error::new(Kind::NotFound, operation()).because(format!("{} is gone", from.display())));
    }
    Ok(DiskFile { name: disk.name.clone(), path: PathBuf::from(name), format })
}

/// Deletes an image. Absent is success.
pub(super) fn delete(layout: &Layout, image: &ImageId, tags: &Tags) -> Result<()> {
    layout.discard(&folder(layout, image), tags, "image")
}

/// Copies a file with its holes: by reference where the file system can (instant), by the kernel otherwise. Whatever
/// was at `to` is replaced.
pub(super) fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let operation = || format!("cannot copy {} to {}", from.display(), to.display());
    let io = |error: std::io::Error| Error::io(operation(), error);
    let source = File::open(from).map_err(io)?;
    let target = File::create(to).map_err(io)?;
    if ioctl_ficlone(&target, &source).is_err() {
        let size = source.metadata().map_err(io)?.len();
        target.set_len(size).map_err(io)?;
        copy_data(&source, &target, size).map_err(io)?;
    }
    target.sync_all().map_err(io)
}

fn copy_data(source: &File, target: &File, size: u64) -> std::io::Result<()> {
    let mut at = 0;
    while at < size {
        let start = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break, // nothing but a hole
            Err(rustix::io::Errno::INVAL) => at,   // no holes on this file system
            Err(error) => return Err(error.into()),
        };
        let end = seek(source, SeekFrom::Hole(start)).unwrap_or(size);
        copy_range(source, target, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> std::io::Result<()> {
    let mut at = start;
    while at < end {
        let (mut from, mut to) = (at, at);
        let length = usize::try_from((end - at).min(1 << 30)).unwrap_or(1 << 30);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => at += copied as u64,
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::NOSYS
                | rustix::io::Errno::OPNOTSUPP,
            ) => {
                return copy_by_hand(source, target, at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, start: u64, end: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let length = usize::try_from((end - at).min(1 << 20)).unwrap_or(1 << 20);
        source.read_exact_at(&mut buffer[..length], at)?;
        target.write_all_at(&buffer[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        fs::write(&to, b"what was there before and is longer than nothing").unwrap();
        copy_file(&from, &to).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "holes are kept");
    }
}
