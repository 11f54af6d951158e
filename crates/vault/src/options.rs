//! What a caller may choose.

use std::sync::Arc;

use model::Clock;

/// Of zstd, if nobody chose another.
pub(crate) const DEFAULT_LEVEL: i32 = 3;

/// How a vault is used by this process. Nothing here changes the format: any reader reads what any options wrote.
#[derive(Clone)]
pub struct Options {
    /// zstd level of new frames, -7 to 22.
    pub level: i32,
    /// Threads that hash, compress and encrypt; 0 for one per core.
    pub threads: usize,
    /// Decompress every n-th frame again and compare before it is stored (1: all of them, 0: none): a compressor's bug must
    /// not become a loss. All of them cost a fifth of a full backup's processor time.
    pub check_every: u32,
    /// Where the time of sealed objects comes from.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// The usual choice: level 3, all cores, one frame of eight checked.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { level: DEFAULT_LEVEL, threads: 0, check_every: 8, clock }
    }

    /// Threads to start.
    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from).min(64),
            n => n.min(64),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("level", &self.level).field("threads", &self.threads).finish_non_exhaustive()
    }
}
