//! How much is let through: token buckets by real time, and a count of what is in flight.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Debug)]
struct Bucket {
    level: f64,
    at: Instant,
}

/// All buckets and counters, by name.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    buckets: Mutex<HashMap<String, Bucket>>,
    flight: Mutex<HashMap<String, usize>>,
}

/// A request in flight; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    limiter: &'a Limiter,
    name: String,
}

impl Limiter {
    /// Takes one token out of the first bucket that is full enough for all: none is taken if one is empty. The name
    /// of the empty one is the error.
    pub(crate) fn take(&self, wanted: &[(String, f64, f64)]) -> Result<(), String> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, size, refill) in wanted {
            let bucket = buckets.entry(name.clone()).or_insert(Bucket { level: *size, at: now });
            let gained = now.duration_since(bucket.at).as_secs_f64() * refill;
            bucket.level = (bucket.level + gained).min(*size);
            bucket.at = now;
            if bucket.level < 1.0 {
                return Err(name.clone());
            }
        }
        for (name, ..) in wanted {
            if let Some(bucket) = buckets.get_mut(name) {
                bucket.level -= 1.0;
            }
        }
        Ok(())
    }

    /// Counts one more request of `name`, unless there are `most` already.
    pub(crate) fn enter(&self, name: &str, most: usize) -> Option<InFlight<'_>> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        let count = flight.entry(name.to_owned()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(InFlight { limiter: self, name: name.to_owned() })
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut flight = self.limiter.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = flight.get_mut(&self.name) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_bucket_says_which() {
        let limiter = Limiter::default();
        let wanted = [("account".to_owned(), 5.0, 0.0), ("snapshot".to_owned(), 2.0, 0.0)];
        assert!(limiter.take(&wanted).is_ok() && limiter.take(&wanted).is_ok());
        assert_eq!(limiter.take(&wanted).unwrap_err(), "snapshot");
        assert!((0..3).all(|_| limiter.take(&wanted[..1]).is_ok()), "a refused request costs nothing");
        assert!(limiter.take(&wanted[..1]).is_err());
        let first = limiter.enter("a", 1);
        assert!(first.is_some() && limiter.enter("a", 1).is_none());
        drop(first);
        assert!(limiter.enter("a", 1).is_some());
    }
}
