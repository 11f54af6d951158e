//! Transfers against a model of the disk: a `Vec<u8>`.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use model::ExtentList;
use proptest::prelude::*;

use super::*;
use crate::{RootBuilder, Silent};

/// A disk in memory with a list of extents to tell, a few per page.
struct Model {
    bytes: Vec<u8>,
    extents: Vec<Extent>,
    incremental: bool,
    lists_holes: bool,
    in_flight: u64,
    fail_at: Option<u64>,
    read: AtomicU64,
}

impl Model {
    fn full(bytes: Vec<u8>) -> Self {
        let extents = vec![Extent::data(0, bytes.len() as u64)];
        Self {
            bytes,
            extents,
            incremental: false,
            lists_holes: false,
            in_flight: 32 << 20,
            fail_at: None,
            read: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl DiskRead for Model {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    async fn extents(&self, from: u64) -> Result<ExtentList> {
        Ok(self.extents.iter().filter(|e| e.offset >= from).take(3).copied().collect())
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        // later reads answer sooner: order must not depend on it
        tokio::time::sleep(Duration::from_micros(200 - offset % 199)).await;
        if self.fail_at.is_some_and(|at| (offset..offset + len as u64).contains(&at)) {
            return Err(Error::new(Kind::Damaged, "cannot read the model"));
        }
        self.read.fetch_add(len as u64, SeqCst);
        Ok(Bytes::copy_from_slice(&self.bytes[offset as usize..offset as usize + len]))
    }
    async fn conclude(&self) -> Result<()> {
        match self.fail_at {
            Some(at) if at == self.size() => Err(Error::new(Kind::Damaged, "cannot read the model: another sum")),
            _ => Ok(()),
        }
    }
    fn is_incremental(&self) -> bool {
        self.incremental
    }
    fn lists_holes(&self) -> bool {
        self.lists_holes
    }
    fn in_flight(&self) -> u64 {
        self.in_flight
    }
    fn describe(&self) -> String {
        "the model".into()
    }
}

#[derive(Default)]
struct Seen {
    bytes: Mutex<Vec<u8>>,
    /// (offset, length, zero)
    calls: Mutex<Vec<(u64, u64, bool)>>,
    /// What was announced; none if nothing was.
    told: Mutex<Option<Vec<Extent>>>,
    finished: AtomicBool,
    dropped: AtomicBool,
}

/// Applies what arrives to the base that it was given, and holds the transfer to its promises.
struct Taker {
    seen: Arc<Seen>,
    size: u64,
    next: u64,
    knows: bool,
    fail_after: Option<u32>,
    slow: bool,
}

impl Taker {
    fn on(base: Vec<u8>) -> (Self, Arc<Seen>) {
        let size = base.len() as u64;
        let seen = Arc::new(Seen { bytes: Mutex::new(base), ..Seen::default() });
        (Self { seen: seen.clone(), size, next: 0, knows: false, fail_after: None, slow: false }, seen)
    }

    fn check(&mut self, offset: u64, len: u64, zero: bool) -> Result<()> {
        assert!(offset >= self.next && len > 0, "ascending, each byte once");
        assert!(offset.is_multiple_of(LEAF));
        assert!((offset + len).is_multiple_of(LEAF) || offset + len == self.size);
        self.next = offset + len;
        self.seen.calls.lock().unwrap().push((offset, len, zero));
        match &mut self.fail_after {
            Some(0) => Err(Error::new(Kind::Quota, "cannot write the model")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.seen.dropped.store(true, SeqCst);
    }
}

#[async_trait]
impl DiskWrite for Taker {
    fn size(&self) -> u64 {
        self.size
    }
    fn wants_extents(&self) -> bool {
        true
    }
    async fn announce(&mut self, extents: &ExtentList) -> Result<()> {
        assert_eq!(self.next, 0, "before the first range");
        self.seen.told.lock().unwrap().get_or_insert_default().extend(extents.as_slice());
        Ok(())
    }
    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        if let Some(told) = &*self.seen.told.lock().unwrap() {
            let is_data = |at| told.iter().any(|e| e.change == Change::Data && (e.offset..e.end()).contains(&at));
            assert!((offset..offset + data.len() as u64).step_by(LEAF as usize).all(is_data), "{offset} was not told");
        }
        if self.slow {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(data.len() as u64 <= CHUNK);
        self.check(offset, data.len() as u64, false)?;
        self.seen.bytes.lock().unwrap()[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
        Ok(())
    }
    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len, true)?;
        self.seen.bytes.lock().unwrap()[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }
    fn has_leaf(&self, index: u64, wanted: &Leaf) -> bool {
        let bytes = self.seen.bytes.lock().unwrap();
        let from = (index * LEAF) as usize;
        self.knows && leaf(&bytes[from..bytes.len().min(from + LEAF as usize)]) == *wanted
    }
    fn may_have_leaves(&self) -> bool {
        self.knows
    }
    async fn finish(self: Box<Self>) -> Result<Written> {
        self.seen.finished.store(true, SeqCst);
        let root = root_of(&self.seen.bytes.lock().unwrap());
        Ok(Written { root, received: 0, fresh: 0, stored: 0 })
    }
}

fn root_of(bytes: &[u8]) -> model::DiskRoot {
    let mut builder = RootBuilder::new(bytes.len() as u64);
    for (index, chunk) in bytes.chunks(LEAF as usize).enumerate() {
        builder.push(index as u64, leaf(chunk));
    }
    builder.finish()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap().block_on(future)
}

fn boxed(writers: Vec<Taker>) -> Vec<Box<dyn DiskWrite>> {
    writers.into_iter().map(|w| Box::new(w) as Box<dyn DiskWrite>).collect()
}

/// Sectors of a disk: a run length and a byte (0 is a hole), and whether the run is listed as changed.
fn disk() -> impl Strategy<Value = Vec<(u16, u8, bool)>> {
    prop::collection::vec((1u16..2500, 0u8..3, any::<bool>()), 1..12)
}

/// The new disk, a base that differs from it exactly in the listed runs, and the list.
fn build(runs: &[(u16, u8, bool)], incremental: bool) -> (Model, Vec<u8>) {
    let (mut bytes, mut base, mut extents) = (Vec::new(), Vec::new(), Vec::new());
    for (sectors, value, listed) in runs {
        let (offset, len) = (bytes.len() as u64, u64::from(*sectors) * 512);
        bytes.resize(bytes.len() + len as usize, *value);
        let changed = *listed || !incremental;
        base.resize(bytes.len(), if changed { 9 } else { *value });
        if changed {
            extents.push(if *value == 0 { Extent::zero(offset, len) } else { Extent::data(offset, len) });
        }
    }
    (Model { extents, incremental, ..Model::full(bytes) }, base)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_writer_gets_the_disk_though_one_fails(runs in disk(), incremental: bool, fail in 0u32..4, tight: bool, tell: bool) {
        let (mut reader, base) = build(&runs, incremental);
        reader.lists_holes = tell;
        reader.in_flight = if tight { 0 } else { 1 << 25 };
        let (calm, calm_seen) = Taker::on(base.clone());
        let (mut failing, failing_seen) = Taker::on(base.clone());
        failing.fail_after = Some(fail);
        let (mut slow, slow_seen) = Taker::on(base.clone());
        slow.slow = true;
        let (mut knowing, knowing_seen) = Taker::on(base);
        knowing.knows = true;
        let writers = boxed(vec![calm, failing, slow, knowing]);
        let outcome = block_on(transfer(&reader, writers, &Silent)).unwrap();
        let wanted = root_of(&reader.bytes);
        for (index, seen) in [(0, &calm_seen), (2, &slow_seen), (3, &knowing_seen)] {
            prop_assert_eq!(outcome[index].as_ref().unwrap().root, wanted);
            prop_assert!(*seen.bytes.lock().unwrap() == reader.bytes);
        }
        prop_assert_eq!(calm_seen.told.lock().unwrap().is_some(), tell);
        if failing_seen.calls.lock().unwrap().len() as u32 > fail {
            prop_assert_eq!(outcome[1].as_ref().unwrap_err().kind(), Kind::Quota);
            prop_assert!(!failing_seen.finished.load(SeqCst));
        } else {
            prop_assert!(outcome[1].is_ok());
        }
        prop_assert!(reader.read.load(SeqCst) <= reader.size(), "the source is read once");
        for pair in calm_seen.calls.lock().unwrap().windows(2) {
            prop_assert!(!(pair[0].2 && pair[1].2 && pair[0].0 + pair[0].1 == pair[1].0), "zero runs are joined");
        }
    }
}

#[test]
fn zero_leaves_of_data_become_zero() {
    let mut bytes = vec![0; 3 * CHUNK as usize];
    bytes[(CHUNK + LEAF) as usize + 7] = 1;
    let (taker, seen) = Taker::on(vec![5; bytes.len()]);
    block_on(transfer(&Model::full(bytes), boxed(vec![taker]), &Silent)).unwrap();
    let at = CHUNK + LEAF;
    let wanted = [(0, at, true), (at, LEAF, false), (at + LEAF, 2 * CHUNK - 2 * LEAF, true)];
    assert_eq!(*seen.calls.lock().unwrap(), wanted);
}

#[test]
fn a_leaf_that_the_writer_has_is_not_given_to_it() {
    let bytes = vec![3; 2 * CHUNK as usize + 512];
    let mut base = bytes.clone();
    base[5 * LEAF as usize] = 4;
    *base.last_mut().unwrap() = 4;
    let (mut taker, seen) = Taker::on(base);
    taker.knows = true;
    block_on(transfer(&Model::full(bytes), boxed(vec![taker]), &Silent)).unwrap();
    assert_eq!(*seen.calls.lock().unwrap(), [(5 * LEAF, LEAF, false), (2 * CHUNK, 512, false)]);
}

#[test]
fn a_failing_reader_finishes_nobody() {
    // while it reads, and when the sum of all is looked at
    for fail_at in [5 * CHUNK, 8 * CHUNK] {
        let reader = Model { fail_at: Some(fail_at), ..Model::full(vec![1; 8 * CHUNK as usize]) };
        let (one, seen_one) = Taker::on(vec![0; reader.bytes.len()]);
        let (two, seen_two) = Taker::on(vec![0; reader.bytes.len()]);
        let outcome = block_on(transfer(&reader, boxed(vec![one, two]), &Silent));
        assert_eq!(outcome.unwrap_err().kind(), Kind::Damaged);
        for seen in [seen_one, seen_two] {
            assert!(!seen.finished.load(SeqCst));
        }
    }
}

#[test]
fn a_dropped_transfer_drops_its_writers_unfinished() {
    let reader = Model::full(vec![1; 64 * CHUNK as usize]);
    let (mut taker, seen) = Taker::on(vec![0; reader.bytes.len()]);
    taker.slow = true;
    block_on(async {
        let running = transfer(&reader, boxed(vec![taker]), &Silent);
        assert!(tokio::time::timeout(Duration::from_millis(20), running).await.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(seen.dropped.load(SeqCst));
    });
    assert!(!seen.finished.load(SeqCst));
    assert!(reader.read.load(SeqCst) < reader.size());
}

#[test]
fn memory_in_flight_is_bounded() {
    let reader = Model { in_flight: 4 * CHUNK, ..Model::full(vec![1; 48 * CHUNK as usize]) };
    let (mut taker, seen) = Taker::on(vec![0; reader.bytes.len()]);
    taker.slow = true;
    let most = Arc::new(AtomicU64::new(0));
    block_on(async {
        let running = transfer(&reader, boxed(vec![taker]), &Silent);
        let watch = async {
            loop {
                let taken: u64 = seen.calls.lock().unwrap().iter().map(|call| call.1).sum();
                most.fetch_max(reader.read.load(SeqCst).saturating_sub(taken), SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! { outcome = running => drop(outcome.unwrap()), () = watch => {} }
    });
    assert!(seen.finished.load(SeqCst));
    assert!((CHUNK..=5 * CHUNK).contains(&most.load(SeqCst)), "{} bytes", most.load(SeqCst));
}

#[test]
fn a_full_reader_that_leaves_a_gap_is_refused() {
    let size = 4 * CHUNK;
    for extents in [
        vec![Extent::data(0, CHUNK), Extent::data(2 * CHUNK, 2 * CHUNK)],
        vec![Extent::data(0, 2 * CHUNK)],
        vec![],
        vec![Extent::data(0, size + 512)],
        vec![Extent::data(0, size - 1)],
    ] {
        let reader = Model { extents, ..Model::full(vec![1; size as usize]) };
        let (taker, seen) = Taker::on(vec![0; size as usize]);
        let outcome = block_on(transfer(&reader, boxed(vec![taker]), &Silent));
        assert_eq!(outcome.unwrap_err().kind(), Kind::Damaged);
        assert!(!seen.finished.load(SeqCst));
    }
}

#[test]
fn a_writer_of_another_size_is_refused_and_the_rest_goes_on() {
    let reader = Model::full(vec![1; CHUNK as usize]);
    let (good, _) = Taker::on(vec![0; CHUNK as usize]);
    let (bad, seen) = Taker::on(vec![0; 512]);
    let outcome = block_on(transfer(&reader, boxed(vec![bad, good]), &Silent)).unwrap();
    assert_eq!(outcome[0].as_ref().unwrap_err().kind(), Kind::Invalid);
    assert_eq!(outcome[1].as_ref().unwrap().root, root_of(&reader.bytes));
    assert!(seen.calls.lock().unwrap().is_empty());
}

#[test]
fn progress_adds_up() {
    #[derive(Default)]
    struct Count([AtomicU64; 4]);
    impl Progress for Count {
        fn expect(&self, bytes: u64) {
            self.0[0].store(bytes, SeqCst);
        }
        fn looked(&self, bytes: u64) {
            self.0[1].fetch_add(bytes, SeqCst);
        }
        fn read(&self, bytes: u64) {
            self.0[2].fetch_add(bytes, SeqCst);
        }
        fn delivered(&self, bytes: u64) {
            self.0[3].fetch_add(bytes, SeqCst);
        }
    }
    let runs = [(2048, 1, true), (2048, 0, true), (4096, 2, false), (100, 2, true)];
    let told = [(false, [8292, 8292, 6244, 12_488]), (true, [4196, 4196, 2148, 4296])];
    for (incremental, sectors) in told {
        let (reader, base) = build(&runs, incremental);
        let count = Count::default();
        let writers = boxed(vec![Taker::on(base.clone()).0, Taker::on(base).0]);
        block_on(transfer(&reader, writers, &count)).unwrap();
        assert_eq!(count.0.map(|n| n.into_inner() / 512), sectors);
    }
}

#[test]
fn the_future_can_be_sent() {
    fn send<T: Send>(future: T) -> T {
        future
    }
    let reader = Model::full(vec![1; 512]);
    let writers = boxed(vec![Taker::on(vec![0; 512]).0]);
    block_on(send(transfer(&reader, writers, &Silent))).unwrap();
}
