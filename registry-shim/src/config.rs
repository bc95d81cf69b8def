//! How an agent runs: where it listens, whom it asks, how long it waits.
//!
//! Values here are final: flags, variables and files are read by the program.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use url::Url;

/// One origin and its tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Herd {
    /// Its registry: `http://HOST:15000`.
    pub registry: Url,
    /// Its API, for `.torrent` files and the web seed: `http://HOST:15002`.
    pub api: Url,
    /// Its trackers, without the `/announce`: `http://HOST:15003`.
    pub trackers: Vec<Url>,
}

/// A text that names no herd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no herd: {why}\nhint: give a host, a host:port of its registry, or [address]:port for IPv6"
)]
pub struct InvalidHerd {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The registry port of a herd whose address names none.
const REGISTRY_PORT: u16 = 15000;

impl FromStr for Herd {
    type Err = InvalidHerd;

    /// `HOST` has its registry on 15000, its API on 15002 and its tracker on 15003. With a
    /// port, that is the registry's, and the others follow at the same distance.
    fn from_str(text: &str) -> Result<Self, InvalidHerd> {
        let invalid = |why| InvalidHerd {
            text: text.to_owned(),
            why,
        };
        if text.contains("://") && !text.starts_with("http://") {
            return Err(invalid("only http:// is spoken between agents and herds"));
        }
        let host = text.trim_start_matches("http://").trim_end_matches('/');
        let bracketed = match host.parse::<std::net::Ipv6Addr>() {
            Ok(bare) => format!("[{bare}]"),
            Err(_) => host.to_owned(),
        };
        let base = Url::parse(&format!("http://{bracketed}"))
            .map_err(|_| invalid("it is not a host name or address"))?;
        let plain = base.path() == "/" && base.query().is_none() && base.username().is_empty();
        if !plain || base.host_str().is_none_or(str::is_empty) {
            return Err(invalid("it is not a host name or address"));
        }
        // The parser drops `:80` as the default of http; it was still said.
        let said = base.port().or(bracketed.ends_with(":80").then_some(80));
        let first = said.unwrap_or(REGISTRY_PORT);
        let at = |distance: u16| {
            let port = first
                .checked_add(distance)
                .ok_or(invalid("the ports that follow it do not exist"))?;
            let mut url = base.clone();
            url.set_port(Some(port))
                .map_err(|()| invalid("it takes no port"))?;
            Ok(url)
        };
        Ok(Self {
            registry: at(0)?,
            api: at(2)?,
            trackers: vec![at(3)?],
        })
    }
}

impl Herd {
    /// How people write it, and where they push: `host:port` of the registry.
    pub fn name(&self) -> String {
        let host = self.registry.host_str().unwrap_or_default();
        match self.registry.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

/// How an agent runs. Every listening port may be 0: a free one is taken.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where content and remembered tags are kept; made when missing.
    pub data: PathBuf,
    /// Origins, most trusted first: content and tags come from the first that has them.
    pub herds: Vec<Herd>,
    /// What else the herds are called in the names of images, `host` or `host:port`: images of
    /// these registries are in the herds under their bare names.
    pub aliases: Vec<String>,
    /// More trackers (without `/announce`), beside those of the herds.
    pub trackers: Vec<Url>,
    /// The registry for `docker pull`.
    pub registry: SocketAddr,
    /// BitTorrent. An unspecified address needs `advertise`.
    pub peer: SocketAddr,
    /// Health, readiness, status, metrics.
    pub api: SocketAddr,
    /// The address other hosts reach `peer` at, when it is not the one that listens.
    pub advertise: Option<IpAddr>,
    /// Bytes of content to keep; `None` is as much as the disk holds.
    pub capacity: Option<u64>,
    /// Bytes a second to peers.
    pub upload_limit: Option<u64>,
    /// Bytes a second from peers and web seeds.
    pub download_limit: Option<u64>,
    /// Bytes of payload in memory at most; `None` is the engine's default.
    pub memory: Option<u64>,
    /// Peer connections at most; `None` is the engine's default.
    pub max_connections: Option<usize>,
    /// How long it waits for what.
    pub patience: Patience,
}

/// How long an agent waits for what. The defaults follow from what registry clients bear:
/// docker never retries a manifest, containerd gives up after 30 s without headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For one answer of one origin.
    pub origin: Duration,
    /// For an answer about a manifest in all, retries included.
    pub manifest: Duration,
    /// For the headers of a blob whose length nobody has told yet.
    pub headers: Duration,
    /// Without a byte and without a peer or web seed to expect one from, before bodies are cut.
    pub stall: Duration,
    /// How long readers of what just failed are turned away with the reason.
    pub trouble: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            origin: Duration::from_secs(4),
            manifest: Duration::from_secs(10),
            headers: Duration::from_secs(25),
            stall: Duration::from_secs(20),
            trouble: Duration::from_secs(5),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            data: PathBuf::from("/var/lib/swell/agent"),
            herds: Vec::new(),
            aliases: Vec::new(),
            trackers: Vec::new(),
            registry: local(16000),
            peer: local(16001),
            api: local(16002),
            advertise: None,
            capacity: None,
            upload_limit: None,
            download_limit: None,
            memory: None,
            max_connections: None,
            patience: Patience::default(),
        }
    }
}

/// The address of `path` (percent-encoded) below a base address, keeping the base's own path.
pub(crate) fn below(base: &Url, path: &str) -> Option<Url> {
    let base = base.as_str().trim_end_matches('/');
    Url::parse(&format!("{base}/{}", path.trim_start_matches('/'))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn herd(text: &str) -> Herd {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_enough() {
        let herd = herd("10.0.1.100");
        assert_eq!(herd.registry.as_str(), "http://10.0.1.100:15000/");
        assert_eq!(herd.api.as_str(), "http://10.0.1.100:15002/");
        assert_eq!(herd.trackers[0].as_str(), "http://10.0.1.100:15003/");
        assert_eq!(herd.name(), "10.0.1.100:15000");
    }

    #[test]
    fn a_port_moves_all_three() {
        let herd = herd("http://herd.example:25000/");
        assert_eq!(herd.name(), "herd.example:25000");
        assert_eq!(herd.api.as_str(), "http://herd.example:25002/");
        assert_eq!(herd.trackers[0].as_str(), "http://herd.example:25003/");
        assert_eq!("a:80".parse::<Herd>().unwrap().name(), "a:80");
    }

    #[test]
    fn ipv6_is_understood_with_and_without_brackets() {
        assert_eq!(herd("::1"), herd("[::1]"));
        assert_eq!(herd("[fe80::1]:25000").name(), "[fe80::1]:25000");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "https://a",
            "a/b",
            "a b",
            "a:99999",
            "u@a",
            "a:65535",
            "a?q",
        ] {
            assert!(text.parse::<Herd>().is_err(), "{text:?}");
        }
    }
}
