//! Every setting of every role, once: flag, variable, file key, help and default.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use url::Url;

use super::default_data;
use crate::units::Size;

/// What every host that holds content has in common.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub(crate) struct NodeOptions {
    /// Directory for content
    #[arg(long, env = "SWELL_DATA", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    /// Address the HTTP ports listen on
    #[arg(long, env = "SWELL_LISTEN", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<IpAddr>,
    /// Address the peer port listens on (unset: the one that routes to the herd)
    #[arg(long, env = "SWELL_PEER_LISTEN", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_listen: Option<IpAddr>,
    /// Address other hosts are told to dial (unset: the one the peer port listens on)
    #[arg(long, env = "SWELL_ADVERTISE", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advertise: Option<IpAddr>,
    /// Bytes a second to peers at most, as in 200MB (unset: unlimited)
    #[arg(long, env = "SWELL_UPLOAD_LIMIT", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upload_limit: Option<Size>,
}

/// Where an origin listens.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub(crate) struct OriginPorts {
    /// Registry port: docker push, docker pull
    #[arg(long, env = "SWELL_REGISTRY_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) registry_port: Option<u16>,
    /// BitTorrent port
    #[arg(long, env = "SWELL_PEER_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_port: Option<u16>,
    /// Port of .torrent files, web seed, health and metrics
    #[arg(long, env = "SWELL_API_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_port: Option<u16>,
    /// Port of the tag API
    #[arg(long, env = "SWELL_TAGS_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tags_port: Option<u16>,
}

/// What an origin takes.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub(crate) struct OriginPolicy {
    /// Take an index of several platforms also when images it names were not pushed, as by a
    /// copy of one platform alone; pulls of the others fail
    #[arg(long, env = "SWELL_SPARSE_INDEXES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sparse_indexes: Option<bool>,
}

/// `swell herd`.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub(crate) struct HerdOptions {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) node: NodeOptions,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) ports: OriginPorts,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) policy: OriginPolicy,
    /// Tracker port: announce, scrape, health, metrics, inspection
    #[arg(long, env = "SWELL_TRACKER_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tracker_port: Option<u16>,
    /// Networks whose announces may name another address than their own, and whose origins
    /// may register, as in 10.0.0.0/8
    #[arg(long, env = "SWELL_TRUST", value_delimiter = ',', value_name = "CIDR")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trust: Vec<String>,
    /// File of info hashes that are never served, one a line; read again when it changes
    #[arg(long, env = "SWELL_DENY", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deny: Option<PathBuf>,
}

/// `swell origin`.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub(crate) struct OriginOptions {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) node: NodeOptions,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) ports: OriginPorts,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) policy: OriginPolicy,
    /// Trackers to register with, as in http://10.0.1.100:15003
    #[arg(long, env = "SWELL_TRACKER", value_delimiter = ',', value_name = "URL")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tracker: Vec<Url>,
    /// File with the secret that the trackers ask of origins
    #[arg(long, env = "SWELL_TRACKER_SECRET_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tracker_secret_file: Option<PathBuf>,
}

/// `swell tracker`.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub(crate) struct TrackerOptions {
    /// Serve any torrent, not only those that origins register
    #[arg(long, env = "SWELL_OPEN", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<bool>,
    /// Address to listen on
    #[arg(long, env = "SWELL_LISTEN", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<IpAddr>,
    /// Port: announce, scrape, health, metrics, inspection
    #[arg(long, env = "SWELL_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Directory for what must survive a restart
    #[arg(long, env = "SWELL_DATA", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    /// Networks whose announces may name another address than their own, and whose origins
    /// may register (unset, and no secret: any origin may)
    #[arg(long, env = "SWELL_TRUST", value_delimiter = ',', value_name = "CIDR")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trust: Vec<String>,
    /// File with the secret that origins must show to register
    #[arg(long, env = "SWELL_TRACKER_SECRET_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_file: Option<PathBuf>,
    /// File of info hashes that are never served, one a line; read again when it changes
    #[arg(long, env = "SWELL_DENY", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deny: Option<PathBuf>,
    /// Redis by which trackers behind one address share their peers, as in redis://10.0.0.9/0
    #[arg(long, env = "SWELL_REDIS", hide_env_values = true, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redis: Option<String>,
}

/// `swell agent`.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub(crate) struct AgentOptions {
    /// Herds to pull from: HOST, or HOST:PORT when the registry is not on 15000 (its API is
    /// two ports above, its tracker three)
    #[arg(long, env = "SWELL_HERD", value_delimiter = ',', value_name = "HOST")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) herd: Vec<String>,
    /// What else the herds are called in the names of images, as in registry.corp:5000: images
    /// of these registries are in the herds under their bare names
    #[arg(long, env = "SWELL_ALIAS", value_delimiter = ',', value_name = "HOST")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) alias: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) node: NodeOptions,
    /// Registry port: docker pull
    #[arg(long, env = "SWELL_REGISTRY_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) registry_port: Option<u16>,
    /// BitTorrent port
    #[arg(long, env = "SWELL_PEER_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_port: Option<u16>,
    /// Port of health, readiness, status and metrics
    #[arg(long, env = "SWELL_API_PORT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_port: Option<u16>,
    /// Bytes a second from peers and web seeds at most (unset: unlimited)
    #[arg(long, env = "SWELL_DOWNLOAD_LIMIT", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) download_limit: Option<Size>,
    /// Bytes of layers to keep; the least recently used go first (unset: unlimited)
    #[arg(long, env = "SWELL_CAPACITY", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capacity: Option<Size>,
    /// Memory for payload on its way
    #[arg(long, env = "SWELL_MEMORY", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Size>,
}

impl HerdOptions {
    /// What holds where nothing is said.
    pub(crate) fn defaults() -> Self {
        Self {
            node: NodeOptions::defaults("herd"),
            ports: OriginPorts::defaults(),
            policy: OriginPolicy::defaults(),
            tracker_port: Some(15003),
            ..Self::default()
        }
    }
}

impl OriginOptions {
    /// What holds where nothing is said.
    pub(crate) fn defaults() -> Self {
        Self {
            node: NodeOptions::defaults("origin"),
            ports: OriginPorts::defaults(),
            policy: OriginPolicy::defaults(),
            ..Self::default()
        }
    }
}

impl TrackerOptions {
    /// What holds where nothing is said.
    pub(crate) fn defaults() -> Self {
        Self {
            open: Some(false),
            listen: Some(LOOPBACK),
            port: Some(15003),
            data: Some(default_data("tracker")),
            ..Self::default()
        }
    }
}

impl AgentOptions {
    /// What holds where nothing is said.
    pub(crate) fn defaults() -> Self {
        Self {
            node: NodeOptions::defaults("agent"),
            registry_port: Some(16000),
            peer_port: Some(16001),
            api_port: Some(16002),
            memory: Some(Size(256 << 20)),
            ..Self::default()
        }
    }
}

impl NodeOptions {
    fn defaults(role: &str) -> Self {
        Self {
            data: Some(default_data(role)),
            listen: Some(LOOPBACK),
            ..Self::default()
        }
    }
}

impl OriginPorts {
    fn defaults() -> Self {
        Self {
            registry_port: Some(15000),
            peer_port: Some(15001),
            api_port: Some(15002),
            tags_port: Some(15004),
        }
    }
}

impl OriginPolicy {
    /// What holds where nothing is said.
    pub(crate) fn defaults() -> Self {
        Self {
            sparse_indexes: Some(false),
        }
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
