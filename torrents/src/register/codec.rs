//! The bodies, by way of `bendy`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bendy::decoding::{Decoder, Error, ListDecoder, Object};
use bendy::encoding::{Encoder, Error as EncodeError, SingleItemEncoder};

use crate::announce::dialable;
use crate::bencode::display_text;
use crate::extended::binary_ip;
use crate::id::{InfoHash, PeerId};

use super::{
    LookupReply, MAX_BATCH, MAX_BODY, MAX_BOOT_ID, MAX_NAMES, MAX_PEERS, RegisterError,
    RegisterReply, RegisterRequest, Registration, is_label, is_name,
};

/// Containers inside each other: the request, `add`, an entry, `names`.
const MAX_DEPTH: usize = 4;

/// No lease is longer, whatever a tracker says.
const MAX_LEASE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Longest refusal shown, in characters.
const MAX_TEXT: usize = 512;

type Result<T> = std::result::Result<T, RegisterError>;
type Encoded = std::result::Result<(), EncodeError>;

impl RegisterRequest {
    /// The body. Names that cannot travel are left out; a request beyond the limits of this
    /// module is encoded as it is and refused by the tracker, so cut it with
    /// [`RegisterRequest::into_batches`] first.
    pub fn encode(&self) -> Vec<u8> {
        encode(|encoder| {
            encoder.emit_dict(|mut request| {
                request.emit_pair_with(b"add", |e| {
                    e.emit_list(|list| {
                        self.add
                            .iter()
                            .try_for_each(|entry| list.emit_with(|e| entry.emit(e)))
                    })
                })?;
                request.emit_pair_with(b"origin", |e| e.emit_bytes(self.origin.as_bytes()))?;
                request.emit_pair_with(b"peers", |e| {
                    e.emit_list(|list| {
                        self.peers
                            .iter()
                            .try_for_each(|&addr| list.emit_bytes(&compact(addr)))
                    })
                })?;
                let remove: Vec<u8> = self.remove.iter().flat_map(|hash| hash.0).collect();
                request.emit_pair_with(b"remove", |e| e.emit_bytes(&remove))
            })
        })
    }

    /// Reads a body within the limits above.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let (mut origin, mut peers, mut add, mut remove) = (None, None, None, None);
        decode(body, |key, value| {
            match key {
                b"add" => add = Some(list(value, "add", MAX_BATCH, Registration::read)?),
                b"origin" => origin = Some(PeerId(fixed(&value, "origin")?)),
                b"peers" => peers = Some(list(value, "peers", MAX_PEERS, |peer| address(&peer))?),
                b"remove" => remove = Some(hashes(&value)?),
                _ => {}
            }
            Ok(())
        })?;
        let request = Self {
            origin: origin.ok_or(RegisterError::Missing("origin"))?,
            peers: peers.ok_or(RegisterError::Missing("peers"))?,
            add: add.unwrap_or_default(),
            remove: remove.unwrap_or_default(),
        };
        if request.add.len() + request.remove.len() > MAX_BATCH {
            return Err(RegisterError::TooMany("add"));
        }
        Ok(request)
    }
}

impl Registration {
    fn emit(&self, encoder: SingleItemEncoder<'_>) -> Encoded {
        encoder.emit_dict(|mut entry| {
            entry.emit_pair_with(b"info_hash", |e| e.emit_bytes(self.info_hash.as_bytes()))?;
            entry.emit_pair_with(b"label", |e| e.emit_str(&self.label))?;
            entry.emit_pair_with(b"length", |e| e.emit_int(self.length))?;
            entry.emit_pair_with(b"names", |e| {
                e.emit_list(|list| self.sent_names().try_for_each(|name| list.emit_str(name)))
            })
        })
    }

    fn read(value: Object<'_, '_>) -> Result<Self> {
        let (mut info_hash, mut label, mut length) = (None, None, None);
        let mut names = Vec::new();
        each_pair(value, "add", |key, value| {
            match key {
                b"info_hash" => info_hash = Some(InfoHash(fixed(&value, "info_hash")?)),
                b"label" => label = Some(text(&value, "label", is_label)?),
                b"length" => length = Some(number(&value, "length")?),
                b"names" => {
                    names = list(value, "names", MAX_NAMES, |name| {
                        text(&name, "names", is_name)
                    })?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self {
            info_hash: info_hash.ok_or(RegisterError::Missing("info_hash"))?,
            label: label.ok_or(RegisterError::Missing("label"))?,
            length: length.ok_or(RegisterError::Missing("length"))?,
            names,
        })
    }
}

impl RegisterReply {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let lease = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        encode(|encoder| {
            encoder.emit_dict(|mut reply| {
                reply.emit_pair_with(b"boot_id", |e| e.emit_str(&self.boot_id))?;
                reply.emit_pair_with(b"held", |e| e.emit_int(self.held))?;
                reply.emit_pair_with(b"lease_ms", |e| e.emit_int(lease))
            })
        })
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let (mut boot_id, mut lease, mut held) = (None, None, None);
        let bounded = |text: &str| {
            (1..=MAX_BOOT_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        decode(body, |key, value| {
            match key {
                b"boot_id" => boot_id = Some(text(&value, "boot_id", bounded)?),
                b"held" => held = Some(number(&value, "held")?),
                b"lease_ms" => lease = Some(Duration::from_millis(number(&value, "lease_ms")?)),
                _ => {}
            }
            Ok(())
        })?;
        let lease = lease.ok_or(RegisterError::Missing("lease_ms"))?;
        if lease.is_zero() {
            return Err(RegisterError::Malformed("lease_ms"));
        }
        Ok(Self {
            boot_id: boot_id.ok_or(RegisterError::Missing("boot_id"))?,
            lease: lease.min(MAX_LEASE),
            held: held.ok_or(RegisterError::Missing("held"))?,
        })
    }
}

impl LookupReply {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        encode(|encoder| {
            encoder.emit_dict(|mut reply| {
                reply.emit_pair_with(b"info_hash", |e| e.emit_bytes(self.info_hash.as_bytes()))?;
                reply.emit_pair_with(b"length", |e| e.emit_int(self.length))
            })
        })
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let (mut info_hash, mut length) = (None, None);
        decode(body, |key, value| {
            match key {
                b"info_hash" => info_hash = Some(InfoHash(fixed(&value, "info_hash")?)),
                b"length" => length = Some(number(&value, "length")?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self {
            info_hash: info_hash.ok_or(RegisterError::Missing("info_hash"))?,
            length: length.ok_or(RegisterError::Missing("length"))?,
        })
    }
}

fn encode(content: impl FnOnce(&mut Encoder) -> Encoded) -> Vec<u8> {
    let mut encoder = Encoder::new().with_max_depth(MAX_DEPTH);
    content(&mut encoder)
        .and_then(|()| encoder.get_output())
        .expect("keys in order, no deeper than the limit")
}

/// Reads a body that is one dictionary and nothing else.
fn decode<'ser>(
    body: &'ser [u8],
    mut field: impl FnMut(&[u8], Object<'_, 'ser>) -> Result<()>,
) -> Result<()> {
    if body.len() > MAX_BODY {
        return Err(RegisterError::TooLong(body.len()));
    }
    let mut decoder = Decoder::new(body).with_max_depth(MAX_DEPTH);
    let object = decoder.next_object()?;
    let object = object.ok_or(RegisterError::Malformed("body"))?;
    each_pair(object, "body", |key, value| match (key, &value) {
        (b"failure reason", Object::Bytes(reason)) => {
            Err(RegisterError::Refused(display_text(reason, MAX_TEXT)))
        }
        _ => field(key, value),
    })?;
    match decoder.next_object()? {
        None => Ok(()),
        Some(_) => Err(RegisterError::Malformed("body")),
    }
}

fn each_pair<'ser>(
    value: Object<'_, 'ser>,
    name: &'static str,
    mut field: impl FnMut(&[u8], Object<'_, 'ser>) -> Result<()>,
) -> Result<()> {
    let mut pairs = value.dictionary_or(Err(RegisterError::Malformed(name)))?;
    while let Some((key, value)) = pairs.next_pair()? {
        field(key, value)?;
    }
    Ok(())
}

/// The elements of a list of at most `max`.
fn list<T>(
    value: Object<'_, '_>,
    name: &'static str,
    max: usize,
    read: impl Fn(Object<'_, '_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut items: ListDecoder<'_, '_> = value.list_or(Err(RegisterError::Malformed(name)))?;
    let mut all = Vec::new();
    while let Some(item) = items.next_object()? {
        if all.len() == max {
            return Err(RegisterError::TooMany(name));
        }
        all.push(read(item)?);
    }
    Ok(all)
}

fn bytes<'ser>(value: &Object<'_, 'ser>, name: &'static str) -> Result<&'ser [u8]> {
    match value {
        Object::Bytes(bytes) => Ok(bytes),
        _ => Err(RegisterError::Malformed(name)),
    }
}

fn fixed<const N: usize>(value: &Object<'_, '_>, name: &'static str) -> Result<[u8; N]> {
    bytes(value, name)?
        .try_into()
        .map_err(|_| RegisterError::Malformed(name))
}

fn text(value: &Object<'_, '_>, name: &'static str, fits: impl Fn(&str) -> bool) -> Result<String> {
    let text = std::str::from_utf8(bytes(value, name)?).ok();
    text.filter(|text| fits(text))
        .map(str::to_owned)
        .ok_or(RegisterError::Malformed(name))
}

fn number(value: &Object<'_, '_>, name: &'static str) -> Result<u64> {
    match value {
        Object::Integer(digits) => digits.parse().map_err(|_| RegisterError::Malformed(name)),
        _ => Err(RegisterError::Malformed(name)),
    }
}

fn hashes(value: &Object<'_, '_>) -> Result<Vec<InfoHash>> {
    let (hashes, []) = bytes(value, "remove")?.as_chunks() else {
        return Err(RegisterError::Malformed("remove"));
    };
    if hashes.len() > MAX_BATCH {
        return Err(RegisterError::TooMany("remove"));
    }
    Ok(hashes.iter().copied().map(InfoHash).collect())
}

fn compact(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend_from_slice(&addr.port().to_be_bytes());
    bytes
}

/// An address that others can dial: an origin that states another has a fault to be told.
fn address(value: &Object<'_, '_>) -> Result<SocketAddr> {
    let malformed = RegisterError::Malformed("peers");
    let Some((ip, port)) = bytes(value, "peers")?.split_last_chunk() else {
        return Err(malformed);
    };
    binary_ip(ip)
        .and_then(|ip| dialable(SocketAddr::new(ip, u16::from_be_bytes(*port))))
        .ok_or(malformed)
}

impl From<Error> for RegisterError {
    fn from(error: Error) -> Self {
        Self::Bencode(error.to_string())
    }
}
