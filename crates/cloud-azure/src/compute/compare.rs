//! Whether two disks at the provider hold the same, without reading them: what is written where is listed at both ends,
//! ranges of which one end says that nothing is there are read and must be zero, and of the rest a sample is read.

use std::collections::VecDeque;

use bytes::Bytes;
use disk::{DiskRead, LEAF, is_zero};
use model::{Change, Error, Extent, Kind, Result};

/// Of what is written one leaf of so many is read, ...
const SAMPLE: u64 = 128;
/// ... and so many of a disk at most, which are 16 MiB.
const MOST: u64 = 256;

/// How far apart the leaves are that are read of a disk of `size` bytes.
pub(super) fn stride(size: u64) -> u64 {
    (size.div_ceil(LEAF) / MOST).max(SAMPLE)
}

/// What a disk's listing says, extent by extent.
struct Listing<'a> {
    reader: &'a dyn DiskRead,
    listed: VecDeque<Extent>,
    /// Everything before it was taken.
    at: u64,
}

impl Listing<'_> {
    /// What is at the place that was reached: whether something was written there, and where that ends.
    async fn here(&mut self) -> Result<(bool, u64)> {
        loop {
            if let Some(first) = self.listed.front() {
                if first.end() > self.at {
                    return Ok((first.change == Change::Data, first.end()));
                }
                self.listed.pop_front();
                continue;
            }
            self.listed.extend(self.reader.extents(self.at).await?.as_slice());
            if self.listed.back().is_none_or(|last| last.end() <= self.at) {
                return Err(Error::new(Kind::Damaged, format!("cannot read {}", self.reader.describe()))
                    .because(format!("it does not list bytes from {}", self.at)));
            }
        }
    }
}

/// Compares. Answers how many leaves of the sample were equal; [`Kind::Damaged`] if the two differ.
pub(super) async fn equal(one: &dyn DiskRead, two: &dyn DiskRead) -> Result<u64> {
    let differ = |at: u64| {
        Error::new(Kind::Damaged, format!("{} is no copy of {}", two.describe(), one.describe()))
            .because(format!("bytes at {at} differ"))
    };
    if one.size() != two.size() {
        return Err(differ(one.size().min(two.size())));
    }
    let stride = stride(one.size());
    let phase = rand::random_range(0..stride);
    let listing = |reader| Listing { reader, listed: VecDeque::new(), at: 0 };
    let (mut first, mut second) = (listing(one), listing(two));
    let (mut at, mut read) = (0, 0);
    while at < one.size() {
        let ((here, end), (there, other)) = (first.here().await?, second.here().await?);
        let end = end.min(other).min(one.size());
        match (here, there) {
            (false, false) => {}
            (true, true) => {
                for index in (at / LEAF..end.div_ceil(LEAF)).filter(|index| index % stride == phase) {
                    let (from, to) = ((index * LEAF).max(at), ((index + 1) * LEAF).min(end));
                    if bytes(one, from, to).await? != bytes(two, from, to).await? {
                        return Err(differ(from));
                    }
                    read += 1;
                }
            }
            // zeroes that were written may be told as nothing
            _ => {
                let reader = if here { one } else { two };
                for from in (at..end).step_by(LEAF as usize) {
                    if !is_zero(&bytes(reader, from, end.min(from + LEAF)).await?) {
                        return Err(differ(from));
                    }
                }
            }
        }
        (at, first.at, second.at) = (end, end, end);
    }
    Ok(read)
}

async fn bytes(reader: &dyn DiskRead, from: u64, to: u64) -> Result<Bytes> {
    reader.read_at(from, (to - from) as usize).await
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use model::ExtentList;

    use super::*;

    /// A disk whose listing says of every 64 KiB whether it was written.
    struct Told(Vec<u8>, Vec<bool>);

    #[async_trait]
    impl DiskRead for Told {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        async fn extents(&self, from: u64) -> Result<ExtentList> {
            let index = from / LEAF;
            let len = LEAF.min(self.size() - index * LEAF);
            let data = self.1[index as usize];
            let extent = if data { Extent::data(index * LEAF, len) } else { Extent::zero(index * LEAF, len) };
            Ok([extent].into_iter().collect())
        }

        async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
            Ok(Bytes::copy_from_slice(&self.0[offset as usize..offset as usize + len]))
        }

        fn describe(&self) -> String {
            "a disk".to_owned()
        }
    }

    #[tokio::test]
    async fn what_differs_is_found() {
        const LEAVES: usize = 300;
        let mut bytes = vec![7_u8; LEAVES * LEAF as usize];
        bytes[LEAF as usize..2 * LEAF as usize].fill(0);
        let written = vec![true; LEAVES];
        let mut holes = written.clone();
        holes[1] = false;
        let (one, two) = (Told(bytes.clone(), written.clone()), Told(bytes.clone(), holes.clone()));
        assert!(equal(&one, &two).await.unwrap() >= 2);
        // a hole where there are bytes
        holes[5] = false;
        assert_eq!(equal(&one, &Told(bytes.clone(), holes)).await.unwrap_err().kind(), Kind::Damaged);
        // all other bytes: whatever the sample is
        let other = Told(bytes.iter().map(|byte| byte ^ 1).collect(), written);
        assert_eq!(equal(&one, &other).await.unwrap_err().kind(), Kind::Damaged);
        assert_eq!(equal(&one, &Told(vec![7; LEAF as usize], vec![true])).await.unwrap_err().kind(), Kind::Damaged);
    }
}
