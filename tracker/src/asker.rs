//! Whose word is taken about addresses. Pure.
//!
//! A request comes from the address that connected, or from the one a trusted proxy names;
//! what it says of its own address (`ip=`) counts only when it comes from a trusted network.
//! Anything else would let a stranger point a whole swarm at a victim.
//!
//! Invariant: a `Source` is made by `Trust::source` alone. A proxy's own trust is never lent to
//! whom it forwards for, so nobody asks again whether the address of a source is trusted.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use torrents::announce::dialable;

use crate::swarms::{Asker, Refusal};

/// Whom a request comes from, and how far that is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    ip: IpAddr,
    trusted: bool,
    /// This host, so that its loopback is of use.
    local: bool,
}

impl Source {
    pub(crate) fn ip(self) -> IpAddr {
        self.ip
    }

    /// It comes from a trusted network, as far as that can be told.
    pub(crate) fn is_trusted(self) -> bool {
        self.trusted
    }
}

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

    /// Whom a request comes from. `forwarded` is every line of `X-Forwarded-For`, read as one
    /// list: each proxy adds whom it heard at the right. Trusted hops are passed over, up to the
    /// first that is not; if all are trusted, the request began at the left-most.
    ///
    /// Behind a hop that cannot be read may be anybody: that one has no address but the proxy's,
    /// and no trust.
    pub(crate) fn source<'a>(
        &self,
        connected: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Source {
        let connected = self.known(connected);
        let mut source = connected;
        let lines = forwarded.rev();
        for hop in lines.flat_map(|line| line.rsplit(|byte| *byte == b',')) {
            if !source.trusted {
                break;
            }
            let Some(ip) = read_address(hop) else {
                return Source {
                    trusted: false,
                    local: false,
                    ..connected
                };
            };
            source = self.known(ip);
        }
        source
    }

    fn known(&self, ip: IpAddr) -> Source {
        let ip = ip.to_canonical();
        Source {
            ip,
            trusted: self.trusts(ip),
            local: ip.is_loopback(),
        }
    }

    /// The address under which the asker is stored and handed out.
    pub(crate) fn asker(
        &self,
        source: Source,
        said: Option<IpAddr>,
        port: u16,
    ) -> Result<Asker, Refusal> {
        let Source { trusted, local, .. } = source;
        // Nobody else could dial another host's loopback, however much that host is trusted.
        let elsewhere = |ip: &IpAddr| ip.to_canonical().is_loopback() && !local;
        let said = said.filter(|ip| trusted && !elsewhere(ip));
        let ip = said.unwrap_or(source.ip).to_canonical();
        // Any port will do to judge the address: one that does not listen is never stored.
        if dialable(SocketAddr::new(ip, 1)).is_none() {
            return Err(Refusal::Undialable(ip));
        }
        Ok(Asker {
            at: SocketAddr::new(ip, port),
            local,
            exempt: trusted && self.trusts(ip),
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

    fn forwarded(connected: &str, lines: &[&str]) -> Source {
        trust().source(ip(connected), lines.iter().map(|line| line.as_bytes()))
    }

    fn direct(connected: &str) -> Source {
        forwarded(connected, &[])
    }

    #[test]
    fn a_stranger_cannot_name_another_address() {
        let asker = trust()
            .asker(direct("192.0.2.1"), Some(ip("198.51.100.9")), 6881)
            .unwrap();
        assert_eq!(asker.at, "192.0.2.1:6881".parse().unwrap());
        assert!(!asker.exempt);
        assert!(!asker.local);
    }

    #[test]
    fn a_trusted_host_says_its_own_address() {
        let asker = trust()
            .asker(direct("127.0.0.1"), Some(ip("10.1.0.7")), 16001)
            .unwrap();
        assert_eq!(asker.at, "10.1.0.7:16001".parse().unwrap());
        assert!(asker.local);
        let mapped = trust()
            .asker(direct("10.1.0.1"), Some(ip("::ffff:10.1.0.8")), 1)
            .unwrap();
        assert_eq!(mapped.at, "10.1.0.8:1".parse().unwrap());
    }

    #[test]
    fn a_loopback_address_counts_on_its_own_host_alone() {
        let at = |source: &str, said: &str| {
            let asker = trust()
                .asker(direct(source), Some(ip(said)), 16001)
                .unwrap();
            asker.at.to_string()
        };
        assert_eq!(at("127.0.0.1", "127.0.0.2"), "127.0.0.2:16001");
        assert_eq!(at("10.1.0.1", "127.0.0.2"), "10.1.0.1:16001");
        assert_eq!(at("10.1.0.1", "::ffff:127.0.0.2"), "10.1.0.1:16001");
    }

    #[test]
    fn the_first_untrusted_hop_from_the_right_is_whom_it_comes_from() {
        for (connected, lines, address, trusted) in [
            (
                "127.0.0.1",
                &["203.0.113.5, 192.0.2.44"][..],
                "192.0.2.44",
                false,
            ),
            ("::ffff:127.0.0.1", &["192.0.2.44"], "192.0.2.44", false),
            ("192.0.2.1", &["192.0.2.44"], "192.0.2.1", false),
            ("127.0.0.1", &[], "127.0.0.1", true),
            // Proxies behind proxies, in one line or in several.
            ("127.0.0.1", &["192.0.2.44, 10.1.0.9"], "192.0.2.44", false),
            (
                "127.0.0.1",
                &["192.0.2.44", "10.1.0.9,10.1.0.8"],
                "192.0.2.44",
                false,
            ),
            (
                "127.0.0.1",
                &["10.1.0.7", "192.0.2.44"],
                "192.0.2.44",
                false,
            ),
            (
                "127.0.0.1",
                &["10.1.0.7, 10.1.0.9", "10.1.0.8"],
                "10.1.0.7",
                true,
            ),
            // What stands left of it is anybody's word.
            ("127.0.0.1", &["rubbish, 192.0.2.44"], "192.0.2.44", false),
            ("127.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1", false),
            ("127.0.0.1", &["192.0.2.9:4711"], "192.0.2.9", false),
        ] {
            let source = forwarded(connected, lines);
            assert_eq!(source.ip(), ip(address), "{lines:?}");
            assert_eq!(source.is_trusted(), trusted, "{lines:?}");
        }
    }

    #[test]
    fn a_hop_that_cannot_be_read_lends_no_trust() {
        for odd in [
            "",
            "unknown",
            "a, b,",
            "\u{1f}",
            "192.0.2.44, unknown",
            "192.0.2.44,",
        ] {
            for lines in [&[odd][..], &["192.0.2.44", odd], &[odd, "10.1.0.9"]] {
                let source = forwarded("127.0.0.1", lines);
                assert_eq!((source.ip(), source.is_trusted()), (ip("127.0.0.1"), false));
                let asker = trust().asker(source, Some(ip("198.51.100.9")), 1).unwrap();
                assert_eq!(asker.at, "127.0.0.1:1".parse().unwrap());
                assert!(!asker.trusted && !asker.exempt && !asker.local);
            }
        }
    }

    #[test]
    fn what_nobody_can_dial_is_refused() {
        let refused = trust().asker(direct("fe80::1"), None, 6881);
        assert_eq!(refused.unwrap_err(), Refusal::Undialable(ip("fe80::1")));
        let refused = trust().asker(direct("127.0.0.1"), Some(ip("0.0.0.0")), 1);
        assert_eq!(refused.unwrap_err(), Refusal::Undialable(ip("0.0.0.0")));
    }
}
