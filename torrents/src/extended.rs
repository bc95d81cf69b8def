//! BEP-10 extended handshake, and the messages we put on it: `ut_metadata` (BEP-9, between
//! our own peers) and `lt_donthave` (BEP-54). `upload_only` (BEP-21) rides in the handshake.
//!
//! Invariants: our handshake stays under 500 bytes (rTorrent's buffer); others' are decoded
//! leniently, up to 16 KiB and a shallow depth: what is missing, out of range or of another
//! type than the BEP says counts as unsaid, because a peer with an odd `v` still has pieces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use crate::bencode::{self, BencodeError, Limits, Value};
use crate::geometry::PieceIndex;
use crate::metainfo::MAX_METAINFO;

/// How we number `ut_metadata` for the messages we receive.
pub const OUR_UT_METADATA: u8 = 1;
/// How we number `lt_donthave` for the messages we receive.
pub const OUR_LT_DONTHAVE: u8 = 2;

/// The number of the extended handshake itself.
pub const HANDSHAKE_ID: u8 = 0;

/// BEP-9 cuts the info dictionary into pieces of this length.
pub const METADATA_PIECE_LEN: u32 = 16 * 1024;

/// Longest handshake we read.
const MAX_HANDSHAKE: usize = 16 * 1024;

/// Longest `v` we keep or send, in characters.
const MAX_CLIENT: usize = 64;

const LIMITS: Limits = Limits {
    depth: 8,
    tokens: 2_000,
};

/// What a peer says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtendedHandshake {
    /// `v`: client and version, cleaned for display and bounded.
    pub client: Option<String>,
    /// `p`: the port it listens on.
    pub listen_port: Option<u16>,
    /// `reqq`: requests it queues.
    pub reqq: Option<u32>,
    /// `yourip`: how it sees us.
    pub your_ip: Option<IpAddr>,
    /// BEP-21: it downloads nothing.
    pub upload_only: bool,
    /// Its number for `ut_metadata`; `None` or 0 is "not spoken".
    pub ut_metadata: Option<u8>,
    /// Its number for `lt_donthave`.
    pub lt_donthave: Option<u8>,
    /// Length of the info dictionary.
    pub metadata_size: Option<u32>,
}

/// A BEP-9 message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in BEP 9")]
pub enum MetadataMessage {
    Request {
        piece: u32,
    },
    Data {
        piece: u32,
        total_size: u32,
        bytes: Bytes,
    },
    Reject {
        piece: u32,
    },
}

/// A payload that is not what its message id promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendedError {
    /// Longer than any such message.
    #[error("an extended message of {0} bytes")]
    TooLong(usize),
    /// No bencode within the limits.
    #[error("an extended message that is no bencode: {0}")]
    Bencode(#[from] BencodeError),
    /// Bencode, but no dictionary.
    #[error("an extended message that is no dictionary")]
    NotDictionary,
    /// A `ut_metadata` message without a piece number, or with an impossible one.
    #[error("a ut_metadata message without a usable `{0}`")]
    Metadata(&'static str),
    /// A `ut_metadata` message of a type that BEP-9 does not define: to be ignored.
    #[error("a ut_metadata message of unknown type {0}")]
    UnknownMetadata(i64),
    /// An `lt_donthave` that is not four bytes.
    #[error("an lt_donthave of {0} bytes")]
    DontHave(usize),
}

impl ExtendedHandshake {
    /// The payload of extended message 0. `ut_metadata` and `lt_donthave` are numbered by the
    /// constants above when they are `Some`.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(192);
        out.extend_from_slice(b"d1:md");
        if self.lt_donthave.is_some() {
            out.extend_from_slice(b"11:lt_donthave");
            bencode::put_int(&mut out, OUR_LT_DONTHAVE);
        }
        if self.ut_metadata.is_some() {
            out.extend_from_slice(b"11:ut_metadata");
            bencode::put_int(&mut out, OUR_UT_METADATA);
        }
        out.push(b'e');
        if let Some(size) = self.metadata_size {
            out.extend_from_slice(b"13:metadata_size");
            bencode::put_int(&mut out, size);
        }
        if let Some(port) = self.listen_port {
            out.extend_from_slice(b"1:p");
            bencode::put_int(&mut out, port);
        }
        if let Some(reqq) = self.reqq {
            out.extend_from_slice(b"4:reqq");
            bencode::put_int(&mut out, reqq);
        }
        if self.upload_only {
            out.extend_from_slice(b"11:upload_onlyi1e");
        }
        if let Some(client) = &self.client {
            let client = bencode::display_text(client.as_bytes(), MAX_CLIENT);
            out.extend_from_slice(b"1:v");
            bencode::put_bytes(&mut out, client.as_bytes());
        }
        if let Some(ip) = self.your_ip {
            out.extend_from_slice(b"6:yourip");
            match ip.to_canonical() {
                IpAddr::V4(ip) => bencode::put_bytes(&mut out, &ip.octets()),
                IpAddr::V6(ip) => bencode::put_bytes(&mut out, &ip.octets()),
            }
        }
        out.push(b'e');
        out.into()
    }

    /// Reads the payload of extended message 0.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtendedError> {
        if payload.len() > MAX_HANDSHAKE {
            return Err(ExtendedError::TooLong(payload.len()));
        }
        // What follows the dictionary is ignored, as libtorrent does.
        let (value, _) = Value::parse_prefix(payload, LIMITS)?;
        let mut said = Self::default();
        for (key, value) in value.entries().ok_or(ExtendedError::NotDictionary)? {
            match key {
                b"m" => said.read_numbers(value),
                b"metadata_size" => {
                    said.metadata_size = positive(value).filter(|&n| n as usize <= MAX_METAINFO);
                }
                b"p" => said.listen_port = positive(value).and_then(|n| u16::try_from(n).ok()),
                b"reqq" => said.reqq = positive(value),
                b"upload_only" => said.upload_only = value.as_int().is_some_and(|n| n != 0),
                b"v" => {
                    said.client = value
                        .as_bytes()
                        .map(|text| bencode::display_text(text, MAX_CLIENT))
                        .filter(|text| !text.trim().is_empty());
                }
                b"yourip" => said.your_ip = value.as_bytes().and_then(binary_ip),
                _ => {}
            }
        }
        Ok(said)
    }

    fn read_numbers(&mut self, numbers: Value<'_>) {
        for (name, number) in numbers.entries().into_iter().flatten() {
            let number = positive(number).and_then(|n| u8::try_from(n).ok());
            match name {
                b"ut_metadata" => self.ut_metadata = number,
                b"lt_donthave" => self.lt_donthave = number,
                _ => {}
            }
        }
    }
}

/// A number above zero; one too large for the field counts as the largest that fits.
fn positive(value: Value<'_>) -> Option<u32> {
    let number = value.as_uint().filter(|&n| n > 0)?;
    Some(u32::try_from(number).unwrap_or(u32::MAX))
}

/// An address as its four or sixteen bytes; IPv4 inside IPv6 is IPv4.
pub(crate) fn binary_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(sixteen)).to_canonical())
}

impl MetadataMessage {
    /// The payload of the extended message.
    pub fn encode(&self) -> Bytes {
        let (kind, piece, data) = match self {
            Self::Request { piece } => (0, *piece, None),
            Self::Data {
                piece,
                total_size,
                bytes,
            } => (1, *piece, Some((*total_size, bytes))),
            Self::Reject { piece } => (2, *piece, None),
        };
        let mut out = Vec::with_capacity(64 + data.map_or(0, |(_, bytes)| bytes.len()));
        out.extend_from_slice(b"d8:msg_type");
        bencode::put_int(&mut out, kind);
        out.extend_from_slice(b"5:piece");
        bencode::put_int(&mut out, piece);
        if let Some((total_size, bytes)) = data {
            out.extend_from_slice(b"10:total_size");
            bencode::put_int(&mut out, total_size);
            out.push(b'e');
            out.extend_from_slice(bytes);
        } else {
            out.push(b'e');
        }
        out.into()
    }

    /// Reads the payload of the extended message. Data has the length that its piece number
    /// and the total promise, and is a view into the payload.
    pub fn decode(payload: &Bytes) -> Result<Self, ExtendedError> {
        use ExtendedError::Metadata;
        if payload.len() > MAX_HANDSHAKE + METADATA_PIECE_LEN as usize {
            return Err(ExtendedError::TooLong(payload.len()));
        }
        let (head, rest) = Value::parse_prefix(payload, LIMITS)?;
        if head.entries().is_none() {
            return Err(ExtendedError::NotDictionary);
        }
        let number = |key: &[u8]| head.get(key)?.as_uint()?.try_into().ok();
        let piece: u32 = number(b"piece").ok_or(Metadata("piece"))?;
        match head.get(b"msg_type").and_then(Value::as_int) {
            Some(0) => Ok(Self::Request { piece }),
            Some(1) => {
                let total_size = number(b"total_size")
                    .filter(|&size| size as usize <= MAX_METAINFO)
                    .ok_or(Metadata("total_size"))?;
                let start = u64::from(piece) * u64::from(METADATA_PIECE_LEN);
                let due = u64::from(total_size)
                    .checked_sub(start)
                    .map(|left| left.min(METADATA_PIECE_LEN.into()));
                if due != Some(rest.len() as u64) || rest.is_empty() {
                    return Err(Metadata("length"));
                }
                Ok(Self::Data {
                    piece,
                    total_size,
                    bytes: payload.slice(payload.len() - rest.len()..),
                })
            }
            Some(2) => Ok(Self::Reject { piece }),
            Some(other) => Err(ExtendedError::UnknownMetadata(other)),
            None => Err(Metadata("msg_type")),
        }
    }
}

/// The payload of `lt_donthave`.
pub fn encode_donthave(piece: PieceIndex) -> Bytes {
    Bytes::copy_from_slice(&piece.get().to_be_bytes())
}

/// Reads the payload of `lt_donthave`: a piece number, yet unchecked.
pub fn decode_donthave(payload: &[u8]) -> Result<u32, ExtendedError> {
    let four = payload
        .try_into()
        .map_err(|_| ExtendedError::DontHave(payload.len()))?;
    Ok(u32::from_be_bytes(four))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> ExtendedHandshake {
        ExtendedHandshake {
            client: Some("Groundswell 0.1.0".to_owned()),
            listen_port: Some(16_001),
            reqq: Some(2_000),
            your_ip: Some(Ipv4Addr::new(10, 0, 1, 7).into()),
            upload_only: true,
            ut_metadata: Some(OUR_UT_METADATA),
            lt_donthave: Some(OUR_LT_DONTHAVE),
            metadata_size: Some(31_235),
        }
    }

    #[test]
    fn the_handshake_is_canonical() {
        let golden: &[u8] = b"d1:md11:lt_donthavei2e11:ut_metadatai1ee\
            13:metadata_sizei31235e1:pi16001e4:reqqi2000e11:upload_onlyi1e\
            1:v17:Groundswell 0.1.06:yourip4:\x0a\x00\x01\x07e";
        assert_eq!(ours().encode(), golden);
        assert_eq!(ExtendedHandshake::decode(golden), Ok(ours()));
        assert_eq!(&ExtendedHandshake::default().encode()[..], b"d1:mdee");
    }

    #[test]
    fn the_handshake_is_short_whatever_it_says() {
        let longest = ExtendedHandshake {
            client: Some("\u{10ffff}".repeat(1_000)),
            listen_port: Some(u16::MAX),
            reqq: Some(u32::MAX),
            your_ip: Some(Ipv6Addr::LOCALHOST.into()),
            metadata_size: Some(u32::MAX),
            ..ours()
        };
        assert!(longest.encode().len() < 500);
    }

    #[test]
    fn others_are_read_leniently() {
        let said = ExtendedHandshake::decode(
            b"d6:yourip16:\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01\
              1:v8:\x1b[31mTR\n1:pi99999e4:reqq3:2501:zd1:ald1:bleeee\
              1:md6:ut_pexi1e11:ut_metadatai0e11:lt_donthavei7ee11:upload_onlyi0eetrailing",
        );
        let expected = ExtendedHandshake {
            client: Some(" [31mTR ".to_owned()),
            your_ip: Some(Ipv4Addr::LOCALHOST.into()),
            lt_donthave: Some(7),
            ..ExtendedHandshake::default()
        };
        assert_eq!(said, Ok(expected));
        let odd = b"d1:m1:x13:metadata_sizei-5e1:pi0e4:reqqi99999999999e1:vi3e6:yourip3:abce";
        let expected = ExtendedHandshake {
            reqq: Some(u32::MAX),
            ..ExtendedHandshake::default()
        };
        assert_eq!(ExtendedHandshake::decode(odd), Ok(expected));
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let decode = ExtendedHandshake::decode;
        assert_eq!(decode(b""), Err(BencodeError::Truncated.into()));
        assert_eq!(decode(b"le"), Err(ExtendedError::NotDictionary));
        assert_eq!(decode(&b"d1:a".repeat(9)), Err(BencodeError::Depth.into()));
        let long = vec![b'd'; MAX_HANDSHAKE + 1];
        assert_eq!(decode(&long), Err(ExtendedError::TooLong(long.len())));
        let many = [b"d1:al".to_vec(), b"0:".repeat(4_000), b"ee".to_vec()].concat();
        assert_eq!(decode(&many), Err(BencodeError::Tokens.into()));
    }

    #[test]
    fn metadata_messages_have_the_bytes_of_bep_9() {
        let data = MetadataMessage::Data {
            piece: 1,
            total_size: 16_384 + 3,
            bytes: Bytes::from_static(b"d\0e"),
        };
        for (message, golden) in [
            (
                MetadataMessage::Request { piece: 0 },
                &b"d8:msg_typei0e5:piecei0ee"[..],
            ),
            (
                MetadataMessage::Reject { piece: 7 },
                b"d8:msg_typei2e5:piecei7ee",
            ),
            (data, b"d8:msg_typei1e5:piecei1e10:total_sizei16387eed\0e"),
        ] {
            assert_eq!(message.encode(), golden);
            assert_eq!(MetadataMessage::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn metadata_that_cannot_be_is_refused() {
        let decode =
            |text: &'static str| MetadataMessage::decode(&Bytes::from_static(text.as_bytes()));
        for text in [
            "d8:msg_typei1e5:piecei0e10:total_sizei4eeabc",
            "d8:msg_typei1e5:piecei0e10:total_sizei2eeabc",
            "d8:msg_typei1e5:piecei1e10:total_sizei3eeabc",
            "d8:msg_typei1e5:piecei1e10:total_sizei16384ee",
        ] {
            assert_eq!(
                decode(text),
                Err(ExtendedError::Metadata("length")),
                "{text}"
            );
        }
        assert_eq!(
            decode("d8:msg_typei1e5:piecei0e10:total_sizei99999999eeabc"),
            Err(ExtendedError::Metadata("total_size"))
        );
        assert_eq!(
            decode("d8:msg_typei0ee"),
            Err(ExtendedError::Metadata("piece"))
        );
        assert_eq!(
            decode("d5:piecei-1ee"),
            Err(ExtendedError::Metadata("piece"))
        );
        assert_eq!(
            decode("d5:piecei1ee"),
            Err(ExtendedError::Metadata("msg_type"))
        );
        assert_eq!(
            decode("d8:msg_typei3e5:piecei0ee"),
            Err(ExtendedError::UnknownMetadata(3))
        );
    }

    #[test]
    fn donthave_is_four_bytes() {
        let geometry = crate::Geometry::new(1 << 20, 1 << 10).unwrap();
        let payload = encode_donthave(geometry.piece(1_023).unwrap());
        assert_eq!(&payload[..], b"\0\0\x03\xff");
        assert_eq!(decode_donthave(&payload), Ok(1_023));
        assert_eq!(
            decode_donthave(b"\0\0\x03"),
            Err(ExtendedError::DontHave(3))
        );
    }
}
