//! Counts what a transfer moves and tells the observer now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::RunId;

use crate::{Event, Observer};

/// At most so often: a terminal cannot show more, and events go over a socket.
const EVERY: Duration = Duration::from_millis(100);

/// One thing that moves.
pub(crate) struct Meter<'a> {
    observer: &'a dyn Observer,
    run: Option<RunId>,
    what: String,
    total: AtomicU64,
    done: AtomicU64,
    read: AtomicU64,
    delivered: AtomicU64,
    began: Instant,
    /// Milliseconds from `began` of the last event.
    told: AtomicU64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(observer: &'a dyn Observer, run: Option<&RunId>, what: String) -> Self {
        let zero = || AtomicU64::new(0);
        let (total, done, read, delivered, told) = (zero(), zero(), zero(), zero(), zero());
        Self { observer, run: run.cloned(), what, total, done, read, delivered, began: Instant::now(), told }
    }

    /// Bytes read from the source.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that destinations took.
    pub(crate) fn delivered_bytes(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Takes what a provider says of work that it does itself: so much of so much.
    pub(crate) fn stand(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.maybe();
    }

    /// Tells the final numbers.
    pub(crate) fn close(&self) {
        self.total.store(self.done.load(Ordering::Relaxed), Ordering::Relaxed);
        self.tell();
    }

    fn maybe(&self) {
        let now = self.began.elapsed().as_millis() as u64;
        let told = self.told.load(Ordering::Relaxed);
        let due = now.saturating_sub(told) >= EVERY.as_millis() as u64;
        if due && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.tell();
        }
    }

    fn tell(&self) {
        self.observer.event(&Event::Progress {
            run: self.run.clone(),
            what: self.what.clone(),
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        });
    }
}

impl disk::Progress for Meter<'_> {
    fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.maybe();
    }

    fn looked(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.maybe();
    }

    fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    fn delivered(&self, bytes: u64) {
        self.delivered.fetch_add(bytes, Ordering::Relaxed);
    }
}
