//! What long work over disks reports while it goes on.

/// Takes reports of long work: a transfer, a verification. Called often (once per chunk) and from the thread that
/// moves bytes, so implementations only count.
pub trait Progress: Send + Sync {
    /// How many bytes there are to look at, as far as is known: the disk's size for a full read; for an incremental
    /// one the changed bytes of the extents seen so far, so it may be called again with a larger number.
    fn expect(&self, _bytes: u64) {}

    /// This many more bytes were dealt with, read or known to be zero. They add up to what was expected.
    fn looked(&self, _bytes: u64) {}

    /// This many more bytes were read from the source.
    fn read(&self, _bytes: u64) {}

    /// This many more bytes (data, not zeroes) were taken by destinations, all destinations together.
    fn delivered(&self, _bytes: u64) {}
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
