//! What lies where in a file that is written from front to back.
//!
//! The qcow2 files are plain: version 3, clusters of 64 KiB (one leaf), 16-bit reference counts that are all 1,
//! no holes in the numbering. Data and second-level tables come in the order of the guest's addresses, then the
//! first table, the reference counts and at last, after a sync, the header: a file without its end is no qcow2 file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::super::Format;
use super::super::qcow2::MAGIC;

const CLUSTER_BITS: u32 = 16;
pub(super) const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of a second-level table.
pub(super) const ENTRIES: u64 = CLUSTER / 8;
/// Reference counts in a block.
const COUNTS: u64 = CLUSTER / 2;
/// The reference count is 1: the cluster may be written in place.
const COPIED: u64 = 1 << 63;

/// Where data goes.
pub(super) struct Placed {
    pub(super) host: u64,
    /// A table that is full now, and where it goes.
    pub(super) table: Option<(u64, Vec<u8>)>,
}

/// The layout of a file.
pub(super) enum Layout {
    Raw { size: u64, is_device: bool },
    Qcow2(Box<Qcow2>),
}

impl Layout {
    pub(super) fn new(format: Format, size: u64, is_device: bool) -> Self {
        match format {
            Format::Raw => Layout::Raw { size, is_device },
            Format::Qcow2 => Layout::Qcow2(Box::new(Qcow2::new(size))),
        }
    }

    /// A place for data of at most the guest's next table; ranges come in ascending order.
    pub(super) fn place(&mut self, offset: u64, len: u64) -> Placed {
        match self {
            Layout::Raw { .. } => Placed { host: offset, table: None },
            Layout::Qcow2(qcow2) => qcow2.place(offset, len),
        }
    }

    /// Writes what is not data. The file must be synced after.
    pub(super) fn seal(self, file: &File) -> std::io::Result<()> {
        match self {
            Layout::Raw { is_device: true, .. } => Ok(()),
            Layout::Raw { size, .. } => file.set_len(size),
            Layout::Qcow2(qcow2) => qcow2.seal(file),
        }
    }
}

/// What lies behind the data, in clusters: from `begin` the first table, from `counts` the table of the blocks of reference counts,
/// from `blocks` these.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) begin: u64,
    counts: u64,
    blocks: u64,
    pub(super) end: u64,
}

pub(super) struct Qcow2 {
    size: u64,
    /// The next free cluster; 0 is the header.
    pub(super) next: u64,
    pub(super) l1: Vec<u64>,
    /// The table that is being filled: its index in the first table, its entries.
    open: Option<(usize, Vec<u64>)>,
}

fn encode(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

impl Qcow2 {
    pub(super) fn new(size: u64) -> Self {
        let entries = size.div_ceil(CLUSTER * ENTRIES) as usize;
        Self { size, next: 1, l1: vec![0; entries], open: None }
    }

    fn allocate(&mut self, clusters: u64) -> u64 {
        let host = self.next * CLUSTER;
        self.next += clusters;
        host
    }

    pub(super) fn place(&mut self, offset: u64, len: u64) -> Placed {
        let index = (offset / (CLUSTER * ENTRIES)) as usize;
        let table = match &self.open {
            Some((open, _)) if *open != index => self.close(),
            _ => None,
        };
        let clusters = len.div_ceil(CLUSTER);
        let host = self.allocate(clusters);
        let (_, entries) = self.open.get_or_insert_with(|| (index, vec![0; ENTRIES as usize]));
        let first = (offset / CLUSTER % ENTRIES) as usize;
        for (nth, entry) in entries[first..].iter_mut().take(clusters as usize).enumerate() {
            *entry = (host + nth as u64 * CLUSTER) | COPIED;
        }
        Placed { host, table }
    }

    pub(super) fn close(&mut self) -> Option<(u64, Vec<u8>)> {
        let (index, entries) = self.open.take()?;
        let host = self.allocate(1);
        self.l1[index] = host | COPIED;
        Some((host, encode(&entries)))
    }

    fn seal(mut self, file: &File) -> std::io::Result<()> {
        if let Some((host, table)) = self.close() {
            file.write_all_at(&table, host)?;
        }
        let tail = self.tail(self.next);
        for (host, table) in self.tables(&tail) {
            file.write_all_at(&table, host)?;
        }
        file.set_len(tail.end * CLUSTER)?;
        file.sync_all()?;
        file.write_all_at(&self.header(&tail), 0)
    }

    /// What lies behind the data, if that is `begin`, and how much of it there will be.
    pub(super) fn tail(&self, begin: u64) -> Tail {
        let counts = begin + (self.l1.len() as u64 * 8).div_ceil(CLUSTER);
        // the blocks count themselves and their table too
        let (mut blocks, mut tables) = (0, 0);
        loop {
            let total = counts + blocks + tables;
            let wanted = (total.div_ceil(COUNTS), total.div_ceil(COUNTS).div_ceil(ENTRIES));
            if wanted == (blocks, tables) {
                break;
            }
            (blocks, tables) = wanted;
        }
        Tail { begin, counts, blocks: counts + tables, end: counts + tables + blocks }
    }

    /// The tables behind the data in order, and where they go: the first table, that of the blocks of reference counts, and these.
    pub(super) fn tables(&self, tail: &Tail) -> impl Iterator<Item = (u64, Vec<u8>)> + use<> {
        let Tail { begin, counts, blocks, end } = *tail;
        let hosts: Vec<u64> = (blocks..end).map(|block| block * CLUSTER).collect();
        let tables = [(begin * CLUSTER, encode(&self.l1)), (counts * CLUSTER, encode(&hosts))];
        let used = self.next;
        let blocks = hosts.into_iter().enumerate().map(move |(block, host)| {
            let first = block as u64 * COUNTS;
            let count = |cluster: u64| u16::from(cluster < used || (begin..end).contains(&cluster));
            (host, (first..first + COUNTS).flat_map(|cluster| count(cluster).to_be_bytes()).collect())
        });
        tables.into_iter().chain(blocks)
    }

    pub(super) fn header(&self, tail: &Tail) -> Vec<u8> {
        let tables = tail.blocks - tail.counts;
        let mut header = MAGIC.to_vec();
        header.extend(3u32.to_be_bytes());
        header.extend([0; 12]); // no backing file
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend([0; 4]); // no encryption
        header.extend((self.l1.len() as u32).to_be_bytes());
        header.extend((tail.begin * CLUSTER).to_be_bytes());
        header.extend((tail.counts * CLUSTER).to_be_bytes());
        header.extend((tables as u32).to_be_bytes());
        header.extend([0; 4 + 8]); // no snapshots
        header.extend([0; 3 * 8]); // no features
        header.extend(4u32.to_be_bytes()); // reference counts of 16 bits
        header.extend(104u32.to_be_bytes());
        header.extend([0; 8]); // end of extensions
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn be64(file: &File, at: u64) -> u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    }

    /// Seals a file with this many clusters of data (holes, so it costs nothing) and counts references by the tables.
    fn counts(data: u64) -> (Vec<u16>, u64) {
        let file = tempfile::tempfile().unwrap();
        let mut layout = Layout::new(Format::Qcow2, data * CLUSTER, false);
        for offset in (0..data).map(|cluster| cluster * CLUSTER) {
            if let Some((host, table)) = layout.place(offset, CLUSTER).table {
                file.write_all_at(&table, host).unwrap();
            }
        }
        layout.seal(&file).unwrap();
        let (table, tables) = (be64(&file, 48), be64(&file, 56) >> 32);
        let mut counts = Vec::new();
        for block in (0..tables * ENTRIES).map(|entry| be64(&file, table + entry * 8)).take_while(|host| *host != 0) {
            let mut bytes = vec![0; CLUSTER as usize];
            file.read_exact_at(&mut bytes, block).unwrap();
            counts.extend(bytes.as_chunks::<2>().0.iter().map(|count| u16::from_be_bytes(*count)));
        }
        (counts, file.metadata().unwrap().len())
    }

    #[test]
    fn every_cluster_of_the_file_is_counted_once_and_no_other() {
        // around one, two and three blocks of reference counts: where they begin to count themselves
        for data in [1, 5, COUNTS - 12, COUNTS - 9, COUNTS - 8, COUNTS - 7, COUNTS, 2 * COUNTS - 15, 2 * COUNTS, 90_000]
        {
            let (counts, len) = counts(data);
            let used = (len / CLUSTER) as usize;
            assert_eq!(len % CLUSTER, 0);
            assert!(counts.len() >= used && counts.len() - used <= COUNTS as usize, "{data}");
            assert!(counts[..used].iter().all(|count| *count == 1), "{data}");
            assert!(counts[used..].iter().all(|count| *count == 0), "{data}");
            // data, tables, first table, header, counts and nothing else
            let tables = data.div_ceil(ENTRIES);
            assert_eq!(used as u64, data + tables + 1 + 1 + (counts.len() as u64 / COUNTS) + 1);
        }
    }
}
