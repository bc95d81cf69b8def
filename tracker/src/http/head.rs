//! One request head as the announce path reads it: without allocation, raw bytes in and out.
//! Pure.
//!
//! Everything the fast path does not serve itself (other paths and methods, bodies) is only
//! recognised here and left to the general server.

use std::mem::MaybeUninit;

use smallvec::SmallVec;

/// Headers in one request; more is refused.
const MAX_HEADERS: usize = 100;

/// What the first bytes of a connection or of a pipelined request are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head<'a> {
    /// More bytes are needed.
    Partial,
    /// No HTTP: garbage, or a TLS hello on a plain port.
    Invalid,
    /// A `GET` for the announce path to answer; it ends after `length` bytes.
    Tracker {
        route: Route,
        query: &'a [u8],
        manner: Manner<'a>,
        length: usize,
    },
    /// Anything else that is HTTP.
    Other,
}

/// What the announce path serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Announce,
    Scrape,
}

/// How the client speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manner<'a> {
    pub(crate) keep_alive: bool,
    /// HTTP/1.0: staying open must be said.
    pub(crate) old: bool,
    /// Every line of `X-Forwarded-For`, in order; a chain of proxies may add one each.
    pub(crate) forwarded: SmallVec<[&'a [u8]; 2]>,
}

/// Reads the head at the start of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Head<'_> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(_) => return Head::Invalid,
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Head::Invalid;
    };
    let target = origin_form(target.as_bytes());
    let (path, query) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &[][..]),
    };
    let route = match path {
        b"/announce" => Route::Announce,
        b"/scrape" => Route::Scrape,
        _ => return Head::Other,
    };
    let Some(manner) = read_manner(&request) else {
        return Head::Other;
    };
    if method != "GET" {
        return Head::Other;
    }
    Head::Tracker {
        route,
        query: without_fragment(query),
        manner,
        length,
    }
}

/// `None` when the request has a body, or asks for what only the general server knows.
fn read_manner<'a>(request: &httparse::Request<'_, 'a>) -> Option<Manner<'a>> {
    let old = request.version == Some(0);
    let mut manner = Manner {
        keep_alive: !old,
        old,
        forwarded: SmallVec::new(),
    };
    for header in request.headers.iter() {
        let (name, value) = (header.name, header.value.trim_ascii());
        // Lengths first: most headers are none of these.
        match name.len() {
            10 if name.eq_ignore_ascii_case("connection") => {
                for token in value.split(|byte| *byte == b',') {
                    let token = token.trim_ascii();
                    if token.eq_ignore_ascii_case(b"close") {
                        manner.keep_alive = false;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") && old {
                        manner.keep_alive = true;
                    }
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") && value != b"0" => return None,
            17 if name.eq_ignore_ascii_case("transfer-encoding") => return None,
            6 if name.eq_ignore_ascii_case("expect") => return None,
            15 if name.eq_ignore_ascii_case("x-forwarded-for") => manner.forwarded.push(value),
            _ => {}
        }
    }
    Some(manner)
}

/// `http://host/path` as sent through proxies is `/path`.
fn origin_form(target: &[u8]) -> &[u8] {
    let Some(rest) = target.strip_prefix(b"http://") else {
        return target;
    };
    memchr::memchr(b'/', rest).map_or(b"/", |at| &rest[at..])
}

fn without_fragment(query: &[u8]) -> &[u8] {
    memchr::memchr(b'#', query).map_or(query, |at| &query[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(head: &str) -> Manner<'_> {
        match read(head.as_bytes()) {
            Head::Tracker { manner, .. } => manner,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn versions_and_connection_decide_who_closes() {
        assert!(manner("GET /announce HTTP/1.1\r\n\r\n").keep_alive);
        assert!(!manner("GET /announce HTTP/1.0\r\n\r\n").keep_alive);
        assert!(!manner("GET /announce HTTP/1.1\r\nCONNECTION: Close\r\n\r\n").keep_alive);
        assert!(manner("GET /announce HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
        assert!(!manner("GET /scrape HTTP/1.1\r\nConnection: TE, close\r\n\r\n").keep_alive);
    }

    #[test]
    fn a_request_ends_where_its_head_does() {
        let two = b"GET /announce?a=1 HTTP/1.1\r\n\r\nGET /scrape HTTP/1.1\r\n\r\n";
        let Head::Tracker {
            route,
            query,
            length,
            ..
        } = read(two)
        else {
            panic!()
        };
        assert_eq!((route, query), (Route::Announce, b"a=1".as_slice()));
        let Head::Tracker { route, .. } = read(&two[length..]) else {
            panic!()
        };
        assert_eq!(route, Route::Scrape);
        for cut in 0..length {
            assert_eq!(read(&two[..cut]), Head::Partial, "{cut}");
        }
    }

    #[test]
    fn what_is_not_for_the_announce_path() {
        for other in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET /announcer HTTP/1.1\r\n\r\n",
            "HEAD /announce HTTP/1.1\r\n\r\n",
            "POST /register HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            "GET /announce HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            "GET /announce HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(read(other.as_bytes()), Head::Other, "{other}");
        }
        for invalid in [
            &b"\x16\x03\x01\x02\x00\x01\x00"[..],
            b"\x13BitTorrent protocol",
            b"\0",
        ] {
            assert_eq!(read(invalid), Head::Invalid);
        }
        let many = format!("GET /announce HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101));
        assert_eq!(read(many.as_bytes()), Head::Invalid);
    }

    #[test]
    fn proxies_send_whole_urls() {
        let Head::Tracker { query, .. } = read(b"GET http://t:1/announce?x HTTP/1.1\r\n\r\n")
        else {
            panic!()
        };
        assert_eq!(query, b"x");
    }
}
