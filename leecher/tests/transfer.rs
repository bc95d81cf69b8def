//! Bytes from host to host over loopback: all of them, unchanged.

mod harness;

use harness::{Host, finished, sample};
use leecher::Phase;

#[tokio::test(flavor = "multi_thread")]
async fn a_leecher_gets_every_byte_from_a_seed() {
    let sample = sample(5_000_000, 262_144, 1);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    finished(&torrent).await;
    assert_eq!(torrent.progress().borrow().phase, Phase::Seeding);
    assert_eq!(torrent.progress().borrow().verified, 5_000_000);
    let transfer = torrent.transfer();
    assert_eq!(transfer.from_peers, [(seed.addr(), 5_000_000)]);
    assert_eq!(transfer.downloaded, 5_000_000);
    leech.engine.shutdown().await;
    seed.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}
