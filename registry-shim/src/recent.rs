//! A bounded memory: at most so many entries, the longest untouched goes first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Remembers at most `capacity` entries.
///
/// Invariant: every entry has exactly one live turn in `order` (the one whose number matches);
/// older turns of the same key are stale and skipped, and swept before they outnumber the rest.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    order: VecDeque<(u64, K)>,
    next: u64,
    capacity: usize,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// Nothing remembered yet. `capacity` is at least 1.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
            capacity: capacity.max(1),
        }
    }

    /// What is remembered of `key`.
    pub(crate) fn find(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Remembers, as the newest; returns what had to go for it.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.next += 1;
        self.order.push_back((self.next, key.clone()));
        self.entries.insert(key, (self.next, value));
        if self.order.len() > 2 * self.capacity {
            let entries = &self.entries;
            self.order
                .retain(|(turn, key)| entries.get(key).is_some_and(|(live, _)| live == turn));
        }
        if self.entries.len() > self.capacity {
            return self.forget_oldest();
        }
        None
    }

    /// Forgets it.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Everything remembered, newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().rev().filter_map(|(turn, key)| {
            let (live, value) = self.entries.get(key)?;
            (live == turn).then_some((key, value))
        })
    }

    fn forget_oldest(&mut self) -> Option<(K, V)> {
        while let Some((turn, key)) = self.order.pop_front() {
            if self
                .entries
                .get(&key)
                .is_some_and(|(live, _)| *live == turn)
            {
                return self.entries.remove(&key).map(|(_, value)| (key, value));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_untouched_goes_first() {
        let mut recent = Recent::new(2);
        assert_eq!(recent.insert("a", 1), None);
        assert_eq!(recent.insert("b", 2), None);
        assert_eq!(recent.insert("a", 3), None);
        assert_eq!(recent.insert("c", 4), Some(("b", 2)));
        let all: Vec<_> = recent.newest_first().collect();
        assert_eq!(all, [(&"c", &4), (&"a", &3)]);
    }

    #[test]
    fn touching_one_entry_for_ever_stays_bounded() {
        let mut recent = Recent::new(3);
        for turn in 0..1000 {
            recent.insert(turn % 2, turn);
        }
        assert!(recent.order.len() <= 6);
        assert_eq!(recent.remove(&0), Some(998));
        assert_eq!(recent.newest_first().count(), 1);
        assert_eq!(recent.find(&1), Some(&999));
    }
}
