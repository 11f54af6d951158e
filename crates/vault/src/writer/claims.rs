//! Leaves that [`disk::DiskWrite::has_leaf`] has answered for: the transfer will not send them, so they are the parent's.

use std::collections::HashMap;
use std::sync::Mutex;

use disk::LEAVES_PER_PAGE;

use crate::shared::lock;

/// See the module. Pages that are finished are forgotten, so it holds the window between question and write.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashMap<u64, [u64; LEAVES_PER_PAGE as usize / 64]>>);

impl Claims {
    /// Claims a leaf of the disk.
    pub fn claim(&self, leaf: u64) {
        let (page, leaf) = (leaf / LEAVES_PER_PAGE, (leaf % LEAVES_PER_PAGE) as usize);
        lock(&self.0).entry(page).or_default()[leaf / 64] |= 1 << (leaf % 64);
    }

    /// Whether a leaf of a page is claimed.
    pub fn has(&self, page: u64, leaf: usize) -> bool {
        lock(&self.0)
            .get(&page)
            .is_some_and(|bits| bits.get(leaf / 64).is_some_and(|word| word >> (leaf % 64) & 1 == 1))
    }

    /// Whether any leaf of a page is claimed.
    pub fn any(&self, page: u64) -> bool {
        lock(&self.0).contains_key(&page)
    }

    /// The page is finished.
    pub fn forget(&self, page: u64) {
        lock(&self.0).remove(&page);
    }
}
