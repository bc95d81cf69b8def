//! One entry of the shared stream: a version, then records one after the other.
//!
//! ```text
//! 02 | 01 waited:4 hash:20 id:20 ip:16 port:2 flags:1 event:1 left:8 key:8 up:8 down:8
//!    | 02 waited:4 length:4 body (as origins post it)
//! ```
//!
//! All numbers are big-endian. `waited` says in milliseconds for how long the record had been heard
//! when the entry was written. Version 1, which earlier trackers write, lacks it: such a record
//! counts as heard when its entry was written. Any other version is refused whole, as those
//! trackers refuse this one: neither takes the other's words for something else.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use torrents::announce::{AnnounceEvent, AnnounceRequest, dialable};
use torrents::register::{MAX_BODY, RegisterError, RegisterRequest};
use torrents::{InfoHash, PeerId};

use crate::swarms::Asker;

const VERSION: u8 = 2;
/// Records of it do not say how long they waited.
const UNDATED: u8 = 1;
const ANNOUNCE: u8 = 1;
const REGISTER: u8 = 2;

/// What every record begins with: its kind, and how long it waited.
const HEAD_SIZE: usize = 1 + size_of::<u32>();
const ANNOUNCE_SIZE: usize = HEAD_SIZE + 20 + 20 + 16 + 2 + 1 + 1 + 4 * 8;

const EXEMPT: u8 = 1;
const TRUSTED: u8 = 2;
const HAS_LEFT: u8 = 4;
const HAS_KEY: u8 = 8;

/// What a tracker heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Announce(HeardAnnounce),
    /// A [`RegisterRequest`], encoded.
    Register(Vec<u8>),
}

/// What an announce says that others must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeardAnnounce {
    info_hash: InfoHash,
    peer_id: PeerId,
    at: SocketAddr,
    exempt: bool,
    trusted: bool,
    event: AnnounceEvent,
    left: Option<u64>,
    key: Option<u64>,
    uploaded: u64,
    downloaded: u64,
}

/// Bytes that no tracker of this version wrote.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("written by another version")]
    Version,
    #[error("cut off")]
    Short,
    #[error("a record of an unknown kind")]
    Kind,
    #[error("an announce of an unknown event, or from an address that cannot be dialled")]
    Announce,
    #[error(transparent)]
    Register(#[from] RegisterError),
}

impl Heard {
    /// Bytes of it in an entry.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Announce(_) => ANNOUNCE_SIZE,
            Self::Register(body) => HEAD_SIZE + size_of::<u32>() + body.len(),
        }
    }
}

impl HeardAnnounce {
    /// `None` when it is of no use elsewhere: a peer on this host's loopback.
    pub(crate) fn new(request: &AnnounceRequest, asker: &Asker) -> Option<Self> {
        (!asker.at.ip().is_loopback()).then_some(Self {
            info_hash: request.info_hash,
            peer_id: request.peer_id,
            at: asker.at,
            exempt: asker.exempt,
            trusted: asker.trusted,
            event: request.event,
            left: request.left,
            key: request.key,
            uploaded: request.uploaded,
            downloaded: request.downloaded,
        })
    }

    /// The same announce by the same asker, who wants no peers.
    pub(crate) fn replay(&self) -> (AnnounceRequest, Asker) {
        let request = AnnounceRequest {
            info_hash: self.info_hash,
            peer_id: self.peer_id,
            port: self.at.port(),
            uploaded: self.uploaded,
            downloaded: self.downloaded,
            left: self.left,
            event: self.event,
            numwant: Some(0),
            compact: true,
            no_peer_id: true,
            key: self.key,
            ip: None,
            tracker_id: None,
        };
        let asker = Asker {
            at: self.at,
            local: false,
            exempt: self.exempt,
            trusted: self.trusted,
        };
        (request, asker)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let flag = |bit, set| if set { bit } else { 0 };
        let ip = match self.at.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.extend_from_slice(&self.info_hash.0);
        out.extend_from_slice(&self.peer_id.0);
        out.extend_from_slice(&ip.octets());
        out.extend_from_slice(&self.at.port().to_be_bytes());
        out.push(
            flag(EXEMPT, self.exempt)
                | flag(TRUSTED, self.trusted)
                | flag(HAS_LEFT, self.left.is_some())
                | flag(HAS_KEY, self.key.is_some()),
        );
        out.push(match self.event {
            AnnounceEvent::None => 0,
            AnnounceEvent::Started => 1,
            AnnounceEvent::Completed => 2,
            AnnounceEvent::Stopped => 3,
            AnnounceEvent::Paused => 4,
        });
        let numbers = [
            self.left.unwrap_or(0),
            self.key.unwrap_or(0),
            self.uploaded,
            self.downloaded,
        ];
        numbers
            .iter()
            .for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
    }

    fn decode(from: &mut &[u8]) -> Result<Self, RecordError> {
        let info_hash = InfoHash(array(from)?);
        let peer_id = PeerId(array(from)?);
        let ip = Ipv6Addr::from(array::<16>(from)?).to_canonical();
        let port = u16::from_be_bytes(array(from)?);
        let [flags, event] = array(from)?;
        let numbers = [(); 4].map(|()| array(from).map(u64::from_be_bytes));
        let [left, key, uploaded, downloaded] = numbers;
        let has = |bit| flags & bit != 0;
        if dialable(SocketAddr::new(ip, 1)).is_none() || ip.is_loopback() {
            return Err(RecordError::Announce);
        }
        Ok(Self {
            info_hash,
            peer_id,
            at: SocketAddr::new(ip, port),
            exempt: has(EXEMPT),
            trusted: has(TRUSTED),
            event: match event {
                0 => AnnounceEvent::None,
                1 => AnnounceEvent::Started,
                2 => AnnounceEvent::Completed,
                3 => AnnounceEvent::Stopped,
                4 => AnnounceEvent::Paused,
                _ => return Err(RecordError::Announce),
            },
            left: Some(left?).filter(|_| has(HAS_LEFT)),
            key: Some(key?).filter(|_| has(HAS_KEY)),
            uploaded: uploaded?,
            downloaded: downloaded?,
        })
    }
}

/// What an origin registered, as others are to hear it; `None` when none of its addresses is of
/// use to them.
pub(crate) fn registered(request: &RegisterRequest) -> Option<Heard> {
    let mut request = request.clone();
    request.peers.retain(|addr| !addr.ip().is_loopback());
    (!request.peers.is_empty()).then(|| Heard::Register(request.encode()))
}

/// One entry, of records and how long each waited for it.
pub(crate) fn encode<'a>(records: impl IntoIterator<Item = (Duration, &'a Heard)>) -> Vec<u8> {
    let mut out = vec![VERSION];
    for (waited, record) in records {
        out.push(match record {
            Heard::Announce(_) => ANNOUNCE,
            Heard::Register(_) => REGISTER,
        });
        let millis = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
        out.extend_from_slice(&millis.to_be_bytes());
        match record {
            Heard::Announce(announce) => announce.encode(&mut out),
            Heard::Register(body) => {
                let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(body);
            }
        }
    }
    out
}

/// All of an entry or nothing: its records, and how long each waited for it.
pub(crate) fn decode(mut from: &[u8]) -> Result<Vec<(Duration, Heard)>, RecordError> {
    let [version] = array(&mut from)?;
    if !matches!(version, VERSION | UNDATED) {
        return Err(RecordError::Version);
    }
    let mut records = Vec::new();
    while !from.is_empty() {
        let [kind] = array(&mut from)?;
        let waited = match version {
            UNDATED => 0,
            _ => u32::from_be_bytes(array(&mut from)?),
        };
        let heard = match kind {
            ANNOUNCE => Heard::Announce(HeardAnnounce::decode(&mut from)?),
            REGISTER => {
                let length = u32::from_be_bytes(array(&mut from)?) as usize;
                let body = from.split_off(..length).filter(|_| length <= MAX_BODY);
                let body = body.ok_or(RecordError::Short)?;
                RegisterRequest::decode(body)?;
                Heard::Register(body.to_vec())
            }
            _ => return Err(RecordError::Kind),
        };
        records.push((Duration::from_millis(waited.into()), heard));
    }
    Ok(records)
}

fn array<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (head, rest) = from.split_first_chunk().ok_or(RecordError::Short)?;
    *from = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_event() -> impl Strategy<Value = AnnounceEvent> {
        prop_oneof![
            Just(AnnounceEvent::None),
            Just(AnnounceEvent::Started),
            Just(AnnounceEvent::Completed),
            Just(AnnounceEvent::Stopped),
            Just(AnnounceEvent::Paused),
        ]
    }

    fn any_addr() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 3]>(), any::<u16>())
                .prop_map(|([b, c, d], port)| SocketAddr::from(([10, b, c, d], port))),
            (any::<u16>(), any::<u16>())
                .prop_map(|(n, port)| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], port))),
        ]
    }

    prop_compose! {
        fn any_announce()(
            hash in any::<[u8; 20]>(),
            id in any::<[u8; 20]>(),
            at in any_addr(),
            flags in any::<[bool; 2]>(),
            event in any_event(),
            optional in any::<[Option<u64>; 2]>(),
            numbers in any::<[u64; 2]>(),
        ) -> HeardAnnounce {
            HeardAnnounce {
                info_hash: InfoHash(hash),
                peer_id: PeerId(id),
                at,
                exempt: flags[0],
                trusted: flags[1],
                event,
                left: optional[0],
                key: optional[1],
                uploaded: numbers[0],
                downloaded: numbers[1],
            }
        }
    }

    fn entry(records: &[(Duration, Heard)]) -> Vec<u8> {
        encode(records.iter().map(|(waited, heard)| (*waited, heard)))
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            announces in prop::collection::vec((any::<u32>(), any_announce()), 0..4),
        ) {
            let waited = |millis: u32| Duration::from_millis(millis.into());
            let records: Vec<_> = announces
                .into_iter()
                .map(|(millis, announce)| (waited(millis), Heard::Announce(announce)))
                .collect();
            let bytes = entry(&records);
            let sizes = records.iter().map(|(_, heard)| heard.size());
            prop_assert_eq!(bytes.len(), 1 + sizes.sum::<usize>());
            prop_assert_eq!(decode(&bytes).unwrap(), records);
        }

        #[test]
        fn what_an_earlier_version_wrote_counts_as_just_heard(announce in any_announce()) {
            let mut bytes = vec![UNDATED, ANNOUNCE];
            announce.encode(&mut bytes);
            let records = vec![(Duration::ZERO, Heard::Announce(announce))];
            prop_assert_eq!(decode(&bytes).unwrap(), records);
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            for version in [UNDATED, VERSION] {
                let _ = decode(&[&[version, ANNOUNCE], &bytes[..]].concat());
                let _ = decode(&[&[version, REGISTER], &bytes[..]].concat());
            }
        }

        #[test]
        fn what_is_cut_off_is_refused(announce in any_announce(), cut in 1..90_usize) {
            let bytes = entry(&[(Duration::ZERO, Heard::Announce(announce))]);
            prop_assert!(decode(&bytes[..bytes.len() - cut]).is_err());
        }
    }

    #[test]
    fn a_registration_is_as_long_as_it_says() {
        let record = Heard::Register(vec![7; 99]);
        let length = 1 + record.size();
        assert_eq!(entry(&[(Duration::ZERO, record)]).len(), length);
    }

    #[test]
    fn an_age_too_long_to_tell_is_the_longest() {
        let record = Heard::Register(RegisterRequest::encode(&RegisterRequest {
            origin: PeerId([1; 20]),
            peers: Vec::new(),
            add: Vec::new(),
            remove: Vec::new(),
        }));
        let read = decode(&entry(&[(Duration::MAX, record)])).unwrap();
        assert_eq!(read[0].0.as_millis(), u32::MAX.into());
    }

    #[test]
    fn loopback_stays_at_home() {
        let origin = RegisterRequest {
            origin: PeerId([1; 20]),
            peers: vec!["127.0.0.1:15001".parse().unwrap()],
            add: Vec::new(),
            remove: Vec::new(),
        };
        assert_eq!(registered(&origin), None);
    }
}
