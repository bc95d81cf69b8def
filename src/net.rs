//! Which address of this host reaches another: what peers are told to dial.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use url::Url;

use crate::report::Failure;

/// The local address from which packets to `host` leave. Nothing is sent: connecting a
/// datagram socket only asks the routing table.
pub(crate) fn address_towards(host: &str) -> Result<IpAddr, Failure> {
    let target = resolve(host)?;
    let any: SocketAddr = match target {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let local = UdpSocket::bind(any)
        .and_then(|socket| {
            socket.connect((target, 9))?;
            socket.local_addr()
        })
        .map_err(|error| {
            Failure::new(format!(
                "no route to the herd at {host} ({target}): {error}"
            ))
            .hint("name the address other hosts reach this one at with --peer-listen")
        })?;
    Ok(local.ip())
}

fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok()
}

/// Whether the host is an address that needs no resolving.
pub(crate) fn is_address(host: &str) -> bool {
    literal(host).is_some()
}

/// The first address of a host name or literal.
pub(crate) fn resolve(host: &str) -> Result<IpAddr, Failure> {
    if let Some(ip) = literal(host) {
        return Ok(ip);
    }
    (host, 0)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addrs| addrs.next())
        .map(|addr| addr.ip())
        .ok_or_else(|| Failure::new(format!("cannot resolve the host {host}")))
}

/// `HOST[:PORT]` as it stands in a URL or an image name, with the port filled in.
pub(crate) fn authority(text: &str, default_port: u16) -> Result<String, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "{text:?} is not a host; write localhost, 10.0.1.7 or 10.0.1.7:16000"
        ))
    };
    let bare = text
        .parse::<std::net::Ipv6Addr>()
        .map(|v6| format!("[{v6}]"));
    let url =
        Url::parse(&format!("http://{}", bare.as_deref().unwrap_or(text))).map_err(|_| wrong())?;
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(wrong)?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !plain || !url.username().is_empty() || text.ends_with('/') {
        return Err(wrong());
    }
    // The parser drops `:80` as the default of http; it was still said.
    let port = url.port().unwrap_or(if text.ends_with(":80") {
        80
    } else {
        default_port
    });
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback() {
        assert_eq!(
            address_towards("127.0.0.1").unwrap(),
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        );
        assert!(resolve("no-such-host.invalid").is_err());
        assert_eq!(resolve("[::1]").unwrap().to_string(), "::1");
    }

    #[test]
    fn hosts_get_the_port_of_their_role() {
        for (text, whole) in [
            ("localhost", "localhost:16000"),
            ("10.0.1.7:17000", "10.0.1.7:17000"),
            ("fd00::1", "[fd00::1]:16000"),
            ("[fd00::1]:9", "[fd00::1]:9"),
            ("a:80", "a:80"),
        ] {
            assert_eq!(authority(text, 16000).unwrap(), whole, "{text}");
        }
        for text in ["", "-x/../", "a/b", "u@a", "a:b", "http://a"] {
            assert!(authority(text, 16000).is_err(), "{text}");
        }
    }
}
