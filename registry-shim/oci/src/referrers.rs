//! A page of what refers to a manifest.
//!
//! Referrers carry annotations, so a list has no bound but the one that is set here: a page is
//! in the order of digests, and ends before [`MAX_BYTES`] of it. One that is larger by itself
//! has a page of its own. Knows nothing of where referrers come from.

use crate::digest::Digest;
use crate::manifest::Descriptor;

/// Bytes of the descriptors of one page.
pub const MAX_BYTES: usize = 4 << 20;

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this type alone.
    pub artifact_type: Option<String>,
    /// At most this many.
    pub n: Option<usize>,
    /// Those that follow this one.
    pub last: Option<Digest>,
}

/// A page that is being filled.
#[derive(Debug)]
pub struct ReferrersPage {
    wanted: Wanted,
    listed: Vec<Descriptor>,
    bytes: usize,
    more: bool,
}

impl ReferrersPage {
    /// An empty one.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            listed: Vec::new(),
            bytes: 0,
            more: false,
        }
    }

    /// Whether it may be on this page, as far as its digest tells.
    pub fn may_list(&self, digest: &Digest) -> bool {
        self.wanted.last.as_ref().is_none_or(|last| digest > last)
    }

    /// Takes the next one, in order; what was not asked for is left out. `false` once the page
    /// is full: it is not taken, nor will any after it be.
    pub fn add(&mut self, referrer: Descriptor) -> bool {
        let wanted = self.wanted.artifact_type.as_ref();
        let of_type = wanted.is_none_or(|wanted| referrer.artifact_type.as_ref() == Some(wanted));
        if !of_type || !self.may_list(&referrer.digest) {
            return true;
        }
        let bytes = serde_json::to_string(&referrer).map_or(0, |json| json.len());
        let full = self.wanted.n.is_some_and(|n| self.listed.len() >= n)
            || (!self.listed.is_empty() && self.bytes + bytes > MAX_BYTES);
        if full {
            self.more = true;
            return false;
        }
        self.bytes += bytes;
        self.listed.push(referrer);
        true
    }

    /// What is on it, and after which digest the next page begins, if there is one. An empty
    /// page has no next one: it would lead to itself.
    pub fn finish(self) -> (Vec<Descriptor>, Option<Digest>) {
        let last = self.listed.last().filter(|_| self.more);
        let next = last.map(|last| last.digest.clone());
        (self.listed, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::OCI_MANIFEST;

    fn referrers(count: usize, annotation: usize) -> Vec<Descriptor> {
        let one = |n: usize| Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::sha256_of(&n.to_le_bytes()),
            size: 7,
            urls: Vec::new(),
            artifact_type: Some(["even", "odd"][n % 2].to_owned()),
            annotations: [("k".to_owned(), "v".repeat(annotation))].into(),
            platform: None,
        };
        let mut all: Vec<_> = (0..count).map(one).collect();
        all.sort_by(|a, b| a.digest.cmp(&b.digest));
        all
    }

    fn pages(all: &[Descriptor], mut wanted: Wanted) -> Vec<Vec<Descriptor>> {
        let mut pages = Vec::new();
        loop {
            let mut page = ReferrersPage::new(wanted.clone());
            for one in all {
                if !page.add(one.clone()) {
                    break;
                }
            }
            let (listed, next) = page.finish();
            pages.push(listed);
            wanted.last = next;
            if wanted.last.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_are_bounded_and_miss_nothing() {
        let all = referrers(40, 300_000);
        let by_bytes = pages(&all, Wanted::default());
        assert_eq!(by_bytes.len(), 4, "thirteen fit on each");
        assert_eq!(by_bytes.concat(), all);
        let by_number = Wanted {
            n: Some(3),
            artifact_type: Some("odd".into()),
            last: None,
        };
        let odd = pages(&all, by_number);
        assert_eq!(odd.len(), 7);
        assert_eq!(odd.concat().len(), 20);
        // One too large for any page has its own.
        let large = referrers(3, MAX_BYTES);
        assert_eq!(pages(&large, Wanted::default()).len(), 3);
    }

    #[test]
    fn nothing_leads_to_nothing() {
        let all = referrers(3, 1);
        let none = Wanted {
            n: Some(0),
            ..Wanted::default()
        };
        assert_eq!(pages(&all, none), [Vec::new()]);
        assert_eq!(pages(&[], Wanted::default()), [Vec::new()]);
    }
}
