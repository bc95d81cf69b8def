//! From options to what the rooms take: defaults filled in, addresses worked out, rules across
//! options checked.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;
use registry_shim::Herd;
use url::Url;

use super::{
    AgentOptions, HerdOptions, NodeOptions, OriginOptions, OriginPolicy, OriginPorts,
    TrackerOptions,
};
use crate::net;
use crate::report::Failure;
use crate::units::Size;

/// A herd: a tracker, and an origin that registers with it.
pub(crate) fn herd(options: HerdOptions) -> Result<(tracker::Config, seeder::Config), Failure> {
    let defaults = HerdOptions::defaults();
    let place = Place::of(&options.node, &defaults.node, None)?;
    let port = options
        .tracker_port
        .or(defaults.tracker_port)
        .unwrap_or_default();
    let data = place.data.clone();
    // The origin registers from this host's own addresses; nobody else may.
    let own = [Some(place.listen), Some(place.peer), place.advertise];
    let own = own.into_iter().flatten().filter(|ip| !ip.is_unspecified());
    let mut trusted = tracker::Config::default().trusted;
    trusted.extend(own.map(IpNet::from));
    trusted.extend(networks(&options.trust)?);
    let tracker = tracker::Config {
        listen: SocketAddr::new(place.listen, port),
        data: Some(data.join("tracker")),
        deny_list: options.deny,
        trusted,
        ..tracker::Config::default()
    };
    let base = http_base(place.reachable(), port)?;
    let mut origin = origin_config(&options.node, &options.ports, place, vec![base]);
    origin.limits = limits(&options.policy);
    Ok((tracker, origin))
}

/// An origin beside trackers that run elsewhere.
pub(crate) fn origin(options: OriginOptions) -> Result<seeder::Config, Failure> {
    let defaults = OriginOptions::defaults();
    let Some(first) = options.tracker.first() else {
        return Err(Failure::usage("an origin needs a tracker to register with")
            .hint("add --tracker http://HOST:15003, or run `swell herd`, which brings its own"));
    };
    let towards = first.host_str().map(str::to_owned);
    for url in &options.tracker {
        if url.scheme() != "http" || !url.has_host() {
            return Err(Failure::usage(format!(
                "--tracker {url}: only http:// is spoken"
            )));
        }
    }
    let place = Place::of(&options.node, &defaults.node, towards.as_deref())?;
    let mut config = origin_config(&options.node, &options.ports, place, options.tracker);
    config.limits = limits(&options.policy);
    config.tracker_secret = secret(options.tracker_secret_file.as_deref())?;
    Ok(config)
}

/// A tracker alone.
pub(crate) fn tracker(options: TrackerOptions) -> Result<tracker::Config, Failure> {
    let defaults = TrackerOptions::defaults();
    let fallback = tracker::Config::default();
    let listen = options
        .listen
        .or(defaults.listen)
        .unwrap_or(fallback.listen.ip());
    let port = options
        .port
        .or(defaults.port)
        .unwrap_or(fallback.listen.port());
    let mut trusted = fallback.trusted.clone();
    trusted.extend(networks(&options.trust)?);
    let secret = secret(options.secret_file.as_deref())?;
    Ok(tracker::Config {
        // Whoever says nothing about origins runs a tracker for a network it trusts.
        anyone_registers: secret.is_none() && options.trust.is_empty(),
        listen: SocketAddr::new(listen, port),
        mode: match options.open.unwrap_or_default() {
            true => tracker::Mode::Open,
            false => tracker::Mode::Registered,
        },
        data: options.data.or(defaults.data),
        deny_list: options.deny,
        redis: options.redis,
        // Alone on its host, it takes every core.
        threads: std::thread::available_parallelism().ok(),
        trusted,
        secret,
        ..fallback
    })
}

/// The agent of a host.
pub(crate) fn agent(options: AgentOptions) -> Result<registry_shim::Config, Failure> {
    let defaults = AgentOptions::defaults();
    if options.herd.is_empty() {
        return Err(Failure::usage("an agent needs a herd to pull from")
            .hint("add --herd HOST, or set SWELL_HERD"));
    }
    let herds = options
        .herd
        .iter()
        .map(|herd| herd.parse::<Herd>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::from_error(&error).usage_error())?;
    let towards = herds
        .first()
        .and_then(|herd| herd.registry.host_str())
        .map(str::to_owned);
    let place = Place::of(&options.node, &defaults.node, towards.as_deref())?;
    let port = |said: Option<u16>, default: Option<u16>| said.or(default).unwrap_or_default();
    let aliases = options.alias;
    if let Some(odd) = aliases.iter().find(|name| name.contains('/')) {
        return Err(Failure::usage(format!("{odd:?} names no registry"))
            .hint("give what images of it begin with: HOST or HOST:PORT"));
    }
    Ok(registry_shim::Config {
        herds,
        aliases,
        registry: SocketAddr::new(
            place.listen,
            port(options.registry_port, defaults.registry_port),
        ),
        peer: SocketAddr::new(place.peer, port(options.peer_port, defaults.peer_port)),
        api: SocketAddr::new(place.listen, port(options.api_port, defaults.api_port)),
        advertise: place.advertise,
        data: place.data,
        capacity: bytes(options.capacity),
        upload_limit: bytes(options.node.upload_limit),
        download_limit: bytes(options.download_limit),
        memory: bytes(options.memory.or(defaults.memory)),
        ..registry_shim::Config::default()
    })
}

fn origin_config(
    node: &NodeOptions,
    ports: &OriginPorts,
    place: Place,
    trackers: Vec<Url>,
) -> seeder::Config {
    let defaults = HerdOptions::defaults().ports;
    let at = |ip, said: Option<u16>, default: Option<u16>| {
        SocketAddr::new(ip, said.or(default).unwrap_or_default())
    };
    seeder::Config {
        registry: at(place.listen, ports.registry_port, defaults.registry_port),
        api: at(place.listen, ports.api_port, defaults.api_port),
        tags: at(place.listen, ports.tags_port, defaults.tags_port),
        peer: at(place.peer, ports.peer_port, defaults.peer_port),
        advertise: place.advertise,
        data: place.data,
        trackers,
        upload_limit: bytes(node.upload_limit),
        ..seeder::Config::default()
    }
}

fn limits(policy: &OriginPolicy) -> seeder::Limits {
    let default = OriginPolicy::defaults().sparse_indexes;
    seeder::Limits {
        sparse_indexes: policy.sparse_indexes.or(default).unwrap_or_default(),
        ..seeder::Limits::default()
    }
}

/// Where a node lives: its directory and addresses.
struct Place {
    data: std::path::PathBuf,
    listen: IpAddr,
    peer: IpAddr,
    advertise: Option<IpAddr>,
}

impl Place {
    /// `towards` is the host that peers are reached through, when the node knows one: its peer
    /// port then binds the address that routes there. Otherwise it binds what the HTTP ports
    /// bind.
    fn of(
        said: &NodeOptions,
        default: &NodeOptions,
        towards: Option<&str>,
    ) -> Result<Self, Failure> {
        let loopback = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let listen = said.listen.or(default.listen).unwrap_or(loopback);
        let peer = match (said.peer_listen, towards) {
            (Some(peer), _) => peer,
            (None, Some(host)) => net::address_towards(host)?,
            (None, None) => listen,
        };
        if peer.is_unspecified() && said.advertise.is_none() {
            return Err(Failure::usage(format!(
                "peers cannot be told to dial {peer}: no address to advertise"
            ))
            .hint("add --advertise IP, the address other hosts reach this one at"));
        }
        if said
            .advertise
            .is_some_and(|ip| ip.is_unspecified() || ip.is_multicast())
        {
            return Err(Failure::usage(
                "--advertise must be an address that can be dialled",
            ));
        }
        let data = said
            .data
            .clone()
            .or_else(|| default.data.clone())
            .unwrap_or_default();
        // An address that was named is meant: trackers hear of it, also where the kernel announces
        // from another one.
        let named = said.peer_listen.filter(|ip| !ip.is_unspecified());
        Ok(Self {
            data,
            listen,
            peer,
            advertise: said.advertise.or(named),
        })
    }

    /// The address under which this node's HTTP ports are reached, by itself and by others.
    fn reachable(&self) -> IpAddr {
        if self.listen.is_unspecified() {
            self.advertise.unwrap_or(self.peer)
        } else {
            self.listen
        }
    }
}

fn http_base(ip: IpAddr, port: u16) -> Result<Url, Failure> {
    Url::parse(&format!("http://{}", SocketAddr::new(ip, port)))
        .map_err(|error| Failure::from_error(&error))
}

fn networks(texts: &[String]) -> Result<Vec<IpNet>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            Failure::usage(format!(
                "--trust {text:?} is not a network; write 10.0.0.0/8"
            ))
        })
    };
    texts.iter().map(parse).collect()
}

fn bytes(size: Option<Size>) -> Option<u64> {
    size.map(|Size(bytes)| bytes)
}

/// Secrets come from files: a flag would show in the process list.
fn secret(path: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(Failure::usage(format!(
            "the secret in {} is empty",
            path.display()
        )));
    }
    Ok(Some(secret.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options_of(listen: &str, advertise: Option<&str>) -> HerdOptions {
        let node = NodeOptions {
            listen: Some(listen.parse().unwrap()),
            advertise: advertise.map(|ip| ip.parse().unwrap()),
            ..NodeOptions::default()
        };
        HerdOptions {
            node,
            ..HerdOptions::default()
        }
    }

    #[test]
    fn a_herd_registers_with_its_own_tracker_under_an_address_others_reach() {
        let (tracker, origin) = herd(options_of("0.0.0.0", Some("10.0.1.100"))).unwrap();
        assert_eq!(origin.trackers[0].as_str(), "http://10.0.1.100:15003/");
        assert_eq!(origin.peer.to_string(), "0.0.0.0:15001");
        let own: IpAddr = "10.0.1.100".parse().unwrap();
        assert!(tracker.trusted.iter().any(|net| net.contains(&own)));
        let stranger: IpAddr = "10.0.1.101".parse().unwrap();
        assert!(!tracker.trusted.iter().any(|net| net.contains(&stranger)));
    }

    #[test]
    fn a_tracker_alone_takes_any_origin_until_told_whom_to_trust() {
        assert!(tracker(TrackerOptions::default()).unwrap().anyone_registers);
        let options = TrackerOptions {
            trust: vec!["10.0.0.0/8".into()],
            ..TrackerOptions::default()
        };
        assert!(!tracker(options).unwrap().anyone_registers);
        assert!(
            !herd(options_of("127.0.0.1", None))
                .unwrap()
                .0
                .anyone_registers
        );
    }

    #[test]
    fn indexes_are_whole_unless_told_otherwise() {
        let sparse = |said| {
            let mut options = options_of("127.0.0.1", None);
            options.policy.sparse_indexes = said;
            herd(options).unwrap().1.limits.sparse_indexes
        };
        assert!(!sparse(None));
        assert!(sparse(Some(true)));
        let mut options = OriginOptions {
            tracker: vec!["http://127.0.0.1:15003".parse().unwrap()],
            ..OriginOptions::default()
        };
        options.policy.sparse_indexes = Some(true);
        assert!(origin(options).unwrap().limits.sparse_indexes);
    }

    #[test]
    fn nobody_is_told_to_dial_everywhere() {
        let error = herd(options_of("0.0.0.0", None)).unwrap_err();
        assert!(error.to_string().contains("advertise"), "{error}");
        assert!(herd(options_of("127.0.0.1", Some("0.0.0.0"))).is_err());
    }

    #[test]
    fn an_agent_listens_to_peers_where_the_herd_reaches_it() {
        let config = agent(AgentOptions {
            herd: vec!["127.0.0.1:25000".into()],
            ..AgentOptions::default()
        })
        .unwrap();
        assert_eq!(config.peer.to_string(), "127.0.0.1:16001");
        assert_eq!(config.herds[0].api.as_str(), "http://127.0.0.1:25002/");
        assert_eq!(config.advertise, None);
        assert!(agent(AgentOptions::default()).is_err());
    }

    #[test]
    fn an_alias_is_what_images_begin_with() {
        let aliased = |alias: &str| {
            agent(AgentOptions {
                herd: vec!["127.0.0.1".into()],
                alias: vec![alias.into()],
                ..AgentOptions::default()
            })
        };
        assert_eq!(aliased("registry.corp:5000").unwrap().aliases.len(), 1);
        assert!(aliased("https://registry.corp").is_err());
    }

    #[test]
    fn an_address_that_is_named_for_peers_is_announced() {
        let node = |peer: &str, advertise: Option<&str>| AgentOptions {
            herd: vec!["127.0.0.1".into()],
            node: NodeOptions {
                peer_listen: Some(peer.parse().unwrap()),
                advertise: advertise.map(|ip| ip.parse().unwrap()),
                ..NodeOptions::default()
            },
            ..AgentOptions::default()
        };
        let announced = |options| agent(options).unwrap().advertise.unwrap().to_string();
        assert_eq!(announced(node("127.0.0.2", None)), "127.0.0.2");
        assert_eq!(announced(node("127.0.0.2", Some("10.0.0.2"))), "10.0.0.2");
        assert_eq!(announced(node("0.0.0.0", Some("10.0.0.2"))), "10.0.0.2");
    }
}
