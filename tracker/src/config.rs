//! How a tracker is told to behave. Every field has a default that works for a herd on loopback.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use torrents::InfoHash;

/// Which swarms a tracker serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Those an origin registered: the herd's way.
    #[default]
    Registered,
    /// Any, within `Limits::swarms`.
    Open,
}

/// Everything a tracker can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it serves; port 0 takes any.
    pub listen: SocketAddr,
    /// Which swarms it serves.
    pub mode: Mode,
    /// Swarms it never serves, in either mode.
    pub denied: HashSet<InfoHash>,
    /// A file that names more of them, one a line; it is read again when it changes.
    pub deny_list: Option<PathBuf>,
    /// A directory in which registrations are remembered over a restart.
    pub data: Option<PathBuf>,
    /// Threads that accept and serve, each with its own listener (`SO_REUSEPORT`). `None`
    /// serves on the caller's runtime, from one listener.
    pub threads: Option<NonZeroUsize>,
    /// Networks whose word is taken: for `ip=` in announces, for whom a request comes from
    /// (`X-Forwarded-For`, up to the first hop from the right that is not in them), and for
    /// registration when no secret is set. Loopback by default.
    pub trusted: Vec<IpNet>,
    /// What a registration must carry as `Authorization: Bearer`. With one set, nobody
    /// registers without it; with none, only trusted networks do.
    pub secret: Option<String>,
    /// Without a secret, take registrations from anybody who reaches the tracker, not only from
    /// trusted networks: for a tracker of its own inside a network that is trusted as a whole.
    pub anyone_registers: bool,
    /// A Redis (`redis://HOST:PORT/DB`) by which trackers behind one address share what they
    /// hear. `None` keeps it here.
    pub redis: Option<String>,
    /// When peers come back and when they are forgotten.
    pub intervals: Intervals,
    /// What bounds it.
    pub limits: Limits,
}

/// When peers come back and when they are forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intervals {
    /// Asked of peers that still download.
    pub leecher: Duration,
    /// Asked of complete peers.
    pub seed: Duration,
    /// The least time between two announces of a peer.
    pub min: Duration,
    /// A silent peer stays at least this long; else twice the interval it was asked for.
    /// Under eleven minutes, foreign clients that announce every five would flicker.
    pub expiry_floor: Duration,
    /// For so long after the start a torrent that is not registered may be any moment: whoever
    /// asks is not told to stay away for a minute.
    pub settling: Duration,
    /// How long an origin is handed out without renewing its registrations.
    pub lease: Duration,
    /// How long a registered swarm without origin and without peers is remembered. Longer than
    /// `seed`, so that after a restart the seeds of a swarm find it known.
    pub retention: Duration,
}

/// What bounds a tracker, whatever clients send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Swarms an open tracker holds.
    pub swarms: usize,
    /// Peers in all.
    pub peers: usize,
    /// Peers of one swarm in one address family.
    pub peers_per_swarm: usize,
    /// Peers of one address (IPv6: one /64) in one swarm; trusted networks are exempt.
    pub peers_per_ip: usize,
    /// Peers in a reply when the asker does not say.
    pub numwant_default: usize,
    /// Peers in a reply at most.
    pub numwant_max: usize,
    /// Hashes in a scrape.
    pub scrape: usize,
    /// Registered swarms.
    pub registrations: usize,
    /// Origins that hold a lease.
    pub origins: usize,
    /// Connections at a time, as far as the process may open as many files.
    pub connections: usize,
    /// Connections of one address (IPv6: one /64) at a time; trusted networks are exempt.
    pub connections_per_ip: u32,
    /// Announces of one address (IPv6: one /64) in ten seconds; trusted networks are exempt.
    pub announces_per_ip: u32,
    /// How long a client may take to send one request, and to read its answer.
    pub request_time: Duration,
    /// How long a connection may rest between requests.
    pub idle_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 15003)),
            mode: Mode::default(),
            denied: HashSet::new(),
            deny_list: None,
            data: None,
            threads: None,
            trusted: loopback(),
            secret: None,
            anyone_registers: false,
            redis: None,
            intervals: Intervals::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            leecher: Duration::from_secs(10),
            seed: Duration::from_secs(15 * 60),
            min: Duration::from_secs(2),
            expiry_floor: Duration::from_secs(11 * 60),
            settling: Duration::from_secs(60),
            lease: Duration::from_secs(5 * 60),
            retention: Duration::from_secs(60 * 60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            swarms: 1_000_000,
            peers: 4_000_000,
            peers_per_swarm: 100_000,
            peers_per_ip: 256,
            numwant_default: 50,
            numwant_max: 200,
            scrape: 200,
            registrations: 2_000_000,
            origins: 1_024,
            connections: 20_000,
            connections_per_ip: 1_000,
            announces_per_ip: 10_000,
            request_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
        }
    }
}

/// The networks that are this host.
fn loopback() -> Vec<IpNet> {
    let v4 = IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8);
    let v6 = IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128);
    vec![v4, v6]
}
