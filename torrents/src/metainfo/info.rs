//! The `info` dictionary: read as it came, and made in our own form.

use bendy::encoding::Encoder;
use bytes::Bytes;

use crate::bencode::Value;
use crate::geometry::Geometry;
use crate::id::InfoHash;

use super::files::{self, is_safe_component};
use super::{FileSpan, Inner, LIMITS, MAX_METAINFO, MetainfoError, PieceHash};

const HASH_LEN: usize = size_of::<PieceHash>();

/// The values we read, each at most once.
#[derive(Default)]
struct Fields<'a> {
    files: Option<Value<'a>>,
    length: Option<Value<'a>>,
    name: Option<Value<'a>>,
    name_utf8: Option<Value<'a>>,
    piece_length: Option<Value<'a>>,
    pieces: Option<Value<'a>>,
    private: Option<Value<'a>>,
    meta_version: Option<Value<'a>>,
}

impl<'a> Fields<'a> {
    fn read(info: Value<'a>) -> Result<Self, MetainfoError> {
        let mut fields = Self::default();
        for (key, value) in info.entries().ok_or(MetainfoError::Malformed("info"))? {
            let (name, slot) = match key {
                b"files" => ("files", &mut fields.files),
                b"length" => ("length", &mut fields.length),
                b"name" => ("name", &mut fields.name),
                b"name.utf-8" => ("name.utf-8", &mut fields.name_utf8),
                b"piece length" => ("piece length", &mut fields.piece_length),
                b"pieces" => ("pieces", &mut fields.pieces),
                b"private" => ("private", &mut fields.private),
                b"meta version" => ("meta version", &mut fields.meta_version),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(MetainfoError::Twice(name));
            }
        }
        Ok(fields)
    }

    fn name(&self) -> Result<String, MetainfoError> {
        let name = self.name_utf8.or(self.name);
        let name = name.ok_or(MetainfoError::Missing("name"))?;
        files::component(name.as_bytes().ok_or(MetainfoError::Malformed("name"))?)
    }

    fn files(&self, name: &str) -> Result<(Vec<FileSpan>, u64), MetainfoError> {
        match (self.length, self.files) {
            (Some(_), Some(_)) => Err(MetainfoError::LengthAndFiles),
            (None, None) => Err(MetainfoError::Missing("length")),
            (None, Some(files)) => files::spans(name, files),
            (Some(length), None) => {
                let length = length.as_uint().ok_or(MetainfoError::Malformed("length"))?;
                Ok((vec![FileSpan::single(name, length)], length))
            }
        }
    }
}

impl FileSpan {
    fn single(name: &str, length: u64) -> Self {
        Self {
            path: vec![name.to_owned()],
            offset: 0,
            length,
            pad: false,
        }
    }
}

pub(super) fn parse(raw: Bytes) -> Result<Inner, MetainfoError> {
    if raw.len() > MAX_METAINFO {
        return Err(MetainfoError::TooLarge(raw.len()));
    }
    let fields = Fields::read(Value::parse(&raw, LIMITS)?)?;
    let Some(pieces) = fields.pieces else {
        let v2 = fields.meta_version.and_then(Value::as_int) == Some(2);
        return Err(if v2 {
            MetainfoError::V2Only
        } else {
            MetainfoError::Missing("pieces")
        });
    };
    let name = fields.name()?;
    let (files, length) = fields.files(&name)?;
    let piece_len = fields
        .piece_length
        .ok_or(MetainfoError::Missing("piece length"))?
        .as_uint()
        .ok_or(MetainfoError::Malformed("piece length"))?;
    let geometry = Geometry::new(length, piece_len)?;
    let pieces = pieces
        .as_bytes()
        .ok_or(MetainfoError::Malformed("pieces"))?;
    check_hashes(pieces.len(), &geometry)?;
    Ok(Inner {
        hash: InfoHash::of(&raw),
        name,
        geometry,
        private: fields.private.and_then(Value::as_int).unwrap_or(0) != 0,
        files,
        pieces: raw.slice_ref(pieces),
        raw,
    })
}

pub(super) fn build(
    name: &str,
    geometry: Geometry,
    pieces: &[PieceHash],
) -> Result<Inner, MetainfoError> {
    if !is_safe_component(name) {
        return Err(MetainfoError::UnsafeName(name.to_owned()));
    }
    let hashes = pieces.as_flattened();
    check_hashes(hashes.len(), &geometry)?;
    // Read back like anybody's: what we make, we can read.
    parse(encode(name, &geometry, hashes).into())
}

/// Our five keys. `bendy` refuses keys out of order: every origin that holds the same bytes
/// must come to the same info hash.
fn encode(name: &str, geometry: &Geometry, hashes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new().with_max_depth(1);
    encoder
        .emit_dict(|mut info| {
            info.emit_pair_with(b"length", |e| e.emit_int(geometry.length()))?;
            info.emit_pair_with(b"name", |e| e.emit_str(name))?;
            info.emit_pair_with(b"piece length", |e| e.emit_int(geometry.piece_len()))?;
            info.emit_pair_with(b"pieces", |e| e.emit_bytes(hashes))?;
            info.emit_pair_with(b"private", |e| e.emit_int(1u8))
        })
        .and_then(|()| encoder.get_output())
        .expect("five keys in order, one level deep")
}

fn check_hashes(got: usize, geometry: &Geometry) -> Result<(), MetainfoError> {
    let want = geometry.pieces() as usize * HASH_LEN;
    if got != want {
        return Err(MetainfoError::PieceHashes { got, want });
    }
    Ok(())
}
