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
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of a second-level table.
const ENTRIES: u64 = CLUSTER / 8;
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

pub(super) struct Qcow2 {
    size: u64,
    /// The next free cluster; 0 is the header.
    next: u64,
    l1: Vec<u64>,
    /// The table that is being filled: its index in the first table, its entries.
    open: Option<(usize, Vec<u64>)>,
}

fn encode(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

impl Qcow2 {
    fn new(size: u64) -> Self {
        let entries = size.div_ceil(CLUSTER * ENTRIES) as usize;
        Self { size, next: 1, l1: vec![0; entries], open: None }
    }

    fn allocate(&mut self, clusters: u64) -> u64 {
        let host = self.next * CLUSTER;
        self.next += clusters;
        host
    }

    fn place(&mut self, offset: u64, len: u64) -> Placed {
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

    fn close(&mut self) -> Option<(u64, Vec<u8>)> {
        let (index, entries) = self.open.take()?;
        let host = self.allocate(1);
        self.l1[index] = host | COPIED;
        Some((host, encode(&entries)))
    }

    fn seal(mut self, file: &File) -> std::io::Result<()> {
        if let Some((host, table)) = self.close() {
            file.write_all_at(&table, host)?;
        }
        let l1_host = self.allocate((self.l1.len() as u64 * 8).div_ceil(CLUSTER));
        file.write_all_at(&encode(&self.l1), l1_host)?;
        // the blocks count themselves and their table too
        let (mut blocks, mut tables) = (0, 0);
        loop {
            let total = self.next + blocks + tables;
            let wanted = (total.div_ceil(COUNTS), total.div_ceil(COUNTS).div_ceil(ENTRIES));
            if wanted == (blocks, tables) {
                break;
            }
            (blocks, tables) = wanted;
        }
        let table_host = self.allocate(tables);
        let blocks_host = self.allocate(blocks);
        let hosts: Vec<u64> = (0..blocks).map(|block| blocks_host + block * CLUSTER).collect();
        file.write_all_at(&encode(&hosts), table_host)?;
        for (block, host) in hosts.iter().enumerate() {
            let count = (self.next - block as u64 * COUNTS).min(COUNTS) as usize;
            file.write_all_at(&[0, 1].repeat(count), *host)?;
        }
        file.set_len(self.next * CLUSTER)?;
        file.sync_all()?;
        file.write_all_at(&self.header(l1_host, table_host, tables), 0)
    }

    fn header(&self, l1_host: u64, table_host: u64, tables: u64) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend(3u32.to_be_bytes());
        header.extend([0; 12]); // no backing file
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend([0; 4]); // no encryption
        header.extend((self.l1.len() as u32).to_be_bytes());
        header.extend(l1_host.to_be_bytes());
        header.extend(table_host.to_be_bytes());
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
