//! A file that is written past the page cache where that can be: a disk that is restored is many times larger than what the host can
//! cache, would push out what its guests use, costs a copy of every byte, and is on its way only when it is synced. For a vault's packs
//! the same holds, and what is read back from them at once comes from the device.
//!
//! Who writes past the cache waits for the device, and hears of its errors at once. Durable is it after a sync, as everything else.

use std::fs::{File, OpenOptions};
use std::io::Result;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::pool::ALIGN;

/// A file, open in both ways. Ranges written in one way must not share a page with those of the other.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// The same file without the cache; none where the file system knows only the other way.
    direct: Option<File>,
    /// The file system opened it so, but does not write so.
    refused: AtomicBool,
}

impl Output {
    /// `file`, which lies at `path`.
    pub fn new(file: File, path: &Path) -> Self {
        let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
        Self { file, direct: direct.ok(), refused: AtomicBool::new(false) }
    }

    /// `file` with its cache alone: what is soon read again should still be there.
    pub(super) fn cached(file: File) -> Self {
        Self { file, direct: None, refused: AtomicBool::new(false) }
    }

    /// The file with its cache: for all that is small, and to sync both.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `data`: past the cache if address, length and place are multiples of [`ALIGN`](crate::ALIGN).
    /// Returns whether it is in the page cache.
    pub fn write(&self, data: &[u8], at: u64) -> Result<bool> {
        let fits = at.is_multiple_of(ALIGN as u64) && data.len().is_multiple_of(ALIGN);
        let fits = fits && data.as_ptr().align_offset(ALIGN) == 0 && !self.refused.load(Ordering::Relaxed);
        if let Some(direct) = self.direct.as_ref().filter(|_| fits) {
            match direct.write_all_at(data, at) {
                Ok(()) => return Ok(false),
                // a device with larger sectors, or the rest of a write that ended within one
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        self.file.write_all_at(data, at).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffer;

    #[test]
    fn what_fits_no_sector_is_written_the_other_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let output = Output::new(File::create_new(&path).unwrap(), &path);
        let mut aligned = Buffer::take(2 * ALIGN);
        aligned.as_mut().fill(1);
        let aligned = aligned.freeze();
        let direct = output.direct.is_some();
        assert_eq!(output.write(&aligned, 0).unwrap(), !direct);
        assert!(output.write(&aligned[1..ALIGN + 1], 2 * ALIGN as u64).unwrap(), "an address that is no multiple");
        assert!(output.write(&aligned[..512], 3 * ALIGN as u64).unwrap(), "a length that is none");
        assert_eq!(std::fs::read(&path).unwrap(), vec![1; 3 * ALIGN + 512]);
        if !direct {
            println!("SKIPPED: {} cannot be written past the page cache", path.display());
        }
    }

    #[test]
    fn who_opens_so_and_does_not_write_so_is_written_the_other_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut output = Output::new(File::create_new(&path).unwrap(), &path);
        // it opens, and answers EINVAL to whatever is no number
        output.direct = Some(File::options().write(true).open("/proc/self/oom_score_adj").unwrap());
        let mut data = Buffer::take(2 * ALIGN);
        data.as_mut().fill(b'x');
        let data = data.freeze();
        assert!(output.write(&data, 0).unwrap());
        assert!(output.refused.load(Ordering::Relaxed), "it is not asked again");
        assert!(output.write(&data, 2 * ALIGN as u64).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; 4 * ALIGN]);
    }
}
