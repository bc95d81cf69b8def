//! Whose word is taken about addresses. Pure.
//!
//! A request comes from the address that connected, or from the one a trusted proxy names;
//! what it says of its own address (`ip=`) counts only when it comes from a trusted network.
//! Anything else would let a stranger point a whole swarm at a victim.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use torrents::announce::dialable;

use crate::swarms::{Asker, Refusal};

/// The networks whose word is taken.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Vec<IpNet>);

impl Trust {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    pub(crate) fn trusts(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Whom a request comes from: the right-most forwarded address when a trusted proxy says
    /// one that can be read, else whoever connected.
    pub(crate) fn source(&self, connected: IpAddr, forwarded: Option<&[u8]>) -> IpAddr {
        let connected = connected.to_canonical();
        let Some(forwarded) = forwarded.filter(|_| self.trusts(connected)) else {
            return connected;
        };
        let last = forwarded
            .rsplit(|byte| *byte == b',')
            .next()
            .unwrap_or_default();
        read_address(last).map_or(connected, |ip| ip.to_canonical())
    }

    /// The address under which the asker is stored and handed out.
    pub(crate) fn asker(
        &self,
        source: IpAddr,
        said: Option<IpAddr>,
        port: u16,
    ) -> Result<Asker, Refusal> {
        let trusted = self.trusts(source);
        // Nobody else could dial another host's loopback, however much that host is trusted.
        let elsewhere = |ip: &IpAddr| ip.to_canonical().is_loopback() && !source.is_loopback();
        let said = said.filter(|ip| trusted && !elsewhere(ip));
        let ip = said.unwrap_or(source).to_canonical();
        // Any port will do to judge the address: one that does not listen is never stored.
        if dialable(SocketAddr::new(ip, 1)).is_none() {
            return Err(Refusal::Undialable(ip));
        }
        Ok(Asker {
            at: SocketAddr::new(ip, port),
            local: source.is_loopback(),
            exempt: self.trusts(ip),
            trusted,
        })
    }
}

/// Reads `10.0.0.1`, `2001:db8::1`, and either with a port as some proxies write it.
fn read_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.split(']').next())
        .unwrap_or(text);
    bare.parse()
        .ok()
        .or_else(|| Some(bare.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trust() -> Trust {
        Trust::new(vec![
            "127.0.0.0/8".parse().unwrap(),
            "10.1.0.0/16".parse().unwrap(),
        ])
    }

    #[test]
    fn a_stranger_cannot_name_another_address() {
        let asker = trust()
            .asker(ip("192.0.2.1"), Some(ip("198.51.100.9")), 6881)
            .unwrap();
        assert_eq!(asker.at, "192.0.2.1:6881".parse().unwrap());
        assert!(!asker.exempt);
        assert!(!asker.local);
    }

    #[test]
    fn a_trusted_host_says_its_own_address() {
        let asker = trust()
            .asker(ip("127.0.0.1"), Some(ip("10.1.0.7")), 16001)
            .unwrap();
        assert_eq!(asker.at, "10.1.0.7:16001".parse().unwrap());
        assert!(asker.local);
        let mapped = trust()
            .asker(ip("10.1.0.1"), Some(ip("::ffff:10.1.0.8")), 1)
            .unwrap();
        assert_eq!(mapped.at, "10.1.0.8:1".parse().unwrap());
    }

    #[test]
    fn a_loopback_address_counts_on_its_own_host_alone() {
        let at = |source: &str, said: &str| {
            let asker = trust().asker(ip(source), Some(ip(said)), 16001).unwrap();
            asker.at.to_string()
        };
        assert_eq!(at("127.0.0.1", "127.0.0.2"), "127.0.0.2:16001");
        assert_eq!(at("10.1.0.1", "127.0.0.2"), "10.1.0.1:16001");
        assert_eq!(at("10.1.0.1", "::ffff:127.0.0.2"), "10.1.0.1:16001");
    }

    #[test]
    fn the_right_most_forwarded_address_counts_from_a_trusted_proxy() {
        let forwarded = Some(b"203.0.113.5, 192.0.2.44".as_slice());
        assert_eq!(trust().source(ip("127.0.0.1"), forwarded), ip("192.0.2.44"));
        assert_eq!(
            trust().source(ip("::ffff:127.0.0.1"), forwarded),
            ip("192.0.2.44")
        );
        assert_eq!(trust().source(ip("192.0.2.1"), forwarded), ip("192.0.2.1"));
        for odd in ["", "unknown", "a, b,", "\u{1f}"] {
            assert_eq!(
                trust().source(ip("10.1.2.3"), Some(odd.as_bytes())),
                ip("10.1.2.3")
            );
        }
        for (text, address) in [
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("192.0.2.9:4711", "192.0.2.9"),
        ] {
            assert_eq!(
                trust().source(ip("127.0.0.1"), Some(text.as_bytes())),
                ip(address)
            );
        }
    }

    #[test]
    fn what_nobody_can_dial_is_refused() {
        let refused = trust().asker(ip("fe80::1"), None, 6881);
        assert_eq!(refused.unwrap_err(), Refusal::Undialable(ip("fe80::1")));
        let refused = trust().asker(ip("127.0.0.1"), Some(ip("0.0.0.0")), 1);
        assert_eq!(refused.unwrap_err(), Refusal::Undialable(ip("0.0.0.0")));
    }
}
