//! The announce query, composed and read.
//!
//! A value of 20 bytes may hold any byte: `%00`, a raw `+` (which is a plus, not a space), hex
//! in either case. A number that is odd is treated as a careful client would mean it; only the
//! parameters without which there is no announce can fail it.

use std::fmt::Write;
use std::net::IpAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use crate::id::{InfoHash, PeerId};

use super::{AnnounceEvent, AnnounceRequest, MAX_TRACKER_ID, QueryError};

/// RFC 3986's unreserved characters stay as they are, everything else is escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The longest text of an address: IPv6 with an IPv4 tail.
const MAX_IP_TEXT: usize = 45;

impl AnnounceRequest {
    /// Client end: appends the query to `url`'s text (`?` or `&` as fits).
    pub fn to_url(&self, announce_url: &str) -> String {
        let mut url = open_query(announce_url, 320);
        let hash = percent_encode(self.info_hash.as_bytes(), ESCAPED);
        let id = percent_encode(self.peer_id.as_bytes(), ESCAPED);
        let (port, uploaded, downloaded) = (self.port, self.uploaded, self.downloaded);
        put(
            &mut url,
            format_args!("info_hash={hash}&peer_id={id}&port={port}"),
        );
        put(
            &mut url,
            format_args!("&uploaded={uploaded}&downloaded={downloaded}"),
        );
        if let Some(left) = self.left {
            put(&mut url, format_args!("&left={left}"));
        }
        put(
            &mut url,
            format_args!("&compact={}", u8::from(self.compact)),
        );
        if self.no_peer_id {
            url.push_str("&no_peer_id=1");
        }
        if let Some(event) = event_name(self.event) {
            put(&mut url, format_args!("&event={event}"));
        }
        if let Some(numwant) = self.numwant {
            put(&mut url, format_args!("&numwant={numwant}"));
        }
        if let Some(key) = self.key {
            put(&mut url, format_args!("&key={key:016x}"));
        }
        if let Some(ip) = self.ip {
            let ip = ip.to_string();
            put(
                &mut url,
                format_args!("&ip={}", percent_encode(ip.as_bytes(), ESCAPED)),
            );
        }
        if let Some(id) = &self.tracker_id {
            put(
                &mut url,
                format_args!("&trackerid={}", percent_encode(id.as_bytes(), ESCAPED)),
            );
        }
        url
    }

    /// Tracker end: reads the raw query (without `?`), allocation-free in the usual case.
    ///
    /// Where a parameter other than `info_hash` comes twice, the first counts. `ipv4=` and
    /// `ipv6=` are ignored: BEP 7 discourages them, since they aim swarms at victims.
    pub fn from_query(query: &[u8]) -> Result<Self, QueryError> {
        let mut said = Said::default();
        for (key, value) in pairs(query) {
            said.take(key, value)?;
        }
        let port = said.port.ok_or(QueryError::Missing("port"))?;
        Ok(Self {
            info_hash: InfoHash(said.info_hash.ok_or(QueryError::Missing("info_hash"))?),
            peer_id: PeerId(said.peer_id.ok_or(QueryError::Missing("peer_id"))?),
            port: number(port)
                .and_then(|port| u16::try_from(port).ok())
                .ok_or(QueryError::Port)?,
            uploaded: said.uploaded.and_then(number).unwrap_or(0),
            downloaded: said.downloaded.and_then(number).unwrap_or(0),
            left: said.left.and_then(number),
            event: said.event.map_or(AnnounceEvent::None, event),
            numwant: said
                .numwant
                .and_then(number)
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            compact: said.compact != Some(b"0"),
            no_peer_id: said.no_peer_id == Some(b"1"),
            key: said.key.map(key_hash),
            ip: said.ip.and_then(ip),
            tracker_id: said.tracker_id.and_then(tracker_id),
        })
    }
}

/// The values as they stand in the query.
#[derive(Default)]
struct Said<'a> {
    info_hash: Option<[u8; 20]>,
    peer_id: Option<[u8; 20]>,
    port: Option<&'a [u8]>,
    uploaded: Option<&'a [u8]>,
    downloaded: Option<&'a [u8]>,
    left: Option<&'a [u8]>,
    event: Option<&'a [u8]>,
    numwant: Option<&'a [u8]>,
    compact: Option<&'a [u8]>,
    no_peer_id: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    ip: Option<&'a [u8]>,
    tracker_id: Option<&'a [u8]>,
}

impl<'a> Said<'a> {
    fn take(&mut self, key: &[u8], value: &'a [u8]) -> Result<(), QueryError> {
        let slot = match key {
            b"info_hash" => {
                if self.info_hash.is_some() {
                    return Err(QueryError::SeveralHashes);
                }
                self.info_hash = Some(twenty_bytes("info_hash", value)?);
                return Ok(());
            }
            b"peer_id" => {
                if self.peer_id.is_none() {
                    self.peer_id = Some(twenty_bytes("peer_id", value)?);
                }
                return Ok(());
            }
            b"port" => &mut self.port,
            b"uploaded" => &mut self.uploaded,
            b"downloaded" => &mut self.downloaded,
            b"left" => &mut self.left,
            b"event" => &mut self.event,
            b"numwant" => &mut self.numwant,
            b"compact" => &mut self.compact,
            b"no_peer_id" => &mut self.no_peer_id,
            b"key" => &mut self.key,
            b"ip" => &mut self.ip,
            b"trackerid" => &mut self.tracker_id,
            _ => return Ok(()),
        };
        slot.get_or_insert(value);
        Ok(())
    }
}

/// `url` with its own query kept and room for ours after it.
pub(super) fn open_query(url: &str, room: usize) -> String {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let mut open = String::with_capacity(url.len() + room);
    open.push_str(url);
    if !url.contains('?') {
        open.push('?');
    } else if !url.ends_with(['?', '&']) {
        open.push('&');
    }
    open
}

/// Appends an `info_hash`, escaped.
pub(super) fn put_hash(url: &mut String, hash: &InfoHash) {
    put(
        url,
        format_args!("info_hash={}", percent_encode(hash.as_bytes(), ESCAPED)),
    );
}

fn put(url: &mut String, text: std::fmt::Arguments<'_>) {
    url.write_fmt(text)
        .expect("writing to a String cannot fail");
}

/// Keys and raw values. A part without `=` is no parameter; a `=` inside a value is its own.
pub(super) fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|&byte| byte == b'&').filter_map(|part| {
        let at = part.iter().position(|&byte| byte == b'=')?;
        Some((&part[..at], &part[at + 1..]))
    })
}

/// The bytes of an `info_hash` or `peer_id`: exactly 20 after unescaping, no broken escape.
pub(super) fn twenty_bytes(name: &'static str, value: &[u8]) -> Result<[u8; 20], QueryError> {
    let mut bytes = [0; 20];
    let mut rest = value;
    for byte in &mut bytes {
        (*byte, rest) = match *rest {
            [b'%', high, low, ref rest @ ..] => (
                hex_digit(high)
                    .zip(hex_digit(low))
                    .map(|(high, low)| high << 4 | low)
                    .ok_or(QueryError::NotTwentyBytes(name))?,
                rest,
            ),
            [b'%', ..] | [] => return Err(QueryError::NotTwentyBytes(name)),
            [byte, ref rest @ ..] => (byte, rest),
        };
    }
    if rest.is_empty() {
        Ok(bytes)
    } else {
        Err(QueryError::NotTwentyBytes(name))
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Digits and nothing else; a number beyond 64 bits is the largest.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

fn event(name: &[u8]) -> AnnounceEvent {
    match name {
        b"started" => AnnounceEvent::Started,
        b"completed" => AnnounceEvent::Completed,
        b"stopped" => AnnounceEvent::Stopped,
        b"paused" => AnnounceEvent::Paused,
        _ => AnnounceEvent::None,
    }
}

fn event_name(event: AnnounceEvent) -> Option<&'static str> {
    match event {
        AnnounceEvent::None => None,
        AnnounceEvent::Started => Some("started"),
        AnnounceEvent::Completed => Some("completed"),
        AnnounceEvent::Stopped => Some("stopped"),
        AnnounceEvent::Paused => Some("paused"),
    }
}

/// FNV-1a over the unescaped key. Nobody gains by a collision: whoever could make one would
/// have to know the key already.
fn key_hash(key: &[u8]) -> u64 {
    percent_decode(key).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// An address in digits. BEP 3 allows a host name too; we look nothing up for strangers.
fn ip(value: &[u8]) -> Option<IpAddr> {
    let mut text = [0; MAX_IP_TEXT];
    let mut len = 0;
    for byte in percent_decode(value) {
        *text.get_mut(len)? = byte;
        len += 1;
    }
    let ip: IpAddr = std::str::from_utf8(&text[..len]).ok()?.parse().ok()?;
    Some(ip.to_canonical())
}

fn tracker_id(value: &[u8]) -> Option<String> {
    if value.len() > 3 * MAX_TRACKER_ID {
        return None;
    }
    let id = percent_decode(value).decode_utf8().ok()?.into_owned();
    (1..=MAX_TRACKER_ID).contains(&id.len()).then_some(id)
}

#[cfg(test)]
mod tests;
