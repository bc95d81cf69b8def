//! The announce path: bytes of requests in, bytes of replies out. No I/O.
//!
//! Serves as many whole requests as the input holds, in order, into one output buffer, so that
//! a pipelining client costs one read and one write. Buffers are lent by the caller and reused:
//! in the steady state an announce allocates nothing.

use std::io::Write;
use std::net::IpAddr;
use std::time::Instant;

use torrents::announce::{
    AnnounceReply, AnnounceRequest, encode_failure, encode_scrape, scrape_hashes,
};

use super::head::{self, Head, Manner, Route};
use crate::asker::Source;
use crate::metrics::Outcome;
use crate::service::Service;
use crate::swarms::{Refusal, Told};

/// Longest request head. A scrape of 200 hashes is 15 KiB at worst.
pub(crate) const MAX_HEAD: usize = 16 * 1024;

/// Replies are flushed before more requests are read once this much is waiting.
const FLUSH_AT: usize = 16 * 1024;

/// What is to be done after the output is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for (the rest of) a request.
    Read,
    /// More whole requests may be in the input: call again.
    Again,
    /// Close.
    Close,
    /// Close, but let the client read why first: it may still be sending.
    Refuse,
    /// Let the general server take the connection over, from the unread input on.
    HandOver,
}

/// Buffers one thread lends to its connections in turn.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) output: Vec<u8>,
    body: Vec<u8>,
    answer: Answer,
}

/// A reply under construction.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    reply: AnnounceReply,
    told: Told,
}

/// Serves what `input` holds from a client at `peer`; returns how much of it was used up and
/// what comes next. Replies are appended to `buffers.output`.
pub(crate) fn serve(
    service: &Service,
    peer: IpAddr,
    input: &[u8],
    buffers: &mut Buffers,
) -> (usize, Next) {
    let mut used = 0;
    loop {
        let rest = &input[used..];
        if rest.is_empty() {
            return (used, Next::Read);
        }
        match head::read(rest) {
            Head::Partial if rest.len() >= MAX_HEAD => {
                refuse(&mut buffers.output, "431 Request Header Fields Too Large");
                return (input.len(), Next::Refuse);
            }
            Head::Partial => return (used, Next::Read),
            Head::Invalid => {
                service.metrics.malformed();
                refuse(&mut buffers.output, "400 Bad Request");
                return (input.len(), Next::Refuse);
            }
            Head::Other => return (used, Next::HandOver),
            Head::Tracker {
                route,
                query,
                manner,
                length,
            } => {
                answer(service, peer, route, query, &manner, buffers);
                used += length;
                if !manner.keep_alive {
                    return (used, Next::Close);
                }
            }
        }
        if buffers.output.len() >= FLUSH_AT {
            return (used, Next::Again);
        }
    }
}

fn answer(
    service: &Service,
    peer: IpAddr,
    route: Route,
    query: &[u8],
    manner: &Manner<'_>,
    buffers: &mut Buffers,
) {
    let forwarded = manner.forwarded.iter().copied();
    let source = service.table.trust().source(peer, forwarded);
    buffers.body.clear();
    match route {
        Route::Announce => announce(
            service,
            source,
            query,
            &mut buffers.answer,
            &mut buffers.body,
        ),
        Route::Scrape => scrape(service, source, query, &mut buffers.body),
    }
    write_head(&mut buffers.output, manner, buffers.body.len());
    buffers.output.extend_from_slice(&buffers.body);
}

/// Answers an announce into `body`.
pub(crate) fn announce(
    service: &Service,
    source: Source,
    query: &[u8],
    answer: &mut Answer,
    body: &mut Vec<u8>,
) {
    let started = Instant::now();
    let request = match AnnounceRequest::from_query(query) {
        Ok(request) => request,
        Err(error) => {
            service
                .metrics
                .announce(None, Outcome::Malformed, started.elapsed(), 0);
            return encode_failure(&error.to_string(), None, body);
        }
    };
    let now = service.now(started);
    let Answer { reply, told } = answer;
    let outcome = match service.table.announce(now, &request, source, reply, told) {
        Ok(announced) => {
            if request.compact {
                reply.encode_compact(&told.compact.v4, &told.compact.v6, body);
            } else {
                std::mem::swap(&mut reply.peers, &mut told.named);
                reply.encode(false, request.no_peer_id, body);
                std::mem::swap(&mut reply.peers, &mut told.named);
            }
            Outcome::from(announced)
        }
        Err(refusal) => {
            encode_failure(&refusal.to_string(), refusal.retry_in(), body);
            Outcome::from(refusal)
        }
    };
    service
        .metrics
        .announce(Some(request.event), outcome, started.elapsed(), body.len());
}

/// Answers a scrape into `body`.
pub(crate) fn scrape(service: &Service, source: Source, query: &[u8], body: &mut Vec<u8>) {
    let hashes = scraped(service, source, query, body);
    service.metrics.scrape(hashes, body.len());
}

/// Returns for how many hashes it answers: none when the scrape is refused.
fn scraped(service: &Service, source: Source, query: &[u8], body: &mut Vec<u8>) -> usize {
    let now = service.now(Instant::now());
    if service.table.asks_too_much(now, source) {
        let slow_down = Refusal::TooFast;
        encode_failure(&slow_down.to_string(), slow_down.retry_in(), body);
        return 0;
    }
    let refused = match scrape_hashes(query, service.limits.scrape) {
        Ok(hashes) if !hashes.is_empty() => {
            encode_scrape(&service.table.scrape(&hashes), body);
            return hashes.len();
        }
        Ok(_) => "full scrape refused: name the torrents by info_hash".to_owned(),
        Err(error) => error.to_string(),
    };
    encode_failure(&refused, None, body);
    0
}

fn write_head(output: &mut Vec<u8>, manner: &Manner<'_>, length: usize) {
    output.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ");
    let mut digits = itoa::Buffer::new();
    output.extend_from_slice(digits.format(length).as_bytes());
    output.extend_from_slice(match (manner.keep_alive, manner.old) {
        (true, false) => b"\r\n\r\n".as_slice(),
        (true, true) => b"\r\nConnection: keep-alive\r\n\r\n",
        (false, _) => b"\r\nConnection: close\r\n\r\n",
    });
}

fn refuse(output: &mut Vec<u8>, status: &str) {
    let written = write!(
        output,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{status}",
        status.len()
    );
    debug_assert!(written.is_ok(), "a vector takes every write");
}

#[cfg(test)]
mod tests;
