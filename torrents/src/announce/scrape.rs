//! Scrape (BEP-48), both ends.

use std::borrow::Cow;

use crate::bencode::{self, Limits};
use crate::id::InfoHash;

use super::query::{open_query, pairs, put_hash, twenty_bytes};
use super::reply::{failure, number, parse_within};
use super::{QueryError, ReplyError, ScrapeEntry, TrackerAnswer};

/// An entry is nine tokens; `MAX_REPLY` bounds the rest.
const LIMITS: Limits = Limits {
    depth: 8,
    tokens: 200_000,
};

/// Client end: the scrape URL that belongs to an announce URL by the convention of BEP-48,
/// with the hashes appended; `None` when the announce URL follows no such convention.
pub fn scrape_url(announce_url: &str, hashes: &[InfoHash]) -> Option<String> {
    let (before, last) = announce_url.rsplit_once('/')?;
    let after = last.strip_prefix("announce")?;
    let url = format!("{before}/scrape{after}");
    if hashes.is_empty() {
        return Some(url);
    }
    let mut url = open_query(&url, hashes.len() * 71);
    for (n, hash) in hashes.iter().enumerate() {
        if n > 0 {
            url.push('&');
        }
        put_hash(&mut url, hash);
    }
    Some(url)
}

/// Tracker end: the hashes of a scrape query, at most `max`; empty means a full scrape was asked.
pub fn scrape_hashes(query: &[u8], max: usize) -> Result<Vec<InfoHash>, QueryError> {
    let mut hashes = Vec::new();
    for (key, value) in pairs(query) {
        if key != b"info_hash" {
            continue;
        }
        if hashes.len() == max {
            return Err(QueryError::TooManyHashes { max });
        }
        hashes.push(InfoHash(twenty_bytes("info_hash", value)?));
    }
    Ok(hashes)
}

/// Tracker end: the body; keys sorted by hash. Of a hash given twice, one entry is written.
pub fn encode_scrape(files: &[(InfoHash, ScrapeEntry)], out: &mut Vec<u8>) {
    let mut files = Cow::Borrowed(files);
    if !files.is_sorted_by(|a, b| a.0 < b.0) {
        let files = files.to_mut();
        files.sort_by_key(|(hash, _)| *hash);
        files.dedup_by_key(|(hash, _)| *hash);
    }
    out.reserve(files.len() * 90 + 16);
    out.extend_from_slice(b"d5:filesd");
    for (hash, entry) in &*files {
        bencode::put_bytes(out, hash.as_bytes());
        out.extend_from_slice(b"d8:complete");
        bencode::put_int(out, entry.complete);
        out.extend_from_slice(b"10:downloaded");
        bencode::put_int(out, entry.downloaded);
        out.extend_from_slice(b"10:incomplete");
        bencode::put_int(out, entry.incomplete);
        out.push(b'e');
    }
    out.extend_from_slice(b"ee");
}

/// Client end: reads a scrape body.
pub fn decode_scrape(
    body: &[u8],
) -> Result<TrackerAnswer<Vec<(InfoHash, ScrapeEntry)>>, ReplyError> {
    let answer = parse_within(body, LIMITS)?;
    if let Some(failure) = failure(answer) {
        return Ok(failure);
    }
    let mut files = Vec::new();
    let listed = answer.get(b"files").and_then(|files| files.entries());
    for (key, value) in listed.into_iter().flatten() {
        let Ok(hash) = key.try_into() else {
            continue;
        };
        let count = |key: &[u8]| value.get(key).and_then(number).unwrap_or(0);
        let entry = ScrapeEntry {
            complete: count(b"complete"),
            downloaded: count(b"downloaded"),
            incomplete: count(b"incomplete"),
        };
        files.push((InfoHash(hash), entry));
    }
    Ok(TrackerAnswer::Ok(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InfoHash = InfoHash([b'a'; 20]);
    const B: InfoHash = InfoHash([0xff; 20]);

    const ENTRY: ScrapeEntry = ScrapeEntry {
        complete: 1,
        downloaded: 20,
        incomplete: 3,
    };

    #[test]
    fn the_scrape_url_follows_the_convention_of_the_bep() {
        for (announce, scrape) in [
            (
                "http://example.com/announce",
                Some("http://example.com/scrape"),
            ),
            (
                "http://example.com/x/announce",
                Some("http://example.com/x/scrape"),
            ),
            (
                "http://example.com/announce.php",
                Some("http://example.com/scrape.php"),
            ),
            ("http://example.com/a", None),
            (
                "http://example.com/announce?x2%0644",
                Some("http://example.com/scrape?x2%0644"),
            ),
            ("http://example.com/announce?x=2/4", None),
            ("http://example.com/x%064announce", None),
            ("announce", None),
        ] {
            assert_eq!(scrape_url(announce, &[]).as_deref(), scrape);
        }
    }

    #[test]
    fn the_scrape_url_carries_every_hash() {
        let b = "%FF".repeat(20);
        assert_eq!(
            scrape_url("http://t/announce?key=1", &[A, B]),
            Some(format!(
                "http://t/scrape?key=1&info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash={b}"
            ))
        );
        let url = scrape_url("http://t/announce", &[A, B]).unwrap();
        let query = url.split_once('?').unwrap().1;
        assert_eq!(scrape_hashes(query.as_bytes(), 2), Ok(vec![A, B]));
        assert_eq!(
            scrape_hashes(query.as_bytes(), 1),
            Err(QueryError::TooManyHashes { max: 1 })
        );
    }

    #[test]
    fn a_scrape_without_hashes_is_empty_and_broken_ones_are_refused() {
        assert_eq!(scrape_hashes(b"", 9), Ok(vec![]));
        assert_eq!(scrape_hashes(b"key=1&&info_hashes=2", 9), Ok(vec![]));
        assert_eq!(
            scrape_hashes(b"info_hash=short", 9),
            Err(QueryError::NotTwentyBytes("info_hash"))
        );
    }

    #[test]
    fn the_body_is_sorted_by_raw_hash() {
        let golden: &[u8] = b"d5:filesd\
            20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi20e10:incompletei3ee\
            20:\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
            d8:completei0e10:downloadedi0e10:incompletei0eeee";
        let none = ScrapeEntry::default();
        for files in [
            &[(A, ENTRY), (B, none)][..],
            &[(B, none), (A, ENTRY), (B, none)],
        ] {
            let mut out = Vec::new();
            encode_scrape(files, &mut out);
            assert_eq!(out, golden);
        }
        let read = TrackerAnswer::Ok(vec![(A, ENTRY), (B, none)]);
        assert_eq!(decode_scrape(golden), Ok(read));
        let mut out = Vec::new();
        encode_scrape(&[], &mut out);
        assert_eq!(out, b"d5:filesdee");
    }

    #[test]
    fn bodies_are_read_leniently() {
        let odd = b"d5:flagsde5:filesd3:abcde20:aaaaaaaaaaaaaaaaaaaad\
            10:incompletei3e4:name1:x10:downloaded2:noeee\n";
        let entry = ScrapeEntry {
            incomplete: 3,
            ..ScrapeEntry::default()
        };
        assert_eq!(decode_scrape(odd), Ok(TrackerAnswer::Ok(vec![(A, entry)])));
        assert_eq!(decode_scrape(b"de"), Ok(TrackerAnswer::Ok(vec![])));
        assert_eq!(decode_scrape(b"i1e"), Err(ReplyError::NotDictionary));
        assert_eq!(
            decode_scrape(b"d14:failure reason2:noe"),
            Ok(TrackerAnswer::Failure {
                reason: "no".to_owned(),
                retry_in: None
            })
        );
    }
}
