//! A volume's file made of a snapshot's blocks, and a snapshot's blocks made of a volume's file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};

use super::blocks::{Blocks, zero};
use super::maps::{Block, Map};
use super::{BLOCK, GIB, PAGE, is_zero};

/// Makes a volume's file. Ranges that the snapshot lacks are holes, or hold `pattern`.
pub(crate) fn create(path: &Path, size: u64, map: &Map, blocks: &Blocks, pattern: Option<u8>) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.set_len(size)?;
    for (index, block) in map {
        if block.hash != zero() {
            write_sparse(&file, u64::from(*index) * BLOCK as u64, &blocks.read(&block.hash)?)?;
        }
    }
    if let Some(byte) = pattern {
        // a page of each block is enough for a reader who takes it for zeroes to find out
        let fill = [byte; PAGE];
        for index in 0..(size / BLOCK as u64) as u32 {
            if !map.contains_key(&index) {
                file.write_all_at(&fill, u64::from(index) * BLOCK as u64)?;
            }
        }
    }
    Ok(())
}

fn write_sparse(file: &File, start: u64, bytes: &[u8]) -> std::io::Result<()> {
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if !is_zero(page) {
            file.write_all_at(page, start + (number * PAGE) as u64)?;
        }
    }
    Ok(())
}

/// The blocks of a volume as it is now, each held once for the caller. Blocks that equal the `before` snapshot's are
/// that one's; what has become zero since is a block of zeroes.
pub(crate) fn read(path: &Path, before: &Map, writer: u64, blocks: &Blocks) -> std::io::Result<Map> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut map = Map::new();
    let mut buffer = vec![0; BLOCK];
    let mut take = |index: u32, map: &mut Map| -> std::io::Result<()> {
        let start = u64::from(index) * BLOCK as u64;
        let length = (size - start).min(BLOCK as u64) as usize;
        buffer.fill(0);
        file.read_exact_at(&mut buffer[..length], start)?;
        let hash = super::hash(&buffer);
        let old = before.get(&index);
        if hash == zero() && old.is_none() {
            return Ok(());
        }
        match old {
            Some(old) if old.hash == hash => map.insert(index, *old),
            _ => map.insert(index, Block { hash, writer }),
        };
        // put also where it is known: its snapshot may be deleted while we read
        blocks.put(hash, &buffer)
    };
    let mut at = 0;
    while at < size {
        // the end of the data is ENXIO, which is no error here
        let Ok(data) = seek(&file, SeekFrom::Data(at)) else { break };
        let end = seek(&file, SeekFrom::Hole(data))?.min(size);
        let first = (data / BLOCK as u64) as u32;
        for index in first..end.div_ceil(BLOCK as u64) as u32 {
            if !map.contains_key(&index) {
                take(index, &mut map)?;
            }
        }
        at = end;
    }
    for index in before.keys() {
        if u64::from(*index) * (BLOCK as u64) < size && !map.contains_key(index) {
            take(*index, &mut map)?;
        }
    }
    Ok(map)
}

/// Copies an image file's bytes to the start of a volume, holes left out.
pub(crate) fn import(image: &Path, volume: &Path) -> std::io::Result<()> {
    let source = File::open(image)?;
    let size = source.metadata()?.len();
    let gib = size.div_ceil(GIB).max(1);
    let target = File::create(volume)?;
    target.set_len(gib * GIB)?;
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    while at < size {
        let Ok(data) = seek(&source, SeekFrom::Data(at)) else { break };
        let end = seek(&source, SeekFrom::Hole(data))?.min(size);
        let mut offset = data;
        while offset < end {
            let length = (end - offset).min(BLOCK as u64) as usize;
            source.read_exact_at(&mut buffer[..length], offset)?;
            write_sparse(&target, offset, &buffer[..length])?;
            offset += length as u64;
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_becomes_blocks_and_a_volume_again() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = Blocks::open(folder.path().join("blocks")).unwrap();
        let (image, disk, copy) = (folder.path().join("image"), folder.path().join("disk"), folder.path().join("copy"));
        let mut bytes = vec![0; 5 * BLOCK];
        bytes[BLOCK..2 * BLOCK].fill(1);
        bytes[3 * BLOCK + 7] = 3;
        std::fs::write(&image, &bytes).unwrap();
        import(&image, &disk).unwrap();
        let first = read(&disk, &Map::new(), 1, &blocks).unwrap();
        assert_eq!(first.keys().copied().collect::<Vec<_>>(), [1, 3]);
        // block 1 becomes zero, block 3 stays, block 4 is new
        let file = File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&vec![0; BLOCK], BLOCK as u64).unwrap();
        file.write_all_at(&[9; 10], 4 * BLOCK as u64).unwrap();
        let second = read(&disk, &first, 2, &blocks).unwrap();
        assert_eq!(second[&1], Block { hash: zero(), writer: 2 });
        assert_eq!(second[&3], first[&3]);
        assert_eq!(second[&4].writer, 2);
        create(&copy, GIB, &second, &blocks, Some(0xa5)).unwrap();
        let start = |path: &Path| {
            let mut bytes = vec![0; 5 * BLOCK];
            File::open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let (made, wanted) = (start(&copy), start(&disk));
        assert!(made[BLOCK..2 * BLOCK] == wanted[BLOCK..2 * BLOCK] && made[3 * BLOCK..] == wanted[3 * BLOCK..]);
        assert_eq!(made[0], 0xa5, "what was never written is not zero");
    }
}
