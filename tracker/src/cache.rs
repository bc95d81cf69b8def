//! Registrations on disk, so that a tracker that restarts is whole at once.
//!
//! A cache, not a store of record: origins register again when they see a new boot id. One
//! file of JSON lines, replaced whole by rename; a file that cannot be read is put aside in
//! words and forgotten. What is read from it stays unconfirmed for one lease.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use torrents::register::{Registration, is_label};
use torrents::{InfoHash, PeerId};

use crate::moment::Moment;
use crate::registrations::{Effect, Entry, Registrations, Rejected, Slot};

const FILE: &str = "registrations.jsonl";
const FORMAT: u32 = 1;

/// A line longer than this is none of ours.
const MAX_LINE: u64 = 64 * 1024;

/// Why the cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{path}: line {line} is no registration: {error}")]
    Line {
        path: PathBuf,
        line: usize,
        error: serde_json::Error,
    },
    #[error("{path}: format {format} is not the one this version writes ({FORMAT})")]
    Format { path: PathBuf, format: u32 },
    #[error("{path}: {error}")]
    Full { path: PathBuf, error: Rejected },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Format {
        format: u32,
    },
    Origin {
        number: Slot,
        #[serde(with = "hex::serde")]
        id: [u8; 20],
        peers: Vec<SocketAddr>,
        /// Its lease had ended, or another had its address.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        asleep: bool,
    },
    Swarm {
        info_hash: InfoHash,
        label: String,
        length: u64,
        names: Vec<String>,
        /// Numbers of the origins that hold it.
        origins: Vec<Slot>,
    },
}

/// All registrations at one time. Taking it costs no more than counting references, so that the
/// registrations are not locked while they are written.
pub(crate) struct Snapshot {
    changes: u64,
    origins: Vec<Line>,
    swarms: Vec<(InfoHash, Entry)>,
}

impl Snapshot {
    pub(crate) fn of(registrations: &Registrations) -> Self {
        let origins = registrations.origins().map(|origin| Line::Origin {
            number: origin.slot,
            id: origin.id.0,
            peers: origin.addrs.to_vec(),
            asleep: !origin.awake,
        });
        let swarms = registrations.iter();
        Self {
            changes: registrations.changes(),
            origins: origins.collect(),
            swarms: swarms.map(|(hash, entry)| (*hash, entry.clone())).collect(),
        }
    }

    /// What `Registrations::changes` was.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Writes it beside the old file, then puts it in its place.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), CacheError> {
        let path = directory.join(FILE);
        let beside = directory.join(format!("{FILE}.new"));
        let written = (|| {
            let mut file = BufWriter::new(fs::File::create(&beside)?);
            self.write(&mut file)?;
            file.into_inner()?.sync_data()?;
            fs::rename(&beside, &path)
        })();
        written.map_err(|error| CacheError::File { path, error })
    }

    fn write(&self, mut file: impl Write) -> io::Result<()> {
        let mut push = |line: &Line| {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")
        };
        push(&Line::Format { format: FORMAT })?;
        for origin in &self.origins {
            push(origin)?;
        }
        for (info_hash, entry) in &self.swarms {
            push(&Line::Swarm {
                info_hash: *info_hash,
                label: entry.label.to_string(),
                length: entry.length,
                names: entry.names.iter().map(ToString::to_string).collect(),
                origins: entry.holders().collect(),
            })?;
        }
        Ok(())
    }
}

/// Reads what an earlier tracker saved; nothing when there is no file. What was read before a
/// fault stays.
pub(crate) fn load(
    directory: &Path,
    now: Moment,
    registrations: &mut Registrations,
    effects: &mut Vec<Effect>,
) -> Result<(), CacheError> {
    let path = directory.join(FILE);
    let file_error = |error| CacheError::File {
        path: path.clone(),
        error,
    };
    let mut file = match fs::File::open(&path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file_error(error)),
    };
    let mut restoring = Restoring {
        now,
        registrations,
        effects,
        slots: HashMap::new(),
    };
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let read = (&mut file).take(MAX_LINE).read_until(b'\n', &mut text);
        if read.map_err(file_error)? == 0 {
            break;
        }
        let path = || path.clone();
        let parsed = serde_json::from_slice(&text).map_err(|error| CacheError::Line {
            path: path(),
            line,
            error,
        })?;
        if let Line::Format { format } = parsed
            && format != FORMAT
        {
            return Err(CacheError::Format {
                path: path(),
                format,
            });
        }
        restoring.take(parsed).map_err(|error| CacheError::Full {
            path: path(),
            error,
        })?;
    }
    Ok(())
}

/// Lines on their way into the registrations.
struct Restoring<'a> {
    now: Moment,
    registrations: &'a mut Registrations,
    effects: &'a mut Vec<Effect>,
    /// The file's numbers of origins, and today's.
    slots: HashMap<Slot, Slot>,
}

impl Restoring<'_> {
    fn take(&mut self, line: Line) -> Result<(), Rejected> {
        match line {
            Line::Format { .. } => {}
            Line::Origin {
                number,
                id,
                peers,
                asleep,
            } => {
                let id = PeerId(id);
                let slot = self
                    .registrations
                    .restore_origin(self.now, id, &peers, !asleep)?;
                self.slots.insert(number, slot);
            }
            Line::Swarm { label, .. } if !is_label(&label) => {}
            Line::Swarm {
                info_hash,
                label,
                length,
                names,
                origins,
            } => {
                let slots = origins
                    .iter()
                    .filter_map(|number| self.slots.get(number).copied());
                let slots: Vec<Slot> = slots.collect();
                let registration = Registration {
                    info_hash,
                    label,
                    length,
                    names,
                };
                let Self {
                    registrations,
                    effects,
                    ..
                } = self;
                registrations.restore_entry(self.now, &registration, &slots, effects)?;
            }
        }
        Ok(())
    }
}
