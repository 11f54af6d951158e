//! A cache bounded by cost; the least recently used goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    most: usize,
    held: usize,
    tick: u64,
    entries: HashMap<K, (V, usize, u64)>,
    order: BTreeMap<u64, K>,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    /// A cache of at most `most` in cost.
    pub fn new(most: usize) -> Self {
        Self { most, held: 0, tick: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    /// The value of `key`, which becomes the youngest.
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.tick += 1;
        let (value, _, tick) = self.entries.get_mut(key)?;
        self.order.remove(tick);
        *tick = self.tick;
        self.order.insert(self.tick, key.clone());
        Some(value.clone())
    }

    /// Puts a value and drops the oldest ones that no longer fit. One that costs too much alone is kept until the
    /// next comes.
    pub fn put(&mut self, key: K, value: V, cost: usize) {
        self.remove(&key);
        self.tick += 1;
        self.held += cost;
        self.order.insert(self.tick, key.clone());
        self.entries.insert(key, (value, cost, self.tick));
        while self.held > self.most && self.entries.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((_, cost, _)) = self.entries.remove(&oldest) {
                self.held -= cost;
            }
        }
    }

    /// Forgets all keys but those that `keep` names.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let gone: Vec<K> = self.entries.keys().filter(|key| !keep(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &K) {
        if let Some((_, cost, tick)) = self.entries.remove(key) {
            self.held -= cost;
            self.order.remove(&tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lru;

    #[test]
    fn the_least_recently_used_goes() {
        let mut lru = Lru::new(3);
        for key in 0..3 {
            lru.put(key, key, 1);
        }
        assert_eq!(lru.get(&0), Some(0));
        lru.put(3, 3, 1);
        assert_eq!((lru.get(&0), lru.get(&1), lru.get(&3)), (Some(0), None, Some(3)));
        lru.put(4, 4, 3);
        assert_eq!((lru.get(&0), lru.get(&4)), (None, Some(4)));
    }
}
