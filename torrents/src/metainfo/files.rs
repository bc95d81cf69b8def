//! The files of a torrent: their places in its bytes, and names that are safe to create.
//!
//! Names come from strangers. Invariant: a component that passes [`is_safe_component`] names
//! one entry of the directory it is joined to, on every system we run on, and can be printed.

use crate::bencode::Value;

use super::{FileSpan, MAX_FILES, MetainfoError};

/// What file systems take as one component, in bytes.
const MAX_COMPONENT: usize = 255;

/// Directories inside each other.
const MAX_DEPTH: usize = 100;

/// Whether a name is one path component that stays in its directory: not empty, `.` or `..`,
/// without separator or control character, and not too long for a file system.
pub fn is_safe_component(name: &str) -> bool {
    (1..=MAX_COMPONENT).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .chars()
            .any(|c| matches!(c, '/' | '\\') || c.is_control())
}

/// The name in these bytes. Each byte that is not UTF-8 is written as its number, `%E9`: names in
/// other encodings stay different from each other.
pub(super) fn component(bytes: &[u8]) -> Result<String, MetainfoError> {
    // Refused before it is copied: it may be megabytes.
    let shown = &bytes[..bytes.len().min(MAX_COMPONENT + 1)];
    let mut name = String::new();
    for chunk in shown.utf8_chunks() {
        name.push_str(chunk.valid());
        name.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    if is_safe_component(&name) {
        Ok(name)
    } else {
        Err(MetainfoError::UnsafeName(name))
    }
}

/// The spans of a `files` list, and their total.
pub(super) fn spans(name: &str, files: Value<'_>) -> Result<(Vec<FileSpan>, u64), MetainfoError> {
    let malformed = || MetainfoError::Malformed("files");
    let mut spans = Vec::new();
    let mut offset = 0u64;
    for file in files.items().ok_or_else(malformed)? {
        if spans.len() == MAX_FILES {
            return Err(MetainfoError::TooManyFiles);
        }
        let file = File::read(file)?;
        // BEP-47: a symbolic link has no bytes. It is left out, for it could point anywhere.
        if file.has(b'l') {
            if file.length.is_some_and(|length| length != 0) {
                return Err(malformed());
            }
            continue;
        }
        let length = file.length.ok_or(MetainfoError::Missing("length"))?;
        spans.push(FileSpan {
            path: file.path(name)?,
            offset,
            length,
            pad: file.has(b'p'),
        });
        offset = offset
            .checked_add(length)
            .ok_or(MetainfoError::LengthOverflow)?;
    }
    refuse_collisions(&spans)?;
    Ok((spans, offset))
}

/// One entry of `files`, as far as we read it.
#[derive(Default)]
struct File<'a> {
    length: Option<u64>,
    path: Option<Value<'a>>,
    path_utf8: Option<Value<'a>>,
    attributes: &'a [u8],
}

impl<'a> File<'a> {
    fn read(value: Value<'a>) -> Result<Self, MetainfoError> {
        let entries = value.entries().ok_or(MetainfoError::Malformed("files"))?;
        let mut file = Self::default();
        for (key, value) in entries {
            match key {
                b"length" => {
                    let length = value.as_uint().ok_or(MetainfoError::Malformed("length"))?;
                    if file.length.replace(length).is_some() {
                        return Err(MetainfoError::Twice("length"));
                    }
                }
                b"path" if file.path.is_some() => return Err(MetainfoError::Twice("path")),
                b"path" => file.path = Some(value),
                b"path.utf-8" => file.path_utf8 = Some(value),
                b"attr" => file.attributes = value.as_bytes().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(file)
    }

    fn has(&self, attribute: u8) -> bool {
        self.attributes.contains(&attribute)
    }

    fn path(&self, name: &str) -> Result<Vec<String>, MetainfoError> {
        let malformed = || MetainfoError::Malformed("path");
        let path = self.path_utf8.or(self.path);
        let parts = path.ok_or(MetainfoError::Missing("path"))?;
        let mut path = vec![name.to_owned()];
        for part in parts.items().ok_or_else(malformed)? {
            if path.len() > MAX_DEPTH {
                return Err(malformed());
            }
            path.push(component(part.as_bytes().ok_or_else(malformed)?)?);
        }
        if path.len() < 2 {
            return Err(malformed());
        }
        Ok(path)
    }
}

/// No two files may share a path, nor one be a directory of another. Pad files are never
/// written, and clients give many of them one name.
fn refuse_collisions(spans: &[FileSpan]) -> Result<(), MetainfoError> {
    let mut paths: Vec<_> = spans
        .iter()
        .filter(|span| !span.pad)
        .map(|span| &span.path[..])
        .collect();
    paths.sort_unstable();
    // In this order, whatever begins with a path follows it at once.
    match paths.windows(2).find(|pair| pair[1].starts_with(pair[0])) {
        Some(pair) => Err(MetainfoError::Collision(pair[0].join("/"))),
        None => Ok(()),
    }
}
