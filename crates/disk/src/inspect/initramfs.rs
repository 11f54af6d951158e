//! Which kernel modules an initramfs carries. It is a chain of cpio archives, each plain or compressed by itself, with zeroes between
//! them: microcode first, the rest behind.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};

/// Bytes that are unpacked, at most: a few KiB may claim to be many GiB.
const MOST: u64 = 1 << 30;
/// Modules that are listed, at most.
const MODULES: usize = 20_000;

/// The modules' names, `_` for `-`; and what could not be looked into.
pub(super) fn modules(file: impl Read) -> (BTreeSet<String>, Option<String>) {
    let mut names = BTreeSet::new();
    let mut input = BufReader::with_capacity(64 * 1024, file);
    let outcome = segments(&mut input, &mut names);
    let note = match outcome {
        Ok(None) => None,
        Ok(Some(packed)) => Some(format!("part of its initramfs is compressed by {packed}, which was not looked into")),
        Err(_) => Some("its initramfs cannot be read to its end".to_owned()),
    };
    (names, note)
}

fn segments(input: &mut impl BufRead, names: &mut BTreeSet<String>) -> io::Result<Option<&'static str>> {
    loop {
        while let Some(zeroes) =
            Some(input.fill_buf()?.iter().take_while(|byte| **byte == 0).count()).filter(|n| *n > 0)
        {
            input.consume(zeroes);
        }
        let head = input.fill_buf()?;
        if head.is_empty() {
            return Ok(None);
        }
        if head.starts_with(b"07070") {
            cpio(input, names)?;
            continue;
        }
        // what is compressed goes to the end of the file
        let mut unpacked: Box<dyn Read + '_> = match head {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
            [0xfd, b'7', b'z', ..] => return Ok(Some("xz")),
            [0x02, 0x21, 0x4c, 0x18, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => return Ok(Some("lz4")),
            [b'B', b'Z', b'h', ..] => return Ok(Some("bzip2")),
            [0x5d, 0, 0, ..] => return Ok(Some("lzma")),
            [0x89, b'L', b'Z', b'O', ..] => return Ok(Some("lzo")),
            _ => return Ok(Some("something unknown")),
        };
        let mut unpacked = BufReader::with_capacity(64 * 1024, unpacked.by_ref().take(MOST));
        loop {
            while let Some(zeroes) =
                Some(unpacked.fill_buf()?.iter().take_while(|byte| **byte == 0).count()).filter(|n| *n > 0)
            {
                unpacked.consume(zeroes);
            }
            if unpacked.fill_buf()?.is_empty() {
                return Ok(None);
            }
            cpio(&mut unpacked, names)?;
        }
    }
}

/// One archive of the `newc` form, up to its trailer.
fn cpio(input: &mut impl Read, names: &mut BTreeSet<String>) -> io::Result<()> {
    loop {
        let mut head = [0; 110];
        input.read_exact(&mut head)?;
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        if !matches!(&head[..6], b"070701" | b"070702") {
            return Err(bad());
        }
        let field = |index: usize| {
            let text = std::str::from_utf8(&head[6 + index * 8..14 + index * 8]).ok()?;
            u32::from_str_radix(text, 16).ok()
        };
        let (size, len) = (field(6).ok_or_else(bad)?, field(11).ok_or_else(bad)?);
        if len == 0 || len > 4096 {
            return Err(bad());
        }
        let mut name = vec![0; (110 + len as usize).next_multiple_of(4) - 110];
        input.read_exact(&mut name)?;
        let name = String::from_utf8_lossy(&name[..len as usize - 1]).into_owned();
        if name == "TRAILER!!!" {
            return Ok(());
        }
        let skip = u64::from(size).next_multiple_of(4);
        if io::copy(&mut input.take(skip), &mut io::sink())? != skip {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(module) = module(&name).filter(|_| names.len() < MODULES) {
            names.insert(module);
        }
    }
}

/// The module that a file is: `kernel/drivers/block/virtio_blk.ko.xz`.
pub(super) fn module(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, end) = file.split_once(".ko")?;
    matches!(end, "" | ".xz" | ".gz" | ".zst").then(|| name.replace('-', "_"))
}
