//! The deny list: info hashes that are never served, in a file an operator edits under way.
//!
//! One info hash a line, in hexadecimal; what follows it, blank lines and lines that start with
//! `#` are for people. A list that cannot be read at the start is an error; later it is said
//! once, and the list in force stays in force.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use torrents::InfoHash;

/// Why a deny list cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DenyError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The list.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A line names no info hash.
    #[error("{path}, line {line}: {text:?} is no info hash of 40 hexadecimal digits")]
    Line {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The start of what stands there.
        text: String,
    },
}

/// A file that is watched for changes.
#[derive(Debug)]
pub(crate) struct DenyFile {
    path: PathBuf,
    stamp: Option<Stamp>,
}

/// What changes when a file does, also when another takes its place.
type Stamp = (SystemTime, u64, u64);

impl DenyFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, stamp: None }
    }

    /// The list, if it changed since it was last asked for. Blocking.
    pub(crate) fn changed(&mut self) -> Option<Result<HashSet<InfoHash>, DenyError>> {
        let stamp = stamp(&self.path);
        if let (Ok(new), Some(old)) = (&stamp, &self.stamp)
            && new == old
        {
            return None;
        }
        // A file that is gone is said once, too.
        let gone = (SystemTime::UNIX_EPOCH, 0, 0);
        if stamp.is_err() && self.stamp == Some(gone) {
            return None;
        }
        self.stamp = Some(stamp.unwrap_or(gone));
        Some(read(&self.path))
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len(), metadata.ino()))
}

fn read(path: &Path) -> Result<HashSet<InfoHash>, DenyError> {
    let text = fs::read_to_string(path).map_err(|error| DenyError::File {
        path: path.to_owned(),
        error,
    })?;
    parse(&text).map_err(|(line, text)| DenyError::Line {
        path: path.to_owned(),
        line,
        text,
    })
}

/// The hashes a list names, or the line that names none.
fn parse(text: &str) -> Result<HashSet<InfoHash>, (usize, String)> {
    let mut hashes = HashSet::new();
    for (number, line) in text.lines().enumerate() {
        let Some(word) = line.split_whitespace().next() else {
            continue;
        };
        if word.starts_with('#') {
            continue;
        }
        let hash = word
            .parse()
            .map_err(|_| (number + 1, word.chars().take(60).collect()))?;
        hashes.insert(hash);
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_list_is_for_people_too() {
        let upper = A.to_uppercase();
        let text = format!("# stolen\n\n{A} leaked on Monday\r\n  {upper}\n#{A}\n");
        let hashes = parse(&text).unwrap();
        assert_eq!(hashes, HashSet::from([A.parse().unwrap()]));
        assert_eq!(parse("\n0123").unwrap_err(), (2, "0123".to_owned()));
    }

    #[test]
    fn a_file_is_read_when_it_changed_and_trouble_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("denied");
        fs::write(&path, A).unwrap();
        let mut file = DenyFile::new(path.clone());
        assert_eq!(file.changed().unwrap().unwrap().len(), 1);
        assert!(file.changed().is_none());
        // As a careful editor does it: another file in its place.
        fs::write(dir.path().join("new"), "").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(file.changed().unwrap().unwrap().is_empty());
        fs::remove_file(&path).unwrap();
        assert!(file.changed().unwrap().is_err());
        assert!(file.changed().is_none());
        fs::write(&path, "nonsense").unwrap();
        let error = file.changed().unwrap().unwrap_err().to_string();
        assert!(error.contains("line 1: \"nonsense\""), "{error}");
        assert!(file.changed().is_none());
    }
}
