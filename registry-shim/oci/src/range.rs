//! `Range` on blobs (RFC 9110, one range) and the `Content-Range` of uploads.
//!
//! Every client we know resumes a cut download by `bytes=N-`; a few ask for `bytes=0-` from
//! the start, also of an empty blob. Ranges here are half open, headers are inclusive: the
//! conversion happens in this file alone.

use std::ops::Range;

/// What to answer to a `Range` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranged {
    /// No (usable) range: 200 with everything.
    Whole,
    /// 206 with these bytes.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
}

/// Reads the `Range` header of a request for a blob of `length` bytes.
///
/// A header that breaks the grammar, another unit, and several ranges at once give
/// [`Ranged::Whole`]: RFC 9110 lets a server ignore the header, and clients that ask for
/// several ranges take a 200 (they must, since few registries know multipart answers).
pub fn requested(header: Option<&str>, length: u64) -> Ranged {
    let Some(spec) = header.and_then(one_byte_range) else {
        return Ranged::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Ranged::Whole;
    };
    match (number(first), number(last)) {
        (Some(first), _) if !last.is_empty() && number(last).is_none_or(|last| last < first) => {
            Ranged::Whole
        }
        // An empty blob has no byte to ask for, yet a client that always sends `bytes=0-`
        // means "all of it", and would take a 416 as a failure.
        (Some(0), _) if length == 0 => Ranged::Whole,
        (Some(first), _) if first >= length => Ranged::Unsatisfiable,
        (Some(first), None) => Ranged::Part(first..length),
        (Some(first), Some(last)) => Ranged::Part(first..last.saturating_add(1).min(length)),
        (None, Some(0)) if first.is_empty() => Ranged::Unsatisfiable,
        (None, Some(_)) if first.is_empty() && length == 0 => Ranged::Whole,
        (None, Some(suffix)) if first.is_empty() => {
            Ranged::Part(length.saturating_sub(suffix)..length)
        }
        _ => Ranged::Whole,
    }
}

/// Reads the `Content-Range` of an upload chunk: `5-9`, also `bytes 5-9/*`.
pub fn upload_chunk(header: &str) -> Option<Range<u64>> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, str::trim_start);
    let (range, total) = match text.split_once('/') {
        Some((range, "*")) => (range, None),
        Some((range, total)) => (range, Some(number(total)?)),
        None => (text, None),
    };
    let range = inclusive(range)?;
    (total.is_none_or(|total| range.end <= total)).then_some(range)
}

/// The `Content-Range` of a 206. `range` is not empty.
pub fn content_range(range: &Range<u64>, length: u64) -> String {
    debug_assert!(range.start < range.end && range.end <= length);
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// The `Content-Range` of a 416.
pub fn unsatisfied(length: u64) -> String {
    format!("bytes */{length}")
}

/// The `Range` header that asks for these bytes, for clients. `range` is not empty.
pub fn request(range: &Range<u64>) -> String {
    debug_assert!(range.start < range.end);
    format!("bytes={}-{}", range.start, range.end - 1)
}

/// Reads the `Content-Range` of a 206, for clients: the bytes, and the whole length if told.
pub fn answered(header: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let range = inclusive(range)?;
    match total {
        "*" => Some((range, None)),
        total => {
            let total = number(total)?;
            (range.end <= total).then_some((range, Some(total)))
        }
    }
}

/// The only range of the header, if the unit is bytes. Empty list elements do not count.
fn one_byte_range(header: &str) -> Option<&str> {
    let (unit, list) = header.trim().split_once('=')?;
    if !unit.trim_end().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = list.split(',').map(str::trim).filter(|r| !r.is_empty());
    let first = ranges.next()?;
    ranges.next().is_none().then_some(first)
}

/// `5-9` as `5..10`.
fn inclusive(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then(|| first..last + 1)
}

/// Digits and nothing else. Larger than fits is still a number: as large as one can be.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ranged::{Part, Unsatisfiable, Whole};
    use super::*;

    #[test]
    fn requests() {
        for (header, length, expected) in [
            ("bytes=0-", 10, Part(0..10)),
            ("bytes=4-", 10, Part(4..10)),
            ("bytes=9-", 10, Part(9..10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=11-", 10, Unsatisfiable),
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=2-5", 10, Part(2..6)),
            ("bytes=2-99", 10, Part(2..10)),
            ("bytes=2-99999999999999999999999", 10, Part(2..10)),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-10", 10, Part(0..10)),
            ("bytes=-11", 10, Part(0..10)),
            ("bytes=-0", 10, Unsatisfiable),
            ("Bytes = 2-5 ", 10, Part(2..6)),
            ("bytes=,2-5,", 10, Part(2..6)),
            // Broken, foreign or several: everything.
            ("bytes=5-2", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=2", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=+2-5", 10, Whole),
            ("bytes=2-x", 10, Whole),
            ("bytes=--3", 10, Whole),
            ("bytes 2-5", 10, Whole),
            ("items=0-1", 10, Whole),
            ("bytes=0-0,2-3", 10, Whole),
            ("bytes=", 10, Whole),
            ("", 10, Whole),
            // An empty blob.
            ("bytes=0-", 0, Whole),
            ("bytes=0-5", 0, Whole),
            ("bytes=-5", 0, Whole),
            ("bytes=1-", 0, Unsatisfiable),
        ] {
            assert_eq!(
                requested(Some(header), length),
                expected,
                "{header} of {length}"
            );
        }
        assert_eq!(requested(None, 10), Whole);
    }

    #[test]
    fn uploads() {
        for (header, expected) in [
            ("5-9", Some(5..10)),
            ("0-0", Some(0..1)),
            ("bytes 5-9/*", Some(5..10)),
            ("bytes 5-9/10", Some(5..10)),
            ("bytes 5-9/9", None),
            (" 5-9 ", Some(5..10)),
            ("9-5", None),
            ("5-", None),
            ("-5", None),
            ("", None),
            ("5-9-11", None),
            ("+5-9", None),
            ("0-18446744073709551615", None),
            ("bytes */5", None),
        ] {
            assert_eq!(upload_chunk(header), expected, "{header}");
        }
    }

    #[test]
    fn answers() {
        assert_eq!(answered("bytes 5-9/10"), Some((5..10, Some(10))));
        assert_eq!(answered("bytes 5-9/*"), Some((5..10, None)));
        for broken in [
            "bytes */10",
            "bytes 5-9",
            "5-9/10",
            "bytes 5-9/9",
            "bytes 9-5/10",
            "",
        ] {
            assert_eq!(answered(broken), None, "{broken}");
        }
        assert_eq!(unsatisfied(5), "bytes */5");
    }

    proptest! {
        #[test]
        fn a_part_lies_within(header in "\\PC{0,30}|bytes=[0-9]{0,20}-[0-9]{0,20}", length: u64) {
            if let Part(range) = requested(Some(&header), length) {
                prop_assert!(range.start < range.end && range.end <= length);
                prop_assert_eq!(
                    answered(&content_range(&range, length)),
                    Some((range.clone(), Some(length)))
                );
                prop_assert_eq!(requested(Some(&request(&range)), length), Part(range));
            }
        }
    }
}
