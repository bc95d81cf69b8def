//! Refuses uTP (BEP 29), so that nobody waits for it.
//!
//! libtorrent tries uTP before TCP, and a port that says nothing costs it three seconds for every
//! peer. A reset is an answer, after which it comes by TCP within a second. Transmission 3 comes
//! after neither: our seeds ask the trackers who it may have been, and dial those that stay away.
//!
//! Owns the UDP side of the peer port. Never: a connection, memory per sender, an answer that is
//! longer than the question or to anything but the beginning of a connection, a dial to where a
//! packet says it is from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Protocol, Type};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::engine::Core;
use crate::listen::socket;
use crate::torrent::Torrent;

/// A header without extensions; each packet begins with one.
const HEADER: usize = 20;
/// Type and version in one byte.
const SYN: u8 = 0x41;
const RESET: u8 = 0x31;

/// The seeds hear of those who tried, and ask their trackers, at most so often: anybody may knock.
const TELL: Duration = Duration::from_secs(30);
/// The pause after a failed read.
const PAUSE: Duration = Duration::from_millis(50);

/// Binds the port beside that of a listener.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

/// Refuses until the engine stops.
pub(crate) async fn refuse_task(core: Arc<Core>, socket: UdpSocket) {
    let mut packet = [0; HEADER];
    let (mut next, mut untold) = (Instant::now(), false);
    let refuse = async {
        loop {
            tokio::select! {
                received = socket.recv_from(&mut packet) => match received {
                    // What is longer is cut.
                    Ok((len, from)) => {
                        let now = SystemTime::now().duration_since(UNIX_EPOCH);
                        if let Some(refusal) = refusal(&packet[..len], now.unwrap_or_default()) {
                            // Who gets none comes a little later.
                            let _ = socket.try_send_to(&refusal, from);
                            untold = true;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot refuse uTP now");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                () = tokio::time::sleep_until(next), if untold => {
                    (next, untold) = (Instant::now() + TELL, false);
                    core.torrents().iter().for_each(Torrent::knocked);
                }
            }
        }
    };
    core.stop.run_until_cancelled(refuse).await;
}

/// The answer to a packet; `None` where none is due.
fn refusal(packet: &[u8], now: Duration) -> Option<[u8; HEADER]> {
    let asked: &[u8; HEADER] = packet.first_chunk()?;
    if asked[0] != SYN {
        return None;
    }
    // Microseconds, as many as fit.
    let [.., a, b, c, d] = now.as_micros().to_be_bytes();
    let sent = u32::from_be_bytes([asked[4], asked[5], asked[6], asked[7]]);
    let took = u32::from_be_bytes([a, b, c, d]).wrapping_sub(sent);
    let mut answer = [0; HEADER];
    answer[0] = RESET;
    answer[2..4].copy_from_slice(&asked[2..4]);
    answer[4..8].copy_from_slice(&[a, b, c, d]);
    answer[8..12].copy_from_slice(&took.to_be_bytes());
    // It acknowledges what began the connection.
    answer[18..20].copy_from_slice(&asked[16..18]);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libtorrent 2.0.8 sent it.
    const ASKED: &str = "410072d7482ce8b30000000000000000ab170000";

    #[test]
    fn the_beginning_of_a_connection_is_refused_and_nothing_else_is_answered() {
        let asked = hex::decode(ASKED).unwrap();
        let now = Duration::from_micros(0x7_482c_e9b4);
        let answer = refusal(&asked, now).unwrap();
        assert_eq!(
            hex::encode(answer),
            "310072d7482ce9b400000101000000000000ab17"
        );

        assert_eq!(refusal(&asked[..HEADER - 1], now), None);
        assert_eq!(refusal(b"", now), None);
        for first in (0..=u8::MAX).filter(|&first| first != SYN) {
            let mut other = asked.clone();
            other[0] = first;
            assert_eq!(refusal(&other, now), None, "{first:#x}");
        }
    }
}
