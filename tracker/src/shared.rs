//! What trackers behind one address tell each other, through one stream in Redis.
//!
//! ```text
//!  announce, register ─▶ own table ─▶ outbox ─▶ XADD ─▶ stream ─▶ XREAD ─▶ other tables
//! ```
//!
//! The stream is a log of what each tracker heard, cut off where everything in it has expired: a
//! tracker that starts reads it all, one that lost Redis for a while reads on where it was. The
//! boot id is the first tracker's, kept in Redis, since to its clients the fleet is one tracker.
//! An entry's id says by Redis' clock when it was written, each record in it how long it had waited
//! for that: what is told or read late is as old here as it is where it was heard, and no tracker's
//! clock of the day is asked.
//!
//! Invariants: no announce waits for Redis. Without Redis each tracker serves what it hears
//! itself; the outbox is bounded, and what does not fit is lost to the others until the peer
//! announces again. What comes from Redis is decoded as if anybody had written it.

mod outbox;
mod record;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};
use tokio_util::sync::CancellationToken;

use crate::service::Service;

use outbox::{Queue, Waiting};

pub(crate) use outbox::Outbox;
pub(crate) use record::{Heard, HeardAnnounce, registered};

const STREAM: &str = "groundswell:heard";
const BOOT: &str = "groundswell:boot";
/// Who wrote an entry, and what.
const BY: &str = "by";
const DATA: &str = "data";

/// Entries read at once; most are short.
const PAGE: usize = 64;
/// How long a read waits for news, and how much longer for the answer.
const WAIT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(5);
/// Between two attempts to reach Redis.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at whether Redis still has the boot id, and at its clock.
const CHECK: Duration = Duration::from_secs(30);

/// Redis, reached, and what is to be sent there.
pub(crate) struct Shared {
    client: Client,
    boot_id: String,
    /// This process in the stream.
    us: String,
    outbox: Outbox,
    records: Queue,
    /// The last entry read.
    last: String,
    window: Duration,
}

impl Shared {
    /// Reaches Redis and agrees on the boot id. `window` is for how long what was heard counts.
    pub(crate) async fn connect(
        url: &str,
        us: String,
        window: Duration,
    ) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        let mut connection = connect(&client).await?;
        let boot_id = agree(&mut connection, &us).await?;
        let (outbox, records) = outbox::outbox(outbox::RECORDS, outbox::BYTES);
        let last = format!("{}-0", since_epoch().saturating_sub(window).as_millis());
        Ok(Self {
            client,
            boot_id,
            us,
            outbox,
            records,
            last,
            window,
        })
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    pub(crate) fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Takes in what the others heard before this tracker started.
    pub(crate) async fn catch_up(&mut self, service: &Arc<Service>) -> Result<(), RedisError> {
        let mut connection = connect(&self.client).await?;
        let clock = RedisClock::read(&mut connection).await?;
        let began = Instant::now();
        let mut entries = 0;
        loop {
            let after = format!("({}", self.last);
            let page: StreamRangeReply = connection.xrange_count(STREAM, after, "+", PAGE).await?;
            let Some(last) = page.ids.last() else {
                break;
            };
            self.last.clone_from(&last.id);
            entries += page.ids.len();
            take_in(service, &self.us, clock, page.ids).await;
        }
        tracing::info!(entries, took = ?began.elapsed(), "caught up with the other trackers");
        Ok(())
    }

    /// Sends and reads until `shutdown`.
    pub(crate) async fn run(self, service: Arc<Service>, shutdown: CancellationToken) {
        let Self {
            client,
            boot_id,
            us,
            records,
            last,
            window,
            ..
        } = self;
        let writer = Writer {
            client: client.clone(),
            boot_id,
            us: us.clone(),
            records,
            window,
            down: false,
        };
        let work = async { tokio::join!(writer.run(), read_task(client, us, last, service)) };
        tokio::select! {
            _ = work => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER))
        .set_response_timeout(Some(WAIT + ANSWER));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// The boot id that is in Redis, or `ours` if none was.
async fn agree(connection: &mut MultiplexedConnection, ours: &str) -> Result<String, RedisError> {
    let _: bool = connection.set_nx(BOOT, ours).await?;
    let agreed: Option<String> = connection.get(BOOT).await?;
    // It travels in every reply: a foreign value of any length must not.
    let usable =
        agreed.filter(|id| id.len() == ours.len() && id.bytes().all(|b| b.is_ascii_hexdigit()));
    Ok(usable.unwrap_or_else(|| ours.to_owned()))
}

/// Redis' clock as it stood a while ago, carried on by one that never jumps.
#[derive(Debug, Clone, Copy)]
struct RedisClock {
    since_epoch: Duration,
    read: Instant,
}

impl RedisClock {
    async fn read(connection: &mut MultiplexedConnection) -> Result<Self, RedisError> {
        let (seconds, micros): (u64, u32) = redis::cmd("TIME").query_async(connection).await?;
        Ok(Self {
            since_epoch: Duration::new(seconds, micros.min(999_999) * 1_000),
            read: Instant::now(),
        })
    }

    /// How long ago an entry was written; zero when its id says nothing.
    fn age(&self, id: &str) -> Duration {
        let written = id.split('-').next().and_then(|millis| millis.parse().ok());
        let Some(written) = written.map(Duration::from_millis) else {
            return Duration::ZERO;
        };
        (self.since_epoch + self.read.elapsed()).saturating_sub(written)
    }
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Sends what this tracker hears.
struct Writer {
    client: Client,
    boot_id: String,
    us: String,
    records: Queue,
    window: Duration,
    /// Nothing was taken since the failure that was logged.
    down: bool,
}

impl Writer {
    async fn run(mut self) {
        let mut unsent = Vec::new();
        loop {
            let Err(error) = self.send(&mut unsent).await else {
                return;
            };
            if is_of_the_batch(&error) && !unsent.is_empty() {
                // The same words would be refused for ever, and all that follows would wait.
                let records = unsent.len();
                tracing::warn!(%error, records, "Redis refuses what this tracker heard: other trackers do not hear it");
                unsent.clear();
            } else if !std::mem::replace(&mut self.down, true) {
                tracing::warn!(%error, "Redis is lost: trying again every second");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Until Redis is lost or refuses something. What was not acknowledged stays in `unsent`.
    async fn send(&mut self, unsent: &mut Vec<Waiting>) -> Result<(), RedisError> {
        let mut connection = connect(&self.client).await?;
        let mut check = tokio::time::interval(CHECK);
        loop {
            if unsent.is_empty() {
                tokio::select! {
                    _ = check.tick() => {
                        // Should Redis have lost it, the next tracker to start finds it again.
                        agree(&mut connection, &self.boot_id).await?;
                        self.down = false;
                        continue;
                    }
                    batch = self.records.batch() => {
                        if batch.is_empty() {
                            return Ok(());
                        }
                        *unsent = batch;
                    }
                }
            }
            let records = unsent
                .iter()
                .map(|waiting| (waiting.since.elapsed(), &waiting.heard));
            let entry = record::encode(records);
            let oldest = since_epoch().saturating_sub(self.window).as_millis();
            redis::cmd("XADD")
                .arg(STREAM)
                .arg("MINID")
                .arg("~")
                .arg(oldest.to_string())
                .arg("*")
                .arg(BY)
                .arg(&self.us)
                .arg(DATA)
                .arg(entry)
                .exec_async(&mut connection)
                .await?;
            self.down = false;
            unsent.clear();
        }
    }
}

/// Whether Redis refused a command for what it says. What it answers to all of them (it loads, has
/// no memory left, follows another) passes.
fn is_of_the_batch(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
}

/// Takes in what the others hear.
async fn read_task(client: Client, us: String, mut last: String, service: Arc<Service>) {
    loop {
        // The writer says when Redis is lost.
        if let Err(error) = read(&client, &us, &mut last, &service).await {
            tracing::debug!(%error, "reading of other trackers interrupted");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read(
    client: &Client,
    us: &str,
    last: &mut String,
    service: &Arc<Service>,
) -> Result<(), RedisError> {
    let mut connection = connect(client).await?;
    let mut clock = RedisClock::read(&mut connection).await?;
    let wait = usize::try_from(WAIT.as_millis()).unwrap_or(usize::MAX);
    let options = StreamReadOptions::default().block(wait).count(PAGE);
    loop {
        // Two clocks drift apart over weeks.
        if clock.read.elapsed() > CHECK {
            clock = RedisClock::read(&mut connection).await?;
        }
        let news: Option<StreamReadReply> = connection
            .xread_options(&[STREAM], &[last.as_str()], &options)
            .await?;
        for stream in news.into_iter().flat_map(|news| news.keys) {
            if let Some(newest) = stream.ids.last() {
                last.clone_from(&newest.id);
            }
            take_in(service, us, clock, stream.ids).await;
        }
    }
}

/// Puts entries into the table, but for those that are our own.
async fn take_in(service: &Arc<Service>, us: &str, clock: RedisClock, entries: Vec<StreamId>) {
    let (service, us) = (Arc::clone(service), us.to_owned());
    // A page may hold full batches of registrations: not on an async thread.
    let work = tokio::task::spawn_blocking(move || {
        let now = service.now(Instant::now());
        for entry in entries {
            if entry.get::<String>(BY).is_none_or(|by| by == us) {
                continue;
            }
            let written = now.minus(clock.age(&entry.id));
            let data: Vec<u8> = entry.get(DATA).unwrap_or_default();
            match record::decode(&data) {
                Ok(records) => records.into_iter().for_each(|(waited, heard)| {
                    service.table.hear(written.minus(waited), now, heard);
                }),
                Err(error) => {
                    tracing::warn!(entry = entry.id, %error, "an entry in Redis is skipped")
                }
            }
        }
    });
    // A panic has said so already.
    let _ = work.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_old_as_its_id_says() {
        let clock = RedisClock {
            since_epoch: Duration::from_secs(1_000_000),
            read: Instant::now(),
        };
        let age = clock.age("999000000-7").as_secs();
        assert!((1_000..1_600).contains(&age), "{age}");
        for odd in ["2000000000-0", "", "-", "x-1", "99999999999999999999999-0"] {
            assert_eq!(clock.age(odd), Duration::ZERO, "{odd}");
        }
    }
}
