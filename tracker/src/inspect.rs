//! What people and machines read about swarms, as JSON.
//!
//! Walks the tables shard by shard, holding a lock only for one shard's worth. Texts come from
//! origins; they leave as JSON strings, and whoever shows them escapes them again.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use torrents::InfoHash;

use crate::endpoint::Endpoint;
use crate::moment::Moment;
use crate::peers::{Flags, LEFT_UNKNOWN, Peer};
use crate::registrations::Entry;
use crate::swarms::Swarm;
use crate::table::Table;

/// Rows of a page when unsaid, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// The tracker at a glance.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    boot_id: String,
    version: &'static str,
    uptime_seconds: u64,
    swarms: usize,
    registered: usize,
    seeds: usize,
    leechers: usize,
    origins: Vec<OriginStatus>,
}

#[derive(Debug, Serialize)]
struct OriginStatus {
    id: String,
    addrs: Vec<SocketAddr>,
    /// Holds a lease.
    live: bool,
    registrations: u64,
}

/// Which swarms to list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SwarmPage {
    /// Rows at most.
    limit: Option<usize>,
    /// Continue behind this info hash.
    after: Option<InfoHash>,
    /// In the label, in a name, or at the start of the info hash.
    search: Option<String>,
    /// Only swarms with a leecher.
    active: bool,
}

/// Which peers of a swarm to list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PeerPage {
    limit: Option<usize>,
    offset: usize,
}

/// One page of swarms, ordered by info hash.
#[derive(Debug, Serialize)]
pub(crate) struct SwarmList {
    /// Swarms held in all, searched for or not.
    total: usize,
    swarms: Vec<SwarmRow>,
    /// What to pass as `after` for the next page.
    next: Option<InfoHash>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SwarmRow {
    info_hash: InfoHash,
    /// The blob's digest.
    label: Option<String>,
    names: Vec<String>,
    /// Bytes.
    length: Option<u64>,
    seeds: u32,
    leechers: u32,
    completed: u32,
    /// Of the seeds, registered origins.
    origins: usize,
}

/// One swarm and a page of its peers.
#[derive(Debug, Serialize)]
pub(crate) struct SwarmView {
    #[serde(flatten)]
    row: SwarmRow,
    origin_addrs: Vec<SocketAddr>,
    total_peers: usize,
    peers: Vec<PeerRow>,
}

#[derive(Debug, Serialize)]
struct PeerRow {
    addr: SocketAddr,
    id: String,
    client: Option<String>,
    seed: bool,
    /// A partial seed: wants nothing more.
    paused: bool,
    /// Bytes missing.
    left: Option<u64>,
    /// From 0 to 1, when the length is known.
    progress: Option<f64>,
    uploaded: u64,
    downloaded: u64,
    /// Bytes per second between its last two announces.
    rate: u32,
    joined_seconds_ago: u64,
    seen_seconds_ago: u64,
    /// For how long a leecher got no nearer to the end.
    stalled_seconds: Option<u64>,
}

pub(crate) fn status(table: &Table, now: Moment) -> Status {
    let totals = table.totals();
    let registrations = table.registrations();
    let origins = registrations.origins().map(|origin| OriginStatus {
        id: origin.id.to_string(),
        addrs: origin.addrs.to_vec(),
        live: origin.awake,
        registrations: origin.held,
    });
    Status {
        boot_id: table.boot_id().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: now.since(Moment::default()).as_secs(),
        swarms: totals.swarms,
        registered: totals.registered,
        seeds: totals.seeds,
        leechers: totals.peers - totals.seeds,
        origins: origins.collect(),
    }
}

pub(crate) fn swarms(table: &Table, page: &SwarmPage) -> SwarmList {
    let limit = page.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let search = page
        .search
        .as_deref()
        .map(str::to_lowercase)
        .filter(|s| !s.is_empty());
    let mut rows: Vec<SwarmRow> = Vec::new();
    for shard in table.shards_from(page.after.as_ref()) {
        let mut found = table.read_shard(shard, |shard| {
            let behind = |hash: &InfoHash| page.after.is_none_or(|after| *hash > after);
            let swarms = shard.iter().filter(|(hash, _)| behind(hash));
            let rows = swarms.map(|(hash, swarm)| bare_row(*hash, swarm, shard.origins()));
            rows.filter(|row| !page.active || row.leechers > 0)
                .collect::<Vec<_>>()
        });
        found.sort_unstable_by_key(|row| row.info_hash);
        let registrations = table.registrations();
        for mut row in found {
            if let Some(entry) = registrations.entry(&row.info_hash) {
                describe(&mut row, entry);
            }
            if search.as_ref().is_none_or(|search| matches(&row, search)) {
                rows.push(row);
            }
            if rows.len() > limit {
                break;
            }
        }
        if rows.len() > limit {
            break;
        }
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.info_hash);
    SwarmList {
        total: table.occupancy().swarms,
        swarms: rows,
        next,
    }
}

/// Swarms that something happened in at `since` or later, as many as a page takes.
pub(crate) fn changed(table: &Table, since: Moment) -> Vec<SwarmRow> {
    let mut rows = Vec::new();
    for shard in table.shards_from(None) {
        table.read_shard(shard, |shard| {
            let changed = shard.iter().filter(|(_, swarm)| swarm.changed() >= since);
            let room = PAGE_MAX - rows.len();
            let new = changed.map(|(hash, swarm)| bare_row(*hash, swarm, shard.origins()));
            rows.extend(new.take(room));
        });
    }
    let registrations = table.registrations();
    for row in &mut rows {
        if let Some(entry) = registrations.entry(&row.info_hash) {
            describe(row, entry);
        }
    }
    rows
}

/// One swarm by info hash or label.
pub(crate) fn swarm(table: &Table, now: Moment, name: &str, page: &PeerPage) -> Option<SwarmView> {
    let info_hash = match name.parse() {
        Ok(info_hash) => info_hash,
        Err(_) => table.lookup(name)?.info_hash,
    };
    let entry = table.registrations().entry(&info_hash).cloned();
    let length = entry.as_ref().map(|entry| entry.length);
    let limit = page.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let mut view = table.with_shard(&info_hash, |shard| {
        let swarm = shard.swarm(&info_hash)?;
        let v4 = swarm.v4().map(|(at, peer)| peer_row(at, peer, now, length));
        let v6 = swarm.v6().map(|(at, peer)| peer_row(at, peer, now, length));
        Some(SwarmView {
            row: bare_row(info_hash, swarm, shard.origins()),
            origin_addrs: swarm
                .awake(shard.origins())
                .flat_map(|origin| origin.addrs.iter().copied())
                .collect(),
            total_peers: swarm.len(),
            peers: v4.chain(v6).skip(page.offset).take(limit).collect(),
        })
    })?;
    if let Some(entry) = &entry {
        describe(&mut view.row, entry);
    }
    Some(view)
}

fn bare_row(info_hash: InfoHash, swarm: &Swarm, origins: &crate::swarms::OriginTable) -> SwarmRow {
    let entry = swarm.entry(origins);
    SwarmRow {
        info_hash,
        label: None,
        names: Vec::new(),
        length: None,
        seeds: entry.complete,
        leechers: entry.incomplete,
        completed: entry.downloaded,
        origins: swarm.awake(origins).count(),
    }
}

fn describe(row: &mut SwarmRow, entry: &Entry) {
    row.label = Some(entry.label.to_string());
    row.length = Some(entry.length);
    row.names = entry.names.iter().map(ToString::to_string).collect();
}

fn matches(row: &SwarmRow, search: &str) -> bool {
    row.names
        .iter()
        .chain(&row.label)
        .any(|text| text.to_lowercase().contains(search))
        || row.info_hash.to_string().starts_with(search)
}

fn peer_row<E: Endpoint>(at: &E, peer: &Peer, now: Moment, length: Option<u64>) -> PeerRow {
    let seed = peer.flags.has(Flags::SEED);
    let paused = peer.flags.has(Flags::PAUSED);
    let left = (peer.left != LEFT_UNKNOWN).then_some(peer.left);
    let share = |left: u64, length: u64| 1.0 - left.min(length) as f64 / length.max(1) as f64;
    PeerRow {
        addr: at.addr(),
        id: peer.id.to_string(),
        client: peer.id.client().map(str::to_owned),
        seed,
        paused,
        left,
        progress: if seed {
            Some(1.0)
        } else {
            left.zip(length).map(|(l, n)| share(l, n))
        },
        uploaded: peer.uploaded,
        downloaded: peer.downloaded,
        rate: peer.rate,
        joined_seconds_ago: now.since(peer.joined).as_secs(),
        seen_seconds_ago: now.since(peer.seen).as_secs(),
        stalled_seconds: (!seed && !paused).then(|| now.since(peer.advanced).as_secs()),
    }
}
