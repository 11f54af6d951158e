//! A bucket in memory: the reference implementation, with a clock of its own and faults on demand.
//!
//! Public, not test-only: the tests of every crate above use it, and so does a dry run.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use model::{Error, Kind, Result};

use super::key::{check_key, check_prefix};
use super::{Bucket, Object, Put};

/// The four operations of a bucket, to aim a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Bucket::put`]
    Put,
    /// [`Bucket::get`]
    Get,
    /// [`Bucket::list`]
    List,
    /// [`Bucket::delete`]
    Delete,
}

/// What goes wrong, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The operation is refused and has no effect.
    Before(Kind),
    /// The operation takes effect and its answer is lost: an ambiguous success.
    After(Kind),
    /// A put stores, or a get answers, only the first so many bytes, and says nothing about it.
    Truncate(usize),
    /// A put stores, or a get answers, with this bit (counted from the start, modulo the length) turned over.
    FlipBit(u64),
    /// A listing shows the bucket as it was when the fault was queued. Real stores promised to have stopped this.
    StaleList,
}

/// A bucket in memory.
#[derive(Debug)]
pub struct MemoryBucket {
    state: Mutex<State>,
}

type Objects = BTreeMap<String, (Bytes, Timestamp)>;

#[derive(Debug)]
struct State {
    objects: Objects,
    now: Timestamp,
    faults: VecDeque<Queued>,
    log: Vec<(Operation, String)>,
    hits: usize,
}

#[derive(Debug)]
struct Queued {
    operation: Operation,
    prefix: String,
    fault: Fault,
    past: Option<Objects>,
}

impl Default for MemoryBucket {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBucket {
    /// An empty bucket whose clock stands at 2026-01-01; every put moves it on by a millisecond.
    pub fn new() -> Self {
        let now = Timestamp::from_second(1_767_225_600).unwrap_or(Timestamp::UNIX_EPOCH);
        let state = State { objects: BTreeMap::new(), now, faults: VecDeque::new(), log: Vec::new(), hits: 0 };
        Self { state: Mutex::new(state) }
    }

    /// Moves the store's clock on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.now = state.now.checked_add(by).unwrap_or(Timestamp::MAX);
    }

    /// Queues a fault for the next `operation`; several queue up and strike one operation each.
    pub fn fail(&self, operation: Operation, fault: Fault) {
        self.fail_on(operation, "", fault);
    }

    /// Queues a fault for the next `operation` on a key (for a listing: a prefix) that begins with `prefix`.
    pub fn fail_on(&self, operation: Operation, prefix: &str, fault: Fault) {
        let mut state = self.lock();
        let past = (fault == Fault::StaleList).then(|| state.objects.clone());
        state.faults.push_back(Queued { operation, prefix: prefix.to_owned(), fault, past });
    }

    /// How many faults struck so far: a test that injects faults checks that they happened.
    pub fn hits(&self) -> usize {
        self.lock().hits
    }

    /// Every operation with its key so far, those that failed among them.
    pub fn log(&self) -> Vec<(Operation, String)> {
        self.lock().log.clone()
    }

    /// The keys there are, past all faults.
    pub fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Changes an object behind everybody's back, as a failing disk does. `false`: there is no such object.
    pub fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.lock();
        let Some((body, _)) = state.objects.get_mut(key) else { return false };
        let mut bytes = body.to_vec();
        change(&mut bytes);
        *body = Bytes::from(bytes);
        true
    }

    /// Takes an object away behind everybody's back. `false`: there was none.
    pub fn lose(&self, key: &str) -> bool {
        self.lock().objects.remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Logs the operation and takes the first fault that is aimed at it. An `Err` is a fault before any effect.
    fn begin(&mut self, operation: Operation, key: &str) -> Result<Option<Queued>> {
        self.log.push((operation, key.to_owned()));
        let aimed = self.faults.iter().position(|f| f.operation == operation && key.starts_with(&f.prefix));
        let Some(queued) = aimed.and_then(|position| self.faults.remove(position)) else { return Ok(None) };
        self.hits += 1;
        match queued.fault {
            Fault::Before(kind) => Err(injected(kind, operation, key)),
            _ => Ok(Some(queued)),
        }
    }
}

fn injected(kind: Kind, operation: Operation, key: &str) -> Error {
    let verb = match operation {
        Operation::Put => "put",
        Operation::Get => "get",
        Operation::List => "list",
        Operation::Delete => "delete",
    };
    Error::new(kind, format!("cannot {verb} {key} in memory")).because("a fault was injected")
}

/// The answer of an operation that took effect: lost, if the fault says so.
fn answer<T>(value: T, queued: Option<&Queued>, key: &str) -> Result<T> {
    match queued {
        Some(Queued { fault: Fault::After(kind), operation, .. }) => Err(injected(*kind, *operation, key)),
        _ => Ok(value),
    }
}

fn spoil(body: Bytes, queued: Option<&Queued>) -> Bytes {
    match queued.map(|queued| &queued.fault) {
        Some(Fault::Truncate(length)) => body.slice(..body.len().min(*length)),
        Some(Fault::FlipBit(bit)) if !body.is_empty() => {
            let mut bytes = body.to_vec();
            let bit = bit % (bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            Bytes::from(bytes)
        }
        _ => body,
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        check_key(key)?;
        let mut state = self.lock();
        let queued = state.begin(Operation::Put, key)?;
        if put == Put::CreateOnly && state.objects.contains_key(key) {
            return Err(Error::new(Kind::Exists, format!("cannot create object {key} in memory")));
        }
        // no two puts at the same instant, as on a real store's clock
        state.now = state.now.checked_add(Duration::from_millis(1)).unwrap_or(Timestamp::MAX);
        let now = state.now;
        state.objects.insert(key.to_owned(), (spoil(body, queued.as_ref()), now));
        answer((), queued.as_ref(), key)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        check_key(key)?;
        let mut state = self.lock();
        let queued = state.begin(Operation::Get, key)?;
        let Some((body, _)) = state.objects.get(key) else {
            return Err(Error::new(Kind::NotFound, format!("cannot get object {key} in memory")));
        };
        let range = super::check_range(key, range, body.len() as u64)?;
        let body = body.slice(range.start as usize..range.end as usize);
        answer(spoil(body, queued.as_ref()), queued.as_ref(), key)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let mut state = self.lock();
        let queued = state.begin(Operation::List, prefix)?;
        let past = queued.as_ref().and_then(|queued| queued.past.as_ref());
        let objects = past.unwrap_or(&state.objects).range(prefix.to_owned()..);
        let listed = objects
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, (body, modified))| Object { key: key.clone(), size: body.len() as u64, modified: *modified })
            .collect();
        answer(listed, queued.as_ref(), prefix)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let mut state = self.lock();
        let queued = state.begin(Operation::Delete, key)?;
        state.objects.remove(key);
        answer((), queued.as_ref(), key)
    }

    fn describe(&self) -> String {
        "memory:".to_owned()
    }
}
