//! `Range` on blobs (RFC 9110, one range) and the `Content-Range` of uploads.

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
pub fn requested(header: Option<&str>, length: u64) -> Ranged {
    let _ = (header, length);
    todo!()
}

/// Reads the `Content-Range` of an upload chunk: `5-9`, also `bytes 5-9/*`.
pub fn upload_chunk(header: &str) -> Option<Range<u64>> {
    let _ = header;
    todo!()
}
