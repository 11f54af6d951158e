//! The leaves of a disk that is being written, in their order: what each is, or that it is as the base has it. From them
//! come the disk's root, and the record for the next update. What is sent of them, and how, is the provider's.
//!
//! A writer that is dropped leaves no record.

use std::path::PathBuf;

use disk::{LEAF, Leaf, RootBuilder, zero_leaf};
use model::{DiskRoot, Error, Kind, Result};

use crate::records::{Noted, Record, RecordWriter};

/// The leaves of a disk, as far as they are known.
#[derive(Debug)]
pub struct InOrder {
    size: u64,
    base: Option<Record>,
    /// The first that nothing is known of yet.
    next: u64,
    root: RootBuilder,
    record: RecordWriter,
}

impl InOrder {
    /// Of a disk of `size` bytes, whose record is to be at `path`.
    pub async fn begin(path: PathBuf, size: u64, base: Option<Record>) -> Result<Self> {
        let record = RecordWriter::create(path, size).await?;
        Ok(Self { size, base, next: 0, root: RootBuilder::new(size), record })
    }

    /// The disk's size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many leaves there are.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(LEAF)
    }

    /// The first leaf that nothing is known of yet.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether it is written over anything.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// Refuses bytes that come out of order, lie behind the end or are no whole leaves.
    pub fn check(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let whole = |at: u64| at.is_multiple_of(LEAF) || at == self.size;
        if end.is_some_and(|end| offset / LEAF >= self.next && whole(offset) && whole(end)) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, "cannot take what comes next")
            .because(format!("{len} bytes at {offset} come out of order, are behind the end or no whole leaves")))
    }

    /// A leaf of the base; zero without one.
    pub fn of_base(&self, index: u64) -> Result<Noted> {
        self.base.as_ref().map_or_else(|| Ok(Noted::zero()), |base| base.noted(index))
    }

    /// Whether the base has this leaf there.
    pub fn has(&self, index: u64, leaf: &Leaf) -> bool {
        self.base.as_ref().is_some_and(|base| base.leaf(index).is_ok_and(|known| known == *leaf))
    }

    /// Whether the next leaf is one that is there before anything is written: the base's, or zero without one.
    pub fn is_there(&self, leaf: &Leaf) -> Result<bool> {
        Ok(self.of_base(self.next)?.leaf == *leaf)
    }

    /// What the next leaf is.
    pub fn note(&mut self, noted: &Noted) -> Result<()> {
        if noted.leaf != zero_leaf() {
            self.root.push(self.next, noted.leaf);
        }
        self.next += 1;
        self.record.push(noted)
    }

    /// The next leaf is as the base has it. Answers which that is.
    pub fn keep(&mut self) -> Result<Noted> {
        let noted = self.of_base(self.next)?;
        self.note(&noted)?;
        Ok(noted)
    }

    /// Nothing arrives before this leaf: all up to it is as the base has it.
    pub fn skip_to(&mut self, index: u64) -> Result<()> {
        while self.next < index {
            self.keep()?;
        }
        Ok(())
    }

    /// The disk's root; its record is in its place.
    pub async fn finish(self) -> Result<DiskRoot> {
        let root = self.root.finish();
        self.record.finish().await?;
        Ok(root)
    }

    /// The same, with the record in another place of the same folder, which the root names.
    pub async fn finish_at(self, place: impl FnOnce(&DiskRoot) -> PathBuf) -> Result<DiskRoot> {
        let root = self.root.finish();
        self.record.finish_as(place(&root)).await?;
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::records;

    async fn leaf(byte: u8) -> Noted {
        records::noted(Bytes::from(vec![byte; LEAF as usize])).await.unwrap()[0]
    }

    #[tokio::test]
    async fn what_nobody_writes_is_the_bases() {
        let folder = tempfile::tempdir().unwrap();
        let (path, size) = (folder.path().join("one"), 4 * LEAF);
        let mut first = InOrder::begin(path.clone(), size, None).await.unwrap();
        for byte in [1, 0, 3, 4] {
            first.note(&leaf(byte).await).unwrap();
        }
        let root = first.finish().await.unwrap();
        let base = Record::open(path.clone(), size).await;
        let mut second = InOrder::begin(folder.path().join("two"), size, base).await.unwrap();
        assert!(second.has(2, &leaf(3).await.leaf) && second.is_there(&leaf(1).await.leaf).unwrap());
        second.skip_to(1).unwrap();
        assert!(second.check(0, LEAF).is_err() && second.check(LEAF, 512).is_err());
        assert!(second.check(LEAF, 3 * LEAF).is_ok() && second.check(LEAF, 4 * LEAF).is_err());
        second.note(&leaf(9).await).unwrap();
        assert_eq!(second.keep().unwrap(), leaf(3).await);
        second.skip_to(second.count()).unwrap();
        let changed = second.finish_at(|_| folder.path().join("by-root")).await.unwrap();
        assert_ne!(changed, root);
        let record = Record::open(folder.path().join("by-root"), size).await.unwrap();
        assert_eq!(record.noted(1).unwrap(), leaf(9).await);
        assert!(!folder.path().join("two").exists());
    }
}
