//! A qcow2 file that is sent from front to back while its data arrives: by what is known of the disk beforehand.
//!
//! The header comes first and names where the tables behind the data lie, so how much data there will be must be known to
//! begin with. A bound does: data that turns out to be zero, or did not come, leaves clusters of zeroes between the rest and
//! the tables, which are sent and belong to nothing.

use bytes::Bytes;
use model::{Change, Error, ExtentList, Kind, Result};

use super::layout::{CLUSTER, ENTRIES, Qcow2, Tail};

/// What is known of a disk before its data arrives.
#[derive(Debug, Clone)]
pub struct Qcow2Plan {
    size: u64,
    clusters: u64,
    tables: u64,
    /// The second-level table of the last cluster that was counted.
    table: Option<u64>,
}

impl Qcow2Plan {
    /// A disk of `size` bytes of which nothing is known to be data.
    pub fn new(size: u64) -> Self {
        Self { size, clusters: 0, tables: 0, table: None }
    }

    /// Counts what is data in a list of extents. Lists may say the same twice: what is too much costs its bytes, and no more.
    pub fn add(&mut self, extents: &ExtentList) {
        for extent in extents.as_slice().iter().filter(|extent| extent.change == Change::Data) {
            let (first, end) = (extent.offset / CLUSTER, extent.end().div_ceil(CLUSTER));
            self.clusters += end - first;
            let last = (end - 1) / ENTRIES;
            self.tables += last - first / ENTRIES + u64::from(self.table != Some(first / ENTRIES));
            self.table = Some(last);
        }
    }
}

/// A qcow2 file on its way. [`head`](Self::head) goes first; then, for each piece of data, what [`place`](Self::place)
/// answers and the data, filled up to a whole cluster; at last [`end`](Self::end).
pub struct Qcow2Stream {
    layout: Qcow2,
    tail: Tail,
}

impl Qcow2Stream {
    /// A file for the data that a plan has counted.
    pub fn new(plan: &Qcow2Plan) -> Self {
        let layout = Qcow2::new(plan.size);
        let clusters = plan.clusters.min(plan.size.div_ceil(CLUSTER));
        let tables = plan.tables.min(layout.l1.len() as u64);
        let tail = layout.tail(layout.next + clusters + tables);
        Self { layout, tail }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.tail.end * CLUSTER
    }

    /// What the file begins with.
    pub fn head(&self) -> Bytes {
        whole(self.layout.header(&self.tail))
    }

    /// Makes room for data of at most one second-level table, of whole clusters and in ascending order. Answers the table that goes
    /// before it, if there is one.
    pub fn place(&mut self, offset: u64, len: u64) -> Result<Option<Bytes>> {
        let placed = self.layout.place(offset, len);
        if self.layout.next > self.tail.begin {
            return Err(Error::new(Kind::Permanent, "cannot lay out a qcow2 file")
                .because(format!("{len} bytes at {offset} were not listed beforehand")));
        }
        Ok(placed.table.map(|(_, table)| whole(table)))
    }

    /// What the file ends with: a last table, so many zeroes, and what lies behind the data.
    pub fn end(mut self) -> (Option<Bytes>, u64, impl Iterator<Item = Bytes>) {
        let table = self.layout.close().map(|(_, table)| whole(table));
        let zeroes = self.tail.begin.saturating_sub(self.layout.next) * CLUSTER;
        let tables = self.layout.tables(&self.tail).map(|(_, table)| whole(table));
        (table, zeroes, tables)
    }
}

/// Filled up to whole clusters.
fn whole(mut bytes: Vec<u8>) -> Bytes {
    bytes.resize(bytes.len().next_multiple_of(CLUSTER as usize), 0);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use model::Extent;

    use super::*;
    use crate::{Format, open_file};

    /// The file of a disk whose data is in `data`, of which `told` was said beforehand.
    fn file(size: u64, told: &[Extent], data: &[Extent]) -> Vec<u8> {
        let mut plan = Qcow2Plan::new(size);
        for extent in told {
            plan.add(&[*extent].into_iter().collect());
        }
        let mut stream = Qcow2Stream::new(&plan);
        let len = stream.bytes();
        let mut file = stream.head().to_vec();
        for extent in data {
            file.extend(stream.place(extent.offset, extent.len).unwrap().into_iter().flatten());
            file.extend(content(extent.offset, extent.len));
            file.resize(file.len().next_multiple_of(CLUSTER as usize), 0);
        }
        let (table, zeroes, tables) = stream.end();
        file.extend(table.into_iter().flatten());
        file.resize(file.len() + zeroes as usize, 0);
        file.extend(tables.flatten());
        assert_eq!(file.len() as u64, len);
        file
    }

    fn content(offset: u64, len: u64) -> Vec<u8> {
        (0..len).map(|at| ((offset + at) / 512 % 251) as u8 | 1).collect()
    }

    #[tokio::test]
    async fn a_file_that_was_sent_in_order_holds_the_disk() {
        let table = CLUSTER * ENTRIES;
        let size = 2 * table + 3 * CLUSTER + 512;
        let data = [
            Extent::data(0, 2 * CLUSTER),
            Extent::data(table - CLUSTER, CLUSTER),
            Extent::data(table, CLUSTER),
            Extent::data(2 * table + CLUSTER, CLUSTER),
            Extent::data(2 * table + 3 * CLUSTER, 512),
        ];
        let more = [Extent::data(5 * CLUSTER, 7 * CLUSTER), Extent::zero(table + CLUSTER, table - CLUSTER)];
        for told in [data.to_vec(), [&data[..1], &more, &data[1..]].concat(), vec![Extent::data(0, 80 * CLUSTER); 3]] {
            let arrived = if told.len() == 3 { &data[..1] } else { &data[..] };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("disk");
            std::fs::write(&path, file(size, &told, arrived)).unwrap();
            let reader = open_file(&path, Format::Qcow2).await.unwrap();
            assert_eq!(reader.size(), size);
            let listed: Vec<Extent> = reader.extents(0).await.unwrap().as_slice().to_vec();
            let listed: u64 =
                listed.iter().filter(|extent| extent.change == Change::Data).map(|extent| extent.len).sum();
            assert_eq!(listed, arrived.iter().map(|extent| extent.len).sum::<u64>());
            for extent in arrived {
                let read = reader.read_at(extent.offset, extent.len as usize).await.unwrap();
                assert!(read == content(extent.offset, extent.len), "{extent:?}");
            }
            match std::process::Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&path).output() {
                Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout)),
                Err(error) => println!("SKIPPED: qemu-img cannot be run: {error}"),
            }
        }
    }

    #[test]
    fn what_was_not_told_beforehand_is_refused() {
        let mut plan = Qcow2Plan::new(100 * CLUSTER);
        plan.add(&[Extent::data(0, 2 * CLUSTER)].into_iter().collect());
        let mut stream = Qcow2Stream::new(&plan);
        stream.place(0, 2 * CLUSTER).unwrap();
        // the table is part of the room
        stream.place(2 * CLUSTER, CLUSTER).unwrap();
        assert_eq!(stream.place(3 * CLUSTER, CLUSTER).unwrap_err().kind(), Kind::Permanent);
    }
}
