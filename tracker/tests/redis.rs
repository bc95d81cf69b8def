//! Trackers behind one address, with a real redis-server between them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod harness;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::*;
use torrents::InfoHash;
use tracker::{Config, Tracker, TrackerError};

/// A server of the test's own, which keeps nothing.
struct Redis {
    addr: SocketAddr,
    process: Child,
    directory: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let directory = tempfile::tempdir().unwrap();
        let process = Self::spawn(addr, &directory);
        let redis = Self {
            addr,
            process,
            directory,
        };
        redis.ready().await;
        redis
    }

    fn spawn(addr: SocketAddr, directory: &tempfile::TempDir) -> Child {
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &addr.port().to_string()])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed")
    }

    async fn ready(&self) {
        eventually("redis-server answers", async || {
            tokio::net::TcpStream::connect(self.addr).await.is_ok()
        })
        .await;
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn restart(&mut self) {
        self.process = Self::spawn(self.addr, &self.directory);
        self.ready().await;
    }

    fn url(&self) -> String {
        format!("redis://{}/0", self.addr)
    }

    async fn tracker(&self, config: Config) -> Tracker {
        start(Config {
            redis: Some(self.url()),
            ..config
        })
        .await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Announces as host 10.0.0.`n` and returns whom it is told about.
async fn announce(tracker: &Tracker, n: u8, more: &str) -> Vec<SocketAddr> {
    announce_left(tracker, n, 9, more).await
}

async fn announce_left(tracker: &Tracker, n: u8, left: u64, more: &str) -> Vec<SocketAddr> {
    let id = format!("-XX0001-host{n:08}");
    let target = format!(
        "/announce?info_hash={HASH_TEXT}&peer_id={id}&port=16001&ip=10.0.0.{n}&left={left}{more}"
    );
    let mut peers = compact_peers(&get(tracker, &target).await.body);
    peers.sort_unstable();
    peers
}

fn host(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 16001))
}

async fn tracker_id(tracker: &Tracker) -> String {
    let target = format!("/announce?info_hash={HASH_TEXT}&peer_id=-XX0001-host00000099&port=0");
    let text = get(tracker, &target).await.text();
    let id = text.split("10:tracker id16:").nth(1).unwrap();
    id[..16].to_owned()
}

#[tokio::test]
async fn what_one_hears_all_know_and_all_are_one_tracker() {
    let redis = Redis::start().await;
    let one = redis.tracker(open()).await;
    let two = redis.tracker(open()).await;
    assert_eq!(tracker_id(&one).await, tracker_id(&two).await);

    assert_eq!(announce(&one, 1, "&event=started").await, []);
    eventually("the second tells of the first's peer", async || {
        announce(&two, 2, "").await == [host(1)]
    })
    .await;
    eventually("and the other way round", async || {
        announce(&one, 1, "").await == [host(2)]
    })
    .await;
    // One that comes later knows what was said before, and so does its scrape.
    let three = redis.tracker(open()).await;
    assert_eq!(announce(&three, 3, "").await, [host(1), host(2)]);
    let scrape = get(&three, &format!("/scrape?info_hash={HASH_TEXT}")).await;
    assert!(scrape.text().contains("10:incompletei3e"), "{scrape:?}");

    announce(&one, 1, "&event=stopped").await;
    eventually("who stopped at one has stopped at all", async || {
        announce(&two, 2, "").await == [host(3)] && announce(&three, 3, "").await == [host(2)]
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_registers_with_one_is_known_to_all() {
    let redis = Redis::start().await;
    let one = redis.tracker(registered()).await;
    let two = redis.tracker(registered()).await;
    let adds = vec![registration(HASH, "sha256:01")];
    register(
        &one,
        &origin(1, &["10.0.0.9:15001", "127.0.0.1:15001"], adds),
    )
    .await;
    eventually("the second serves what the first registered", async || {
        get(&two, "/lookup/sha256:01").await.status == 200
    })
    .await;
    // The loopback of one host is not that of another.
    let seed = "10.0.0.9:15001".parse().unwrap();
    assert_eq!(announce(&two, 2, "").await, [seed]);
    let later = redis.tracker(registered()).await;
    assert_eq!(get(&later, "/lookup/sha256:01").await.status, 200);
    let other = InfoHash([9; 20]);
    let unknown = get(&later, &format!("/lookup/{other}")).await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn while_redis_is_away_each_serves_alone_and_then_they_are_together_again() {
    let mut redis = Redis::start().await;
    let one = redis.tracker(open()).await;
    let two = redis.tracker(open()).await;
    let id = tracker_id(&one).await;
    announce(&one, 1, "").await;
    eventually("they share", async || {
        announce(&two, 2, "").await == [host(1)]
    })
    .await;

    redis.kill();
    announce(&one, 3, "").await;
    assert_eq!(announce(&two, 2, "").await, [host(1)]);
    assert_eq!(announce(&two, 4, "&event=stopped").await, []);

    // It forgot everything; what was said meanwhile still comes through.
    redis.restart().await;
    eventually("they share again", async || {
        announce(&two, 2, "").await == [host(1), host(3)]
    })
    .await;
    // And whoever starts now is the same tracker still.
    let three = redis.tracker(open()).await;
    assert_eq!(tracker_id(&three).await, id);
}

#[tokio::test]
async fn what_waits_for_redis_is_as_old_as_it_is_when_it_gets_there() {
    let mut redis = Redis::start().await;
    let one = redis.tracker(open()).await;
    let two = redis.tracker(open()).await;
    announce(&one, 1, "").await;
    eventually("they share", async || {
        announce(&two, 2, "").await == [host(1)]
    })
    .await;

    // Each hears a part: the first what was, the second what became of it.
    redis.kill();
    for n in [3, 4] {
        announce(&one, n, "").await;
    }
    // Moments are tenths of a second.
    tokio::time::sleep(Duration::from_millis(300)).await;
    announce(&two, 3, "&event=stopped").await;
    announce_left(&two, 4, 0, "&event=completed").await;
    redis.restart().await;
    announce(&one, 5, "").await;
    announce(&two, 6, "").await;
    let scrape = format!("/scrape?info_hash={HASH_TEXT}");
    for tracker in [&one, &two] {
        eventually("the later word stands in both", async || {
            let text = get(tracker, &scrape).await.text();
            // Hosts 1, 2, 5 and 6; the fourth has come to its end. The fifth is told after what
            // waited, so by then all of that has come.
            text.contains("8:completei1e") && text.contains("10:incompletei4e")
        })
        .await;
    }
    // Also for whoever reads it all at once, in whatever order it was written.
    let three = redis.tracker(open()).await;
    let text = get(&three, &scrape).await.text();
    assert!(text.contains("8:completei1e"), "{text}");
    let told = announce(&three, 7, "").await;
    assert!(
        told.contains(&host(4)) && !told.contains(&host(3)),
        "{told:?}"
    );
}

/// The entries of the stream, once there are so many.
async fn entries(raw: &mut redis::aio::MultiplexedConnection, count: usize) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    eventually("what was heard is in Redis", async || {
        let found: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
            .arg(&["groundswell:heard", "-", "+"])
            .query_async(raw)
            .await
            .unwrap();
        entries = found
            .ids
            .iter()
            .map(|entry| entry.get("data").unwrap())
            .collect();
        entries.len() == count
    })
    .await;
    entries
}

#[tokio::test]
async fn what_redis_refuses_for_good_holds_up_nothing() {
    let redis = Redis::start().await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let one = redis.tracker(open()).await;
    // A stream that has used up its ids takes nothing any more.
    let last = format!("{}-{}", u64::MAX, u64::MAX);
    redis::cmd("XADD")
        .arg(&["groundswell:heard", &last, "by", "somebody", "data", ""])
        .exec_async(&mut raw)
        .await
        .unwrap();
    announce(&one, 1, "").await;
    eventually("Redis refuses it", async || {
        let stats: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut raw)
            .await
            .unwrap();
        let xadd = stats.lines().find(|line| line.starts_with("cmdstat_xadd:"));
        xadd.is_some_and(|xadd| !xadd.contains("failed_calls=0"))
    })
    .await;
    redis::cmd("DEL")
        .arg("groundswell:heard")
        .exec_async(&mut raw)
        .await
        .unwrap();
    announce(&one, 3, "").await;
    entries(&mut raw, 1).await;
    let two = redis.tracker(open()).await;
    assert_eq!(announce(&two, 2, "").await, [host(3)]);
}

#[tokio::test]
async fn what_is_read_late_is_as_old_as_it_is() {
    let redis = Redis::start().await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let one = redis.tracker(registered()).await;
    let adds = vec![registration(HASH, "sha256:01")];
    register(&one, &origin(1, &["10.0.0.9:15001"], adds)).await;
    entries(&mut raw, 1).await;
    announce(&one, 1, "").await;
    let records = entries(&mut raw, 2).await;
    one.shutdown().await;
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut raw).await.unwrap();
    // A leecher is kept for eleven minutes, an origin's lease for five.
    for (minutes, told) in [(12, &[][..]), (8, &[host(1)])] {
        let _: u64 = redis::cmd("DEL")
            .arg("groundswell:heard")
            .query_async(&mut raw)
            .await
            .unwrap();
        let id = (seconds - minutes * 60) * 1_000;
        for (n, record) in records.iter().enumerate() {
            let mut add = redis::cmd("XADD");
            add.arg("groundswell:heard").arg(format!("{id}-{n}"));
            add.arg("by").arg("somebody").arg("data").arg(record);
            add.exec_async(&mut raw).await.unwrap();
        }
        let late = redis.tracker(registered()).await;
        eventually("the dead origin sleeps", async || {
            announce(&late, 2, "").await == told
        })
        .await;
        assert_eq!(get(&late, "/lookup/sha256:01").await.status, 200);
        late.shutdown().await;
    }
}

#[tokio::test]
async fn rubbish_in_redis_is_skipped() {
    let redis = Redis::start().await;
    let one = redis.tracker(open()).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    for data in ["", "\u{1}", "\u{1}\u{1}short", "\u{3}other version", "x"] {
        redis::cmd("XADD")
            .arg(&["groundswell:heard", "*", "by", "somebody", "data", data])
            .exec_async(&mut raw)
            .await
            .unwrap();
    }
    redis::cmd("XADD")
        .arg(&["groundswell:heard", "*", "odd", "fields"])
        .exec_async(&mut raw)
        .await
        .unwrap();
    let two = redis.tracker(open()).await;
    announce(&one, 1, "").await;
    eventually("they share all the same", async || {
        announce(&two, 2, "").await == [host(1)]
    })
    .await;
}

#[tokio::test]
async fn without_redis_it_does_not_start_and_says_why_without_the_password() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    for url in [
        format!("redis://user:secret@{addr}/0"),
        "nonsense:secret@h".to_owned(),
    ] {
        let config = Config {
            redis: Some(url),
            ..open()
        };
        let error = Tracker::start(config).await.unwrap_err();
        assert!(matches!(error, TrackerError::Redis { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
