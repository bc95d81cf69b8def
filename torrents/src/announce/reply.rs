//! The announce reply, composed and read.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::bencode::{self, Limits, Value};
use crate::extended::binary_ip;
use crate::id::PeerId;

use super::{
    AnnounceReply, DEFAULT_INTERVAL, MAX_REPLY, MAX_REPLY_PEERS, MAX_TRACKER_ID, ReplyError,
    ReplyPeer, TrackerAnswer, dialable,
};

/// Longest text of a tracker kept, in characters.
const MAX_TEXT: usize = 512;

/// A list of peers as dictionaries takes eight tokens each; `MAX_REPLY` bounds the rest.
const LIMITS: Limits = Limits {
    depth: 8,
    tokens: 100_000,
};

/// Peers kept that are named by host, each a question to a name server; and the longest name.
const MAX_HOSTS: usize = 16;
const MAX_HOST: usize = 253;

/// Bytes of an IPv4 and an IPv6 peer in compact form.
const V4: usize = 6;
const V6: usize = 18;

impl AnnounceReply {
    /// Tracker end: the body. `compact` and `no_peer_id` as asked.
    pub fn encode(&self, compact: bool, no_peer_id: bool, out: &mut Vec<u8>) {
        self.put_around(out, |out| {
            if compact {
                self.put_compact(out);
            } else {
                self.put_dictionaries(no_peer_id, out);
            }
        });
    }

    /// Tracker end: the body with peers that are in compact form already, whole ones that can
    /// be dialled; `self.peers` are left out.
    pub fn encode_compact(&self, v4: &[[u8; V4]], v6: &[[u8; V6]], out: &mut Vec<u8>) {
        self.put_around(out, |out| {
            out.extend_from_slice(b"5:peers");
            bencode::put_bytes(out, v4.as_flattened());
            if !v6.is_empty() {
                out.extend_from_slice(b"6:peers6");
                bencode::put_bytes(out, v6.as_flattened());
            }
        });
    }

    /// Everything but the peers, in canonical order around them.
    fn put_around(&self, out: &mut Vec<u8>, put_peers: impl FnOnce(&mut Vec<u8>)) {
        out.push(b'd');
        put_number(out, b"8:complete", self.complete);
        put_number(out, b"10:downloaded", self.downloaded);
        if let Some(ip) = self.external_ip {
            out.extend_from_slice(b"11:external ip");
            match ip.to_canonical() {
                IpAddr::V4(ip) => bencode::put_bytes(out, &ip.octets()),
                IpAddr::V6(ip) => bencode::put_bytes(out, &ip.octets()),
            }
        }
        put_number(out, b"10:incomplete", self.incomplete);
        put_number(out, b"8:interval", Some(self.interval));
        put_number(out, b"12:min interval", self.min_interval);
        put_peers(out);
        if let Some(id) = &self.tracker_id {
            out.extend_from_slice(b"10:tracker id");
            bencode::put_bytes(out, id.as_bytes());
        }
        if let Some(warning) = &self.warning {
            out.extend_from_slice(b"15:warning message");
            bencode::put_bytes(out, warning.as_bytes());
        }
        out.push(b'e');
    }

    /// BEP-23 and BEP-7. `peers` is there even when it is empty: some clients require it.
    fn put_compact(&self, out: &mut Vec<u8>) {
        let all = || self.peers.iter().filter_map(|peer| dialable(peer.addr));
        let v6 = all().filter(SocketAddr::is_ipv6).count();
        let v4 = all().count() - v6;
        out.reserve(v4 * V4 + v6 * V6 + 32);
        out.extend_from_slice(b"5:peers");
        put_length(out, v4 * V4);
        for addr in all() {
            if let IpAddr::V4(ip) = addr.ip() {
                out.extend_from_slice(&ip.octets());
                out.extend_from_slice(&addr.port().to_be_bytes());
            }
        }
        if v6 == 0 {
            return;
        }
        out.extend_from_slice(b"6:peers6");
        put_length(out, v6 * V6);
        for addr in all() {
            if let IpAddr::V6(ip) = addr.ip() {
                out.extend_from_slice(&ip.octets());
                out.extend_from_slice(&addr.port().to_be_bytes());
            }
        }
    }

    fn put_dictionaries(&self, no_peer_id: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"5:peersl");
        for peer in &self.peers {
            let Some(addr) = dialable(peer.addr) else {
                continue;
            };
            out.extend_from_slice(b"d2:ip");
            put_ip_text(out, addr.ip());
            if let Some(id) = peer.id.filter(|_| !no_peer_id) {
                out.extend_from_slice(b"7:peer id");
                bencode::put_bytes(out, id.as_bytes());
            }
            out.extend_from_slice(b"4:port");
            bencode::put_int(out, addr.port());
            out.push(b'e');
        }
        out.push(b'e');
    }

    /// Client end: reads a body of at most 1 MiB, lenient about order and unknown keys.
    ///
    /// Peers that nobody can dial are dropped; what comes after [`MAX_REPLY_PEERS`] too.
    pub fn decode(body: &[u8]) -> Result<TrackerAnswer<Self>, ReplyError> {
        let answer = parse(body)?;
        if let Some(failure) = failure(answer) {
            return Ok(failure);
        }
        let mut reply = Self {
            interval: DEFAULT_INTERVAL,
            ..Self::default()
        };
        for (key, value) in answer.entries().into_iter().flatten() {
            match key {
                b"complete" => reply.complete = number(value),
                b"downloaded" => reply.downloaded = number(value),
                b"incomplete" => reply.incomplete = number(value),
                b"interval" => reply.interval = number(value).unwrap_or(DEFAULT_INTERVAL),
                b"min interval" => reply.min_interval = number(value),
                b"external ip" => reply.external_ip = value.as_bytes().and_then(external_ip),
                b"tracker id" => reply.tracker_id = tracker_id(value),
                b"warning message" => reply.warning = text(value),
                b"peers" | b"peers6" => reply.read_peers(key == b"peers6", value),
                _ => {}
            }
        }
        Ok(TrackerAnswer::Ok(reply))
    }

    fn read_peers(&mut self, v6: bool, value: Value<'_>) {
        let room = MAX_REPLY_PEERS - self.peers.len();
        let plain = |addr| ReplyPeer { addr, id: None };
        if let Some(dictionaries) = value.items() {
            for peer in dictionaries.take(room) {
                match dictionary_peer(peer) {
                    Some(Named::At(peer)) => self.peers.push(peer),
                    Some(Named::Host(host, port)) if self.hosts.len() < MAX_HOSTS => {
                        self.hosts.push((host, port));
                    }
                    _ => {}
                }
            }
            return;
        }
        let bytes = value.as_bytes().unwrap_or_default();
        // A tail that is no whole peer is dropped.
        if v6 {
            let peers = bytes.as_chunks().0.iter().filter_map(compact_v6);
            self.peers.extend(peers.map(plain).take(room));
        } else {
            let peers = bytes.as_chunks().0.iter().filter_map(compact_v4);
            self.peers.extend(peers.map(plain).take(room));
        }
    }
}

fn put_number(out: &mut Vec<u8>, key: &[u8], number: Option<u32>) {
    if let Some(number) = number {
        out.extend_from_slice(key);
        bencode::put_int(out, number);
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.push(b':');
}

/// The address as text, by way of the stack.
fn put_ip_text(out: &mut Vec<u8>, ip: IpAddr) {
    let mut text = [0; 46];
    let mut rest = &mut text[..];
    write!(rest, "{ip}").expect("no address is longer");
    let left = rest.len();
    let len = text.len() - left;
    bencode::put_bytes(out, &text[..len]);
}

fn compact_v4(peer: &[u8; V4]) -> Option<SocketAddr> {
    let [a, b, c, d, port @ ..] = *peer;
    let ip = Ipv4Addr::new(a, b, c, d);
    dialable(SocketAddr::new(ip.into(), u16::from_be_bytes(port)))
}

fn compact_v6(peer: &[u8; V6]) -> Option<SocketAddr> {
    let (ip, port) = peer.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    dialable(SocketAddr::new(Ipv6Addr::from(*ip).into(), port))
}

/// BEP-3 lets a tracker name a peer by its address or by its host.
enum Named {
    At(ReplyPeer),
    Host(String, u16),
}

fn dictionary_peer(peer: Value<'_>) -> Option<Named> {
    let host = peer.get(b"ip")?.as_str()?;
    let port = u16::try_from(peer.get(b"port")?.as_uint()?).ok()?;
    let Ok(ip) = host.parse() else {
        let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let sane = (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(is_name);
        return (sane && port != 0).then(|| Named::Host(host.to_owned(), port));
    };
    let id = peer.get(b"peer id").and_then(Value::as_bytes);
    Some(Named::At(ReplyPeer {
        addr: dialable(SocketAddr::new(ip, port))?,
        id: id.and_then(|id| id.try_into().ok()).map(PeerId),
    }))
}

/// Four or sixteen bytes as in BEP-24, or the text that some trackers send.
fn external_ip(bytes: &[u8]) -> Option<IpAddr> {
    let text = || std::str::from_utf8(bytes).ok()?.parse().ok();
    binary_ip(bytes).or_else(text)
}

/// To be echoed byte for byte, so one that is no text of sane length is not kept at all.
fn tracker_id(value: Value<'_>) -> Option<String> {
    let id = value.as_str()?;
    (1..=MAX_TRACKER_ID)
        .contains(&id.len())
        .then(|| id.to_owned())
}

/// A number that is not negative; one beyond 32 bits is the largest.
pub(super) fn number(value: Value<'_>) -> Option<u32> {
    Some(u32::try_from(value.as_uint()?).unwrap_or(u32::MAX))
}

fn text(value: Value<'_>) -> Option<String> {
    Some(bencode::display_text(value.as_bytes()?, MAX_TEXT))
}

/// A tracker's answer: one dictionary. What follows it (a line break, often) is ignored.
pub(super) fn parse(body: &[u8]) -> Result<Value<'_>, ReplyError> {
    parse_within(body, LIMITS)
}

pub(super) fn parse_within(body: &[u8], limits: Limits) -> Result<Value<'_>, ReplyError> {
    if body.len() > MAX_REPLY {
        return Err(ReplyError::TooLong(body.len()));
    }
    let (answer, _) = Value::parse_prefix(body, limits)?;
    if answer.entries().is_none() {
        return Err(ReplyError::NotDictionary);
    }
    Ok(answer)
}

/// BEP-3's `failure reason`, and BEP-31's `retry in`: minutes or "never".
pub(super) fn failure<T>(answer: Value<'_>) -> Option<TrackerAnswer<T>> {
    let reason = answer.get(b"failure reason")?;
    let retry_in = answer.get(b"retry in").and_then(|value| {
        let minutes = || value.as_str()?.parse().ok();
        match value.as_bytes() {
            Some(b"never") => Some(None),
            _ => number(value).or_else(minutes).map(Some),
        }
    });
    Some(TrackerAnswer::Failure {
        reason: text(reason).unwrap_or_else(|| "no reason given".to_owned()),
        retry_in,
    })
}

/// Tracker end: a `failure reason` body.
pub fn encode_failure(reason: &str, retry_in_minutes: Option<u32>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"d14:failure reason");
    bencode::put_bytes(out, reason.as_bytes());
    put_number(out, b"8:retry in", retry_in_minutes);
    out.push(b'e');
}

#[cfg(test)]
mod tests;
