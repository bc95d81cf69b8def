//! What the store has, in memory: pure bookkeeping, no disk.
//!
//! Invariants: `used` is the sum of all complete lengths; no two uses have the same time, so
//! that the order of use is total.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use torrents::{Info, InfoHash};

use super::layout::Head;
use crate::content::Content;

/// Uses closer together than this are not written down each: a crash may forget them.
const COARSE: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Index {
    complete: HashMap<String, Entry>,
    swarms: HashMap<InfoHash, Vec<String>>,
    partial: HashMap<String, Partial>,
    used: u64,
    /// The latest time of use given out.
    clock: Option<SystemTime>,
}

/// One complete entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) length: u64,
    pub(super) info_hash: Option<InfoHash>,
    last_used: SystemTime,
    /// The last use that was written down.
    persisted: SystemTime,
}

/// One partial entry, and who has it open.
#[derive(Debug)]
struct Partial {
    /// As it was begun in this life; `None` since the start.
    begun: Option<(Info, Weak<Content>)>,
}

impl Index {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.complete
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.complete.get(name)
    }

    pub(super) fn named(&self, info_hash: InfoHash) -> Option<&str> {
        self.swarms.get(&info_hash)?.first().map(String::as_str)
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// It was found complete at the start, last used then.
    pub(super) fn found_complete(&mut self, name: &str, head: Head, last_used: SystemTime) {
        // A clock that was ahead left times to come: what is used now is newer all the same.
        self.clock = self.clock.max(Some(last_used));
        self.insert(name, head, last_used);
    }

    /// It was found partial at the start.
    pub(super) fn found_partial(&mut self, name: &str) {
        self.partial.insert(name.into(), Partial { begun: None });
    }

    pub(super) fn begun(&mut self, name: &str, info: Info, open: Weak<Content>) {
        let begun = Some((info, open));
        self.partial.insert(name.into(), Partial { begun });
    }

    pub(super) fn completed(&mut self, name: &str, head: Head, now: SystemTime) -> &Entry {
        let now = self.tick(now);
        self.partial.remove(name);
        self.insert(name, head, now)
    }

    /// Notes a use; says when it is to be written down, if it is.
    pub(super) fn touch(&mut self, name: &str, now: SystemTime) -> Option<SystemTime> {
        if !self.complete.contains_key(name) {
            return None;
        }
        let now = self.tick(now);
        let entry = self.complete.get_mut(name)?;
        entry.last_used = now;
        let due = now
            .duration_since(entry.persisted)
            .is_ok_and(|since| since >= COARSE);
        due.then(|| entry.persisted = now).map(|()| now)
    }

    pub(super) fn forget(&mut self, name: &str) {
        let Some(entry) = self.complete.remove(name) else {
            return;
        };
        self.used -= entry.length;
        if let Some(info_hash) = entry.info_hash
            && let Some(names) = self.swarms.get_mut(&info_hash)
        {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.swarms.remove(&info_hash);
            }
        }
    }

    pub(super) fn partial_names(&self) -> Vec<String> {
        self.partial.keys().cloned().collect()
    }

    pub(super) fn is_partial(&self, name: &str) -> bool {
        self.partial.contains_key(name)
    }

    pub(super) fn open_partial(&self, name: &str) -> Option<(Info, Arc<Content>)> {
        self.partial.get(name)?.open()
    }

    pub(super) fn open_partials(&self) -> Vec<(String, Arc<Content>)> {
        let open = self.partial.iter();
        open.filter_map(|(name, partial)| Some((name.clone(), partial.open()?.1)))
            .collect()
    }

    pub(super) fn drop_partial(&mut self, name: &str) -> Option<Arc<Content>> {
        self.partial
            .remove(name)?
            .open()
            .map(|(_, content)| content)
    }

    /// The names to remove, least recently used first, so that at most `capacity` bytes stay.
    pub(super) fn over(&self, capacity: u64) -> Vec<String> {
        if self.used <= capacity {
            return Vec::new();
        }
        let mut by_age: Vec<_> = self.complete.iter().collect();
        by_age.sort_unstable_by_key(|(_, entry)| entry.last_used);
        let mut left = self.used;
        by_age
            .into_iter()
            .take_while(|(_, entry)| {
                let over = left > capacity;
                left -= entry.length;
                over
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn insert(&mut self, name: &str, head: Head, last_used: SystemTime) -> &Entry {
        self.forget(name);
        self.used += head.length;
        if let Some(info_hash) = head.info_hash {
            self.swarms.entry(info_hash).or_default().push(name.into());
        }
        self.complete.entry(name.into()).or_insert(Entry {
            length: head.length,
            info_hash: head.info_hash,
            last_used,
            persisted: last_used,
        })
    }

    /// A clock that never stands still, even where the system's is coarse or set back.
    fn tick(&mut self, now: SystemTime) -> SystemTime {
        let next = self.clock.map(|last| last + Duration::from_nanos(1));
        let now = next.map_or(now, |next| next.max(now));
        self.clock = Some(now);
        now
    }
}

impl Partial {
    fn open(&self) -> Option<(Info, Arc<Content>)> {
        let (info, content) = self.begun.as_ref()?;
        Some((info.clone(), content.upgrade()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(length: u64, swarm: u8) -> Head {
        Head {
            length,
            info_hash: Some(InfoHash([swarm; 20])),
        }
    }

    #[test]
    fn the_least_recently_used_go_first_and_only_as_many_as_needed() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut index = Index::default();
        for (n, name) in (0u8..).zip(["a", "b", "c", "d"]) {
            // The clock stands still; the order must not.
            index.completed(name, head(10, n), start);
        }
        index.touch("a", start);
        assert_eq!(index.used(), 40);
        assert_eq!(index.over(40), [""; 0]);
        assert_eq!(index.over(39), ["b"]);
        assert_eq!(index.over(20), ["b", "c"]);
        assert_eq!(index.over(0), ["b", "c", "d", "a"]);
    }

    #[test]
    fn what_is_used_now_is_newer_than_what_a_clock_ahead_left() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut index = Index::default();
        index.found_complete("ahead", head(10, 1), start + COARSE * 1_000);
        index.completed("now", head(10, 2), start);
        assert_eq!(index.over(10), ["ahead"]);
    }

    #[test]
    fn uses_are_written_down_coarsely() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut index = Index::default();
        index.found_complete("a", head(1, 1), start);
        assert_eq!(index.touch("a", start + COARSE / 2), None);
        assert_eq!(index.touch("a", start + COARSE), Some(start + COARSE));
        assert_eq!(index.touch("a", start + COARSE + COARSE / 2), None);
        assert_eq!(index.touch("none", start), None);
    }

    #[test]
    fn two_names_of_one_swarm_are_both_found() {
        let mut index = Index::default();
        index.completed("a", head(1, 1), SystemTime::now());
        index.completed("b", head(1, 1), SystemTime::now());
        index.completed("b", head(2, 1), SystemTime::now());
        assert_eq!((index.used(), index.iter().count()), (3, 2));
        index.forget("a");
        assert_eq!(index.named(InfoHash([1; 20])), Some("b"));
        index.forget("b");
        assert_eq!(index.named(InfoHash([1; 20])), None);
        assert_eq!(index.used(), 0);
    }
}
