//! The threads that hash, compress and encrypt: as many as there are cores, each with contexts that it reuses.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use model::{Error, Result};
use tokio::sync::oneshot;

use crate::keys::broken;

/// What one thread keeps between jobs: no allocation and no set-up on the hot path.
pub(crate) struct Scratch {
    /// Compresses; whoever uses it sets the level.
    pub compressor: zstd::bulk::Compressor<'static>,
    /// Decompresses.
    pub decompressor: zstd::bulk::Decompressor<'static>,
    /// Room for one frame.
    pub buffer: Vec<u8>,
}

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl Shared {
    /// A panic inside a job is caught before it can poison anything, so a poisoned lock still guards a whole queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool. Jobs begin in the order in which they come; dropping the pool ends its threads after the waiting jobs.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    /// How many threads there are.
    pub threads: usize,
}

impl Workers {
    /// Starts `threads` threads.
    pub fn start(threads: usize) -> Result<Self> {
        Self::start_with(threads, 0)
    }

    /// Starts threads that work when nobody else wants the processors.
    pub fn start_idle(threads: usize) -> Result<Self> {
        Self::start_with(threads, 19)
    }

    fn start_with(threads: usize, niceness: i32) -> Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new() });
        let pool = Self { shared: shared.clone(), threads };
        for number in 0..threads {
            let scratch = scratch()?;
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("vault-{number}"))
                .spawn(move || {
                    // of this thread alone, on Linux; where it is refused, the work is done all the same
                    if niceness > 0 {
                        let _ = rustix::process::nice(niceness);
                    }
                    work(&shared, scratch);
                })
                .map_err(|e| Error::io("cannot start a worker thread", e))?;
        }
        Ok(pool)
    }

    /// Queues `job`; the answer comes through the returned handle.
    pub fn submit<T: Send + 'static>(&self, job: impl FnOnce(&mut Scratch) -> T + Send + 'static) -> Pending<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |scratch| {
            // nobody waits any more when the run was cancelled
            let _ = sender.send(job(scratch));
        });
        self.shared.lock().jobs.push_back(job);
        self.shared.filled.notify_one();
        Pending(receiver)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_all();
    }
}

/// A job that was queued.
pub(crate) struct Pending<T>(oneshot::Receiver<T>);

impl<T> Pending<T> {
    /// Waits for the answer.
    pub async fn wait(self) -> Result<T> {
        self.0.await.map_err(|_| broken("a worker thread gave up its job"))
    }

    /// Whether the answer is there, or will never come: [`wait`](Self::wait) then returns at once.
    pub fn is_ready(&self) -> bool {
        self.0.is_terminated() || !self.0.is_empty()
    }
}

fn scratch() -> Result<Scratch> {
    let refused = |e: std::io::Error| broken("zstd has no context").because(e);
    let mut compressor = zstd::bulk::Compressor::new(crate::options::DEFAULT_LEVEL).map_err(refused)?;
    // the frame's own seal is stronger than a checksum, and its length is known
    compressor.include_checksum(false).map_err(refused)?;
    let decompressor = zstd::bulk::Decompressor::new().map_err(refused)?;
    Ok(Scratch { compressor, decompressor, buffer: Vec::new() })
}

fn work(shared: &Shared, mut scratch: Scratch) {
    loop {
        let job = {
            let mut queue = shared.lock();
            loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        // the job's sender is dropped by the unwinding, so that its waiter gets an error instead of waiting for ever
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| job(&mut scratch)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_that_job_alone() {
        let workers = Workers::start(1).unwrap();
        let bad = workers.submit(|_| -> u32 { panic!("on purpose") });
        let good = workers.submit(|_| 7);
        assert!(bad.wait().await.is_err());
        assert_eq!(good.wait().await.unwrap(), 7);
    }
}
