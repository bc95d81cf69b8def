//! Which repository of the herds is meant by a name and the registry it is of (`?ns=`, as
//! mirrors are asked).
//!
//! ```text
//!  no registry named, or one of our own ─► as it is named             team/app
//!  any other that fits into a name ──────► below the registry's name  docker.io/library/nginx
//!  one that does not (a port) ───────────► nowhere: the client goes to that registry itself
//! ```
//!
//! Invariants: a name has one place, so that no image is found where another was asked for, and
//! whoever may push `library/nginx` does not own Docker Hub's on every host; a registry's name
//! is a key to look up, never an address to dial.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use oci::RepoName;

use crate::config::Config;

/// The registries whose images lie in the herds under their bare names.
#[derive(Debug)]
pub(crate) struct Namespaces {
    own: HashSet<String>,
}

impl Namespaces {
    /// The herds, with their ports or without, what else they are called, and the agent itself,
    /// whose registry listens there.
    pub(crate) fn new(config: &Config, registry: SocketAddr) -> Self {
        let mut own: HashSet<String> = config
            .aliases
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        for herd in &config.herds {
            own.insert(herd.name());
            own.extend(herd.registry.host_str().map(str::to_owned));
            // On the herd's own host images are pushed to, and named by, `localhost`.
            let port = herd.registry.port_or_known_default();
            own.extend(port.map(|port| format!("localhost:{port}")));
        }
        // Another port of this host is another registry.
        let listens = match registry.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        for host in ["localhost", "127.0.0.1", "[::1]", &listens] {
            own.insert(host.to_owned());
            own.insert(format!("{host}:{}", registry.port()));
        }
        Self { own }
    }

    /// Where the content of `repo` is, if it can be in a herd.
    pub(crate) fn place(&self, registry: Option<&str>, repo: &RepoName) -> Option<RepoName> {
        let Some(registry) = registry.map(str::to_ascii_lowercase) else {
            return Some(repo.clone());
        };
        if self.own.contains(&registry) {
            return Some(repo.clone());
        }
        if registry.contains('/') {
            return None;
        }
        format!("{registry}/{repo}").parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_place() {
        let config = Config {
            herds: vec!["10.0.1.100".parse().unwrap(), "[fe80::1]".parse().unwrap()],
            aliases: vec!["Registry.corp:5000".to_owned()],
            ..Config::default()
        };
        let namespaces = Namespaces::new(&config, "10.0.2.1:16000".parse().unwrap());
        let repo = "team/app".parse().unwrap();
        let place = |registry| {
            let place = namespaces.place(registry, &repo);
            place.map(|repo| repo.to_string())
        };
        for own in [
            None,
            Some("10.0.1.100:15000"),
            Some("10.0.1.100"),
            Some("[fe80::1]:15000"),
            Some("[fe80::1]"),
            Some("registry.corp:5000"),
            Some("localhost:16000"),
            Some("127.0.0.1:16000"),
            Some("10.0.2.1:16000"),
            Some("localhost"),
            Some("localhost:15000"),
        ] {
            assert_eq!(place(own).as_deref(), Some("team/app"), "{own:?}");
        }
        for (other, below) in [
            ("docker.io", "docker.io/team/app"),
            ("GHCR.io", "ghcr.io/team/app"),
            ("registry.corp", "registry.corp/team/app"),
        ] {
            assert_eq!(place(Some(other)).as_deref(), Some(below));
        }
        for nowhere in [
            "registry.corp:5001",
            "10.0.1.100:5000",
            "localhost:5000",
            "127.0.0.1:9",
            "docker.io/library",
            "../etc",
            "a b",
        ] {
            assert_eq!(place(Some(nowhere)), None, "{nowhere}");
        }
    }
}
