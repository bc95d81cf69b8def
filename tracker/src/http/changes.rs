//! What changes in the swarms, as server-sent events: `GET /api/changes`.
//!
//! Once a second a stream is told the totals (`status`) and the swarms that peers joined, left
//! or advanced in since it was last told (`swarms`), most recent states only, at most a
//! page-full at a time: a watcher that falls behind skips, and memory does not grow. A
//! watcher starts with the totals and is expected to have read `/api/swarms` itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::inspect;
use crate::moment::Moment;
use crate::service::Service;

/// How often a stream is told.
const PERIOD: Duration = Duration::from_secs(1);

/// Each stream walks the swarms once a period; more watchers than this are turned away.
const MOST: usize = 64;

/// How many streams are open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchers(Arc<AtomicUsize>);

/// One open stream.
struct Watcher {
    service: Arc<Service>,
    watchers: Watchers,
    /// What happened from here on has not been told.
    since: Moment,
    ticks: tokio::time::Interval,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers with a stream that ends with the tracker.
pub(crate) fn stream(
    service: Arc<Service>,
    watchers: Watchers,
    shutdown: CancellationToken,
) -> Response {
    let before = watchers.0.fetch_add(1, Ordering::Relaxed);
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let since = service.now(Instant::now());
    let watcher = Watcher {
        service,
        watchers,
        since,
        ticks,
    };
    if before >= MOST {
        let why = format!("{MOST} others watch already");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    }
    let events = events(watcher).take_until(shutdown.cancelled_owned());
    Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn events(watcher: Watcher) -> impl Stream<Item = Result<Event, Infallible>> {
    let batches = stream::unfold(watcher, |mut watcher| async {
        watcher.ticks.tick().await;
        let batch = watcher.look().await?;
        Some((stream::iter(batch.into_iter().map(Ok)), watcher))
    });
    batches.flatten()
}

impl Watcher {
    /// What is new, off the threads that answer announces; `None` ends the stream.
    async fn look(&mut self) -> Option<Vec<Event>> {
        let service = Arc::clone(&self.service);
        let since = self.since;
        let looked = tokio::task::spawn_blocking(move || {
            let now = service.now(Instant::now());
            let status = inspect::status(&service.table, now);
            (now, status, inspect::changed(&service.table, since))
        });
        let (now, status, swarms) = looked.await.ok()?;
        self.since = now;
        let mut batch = vec![Event::default().event("status").json_data(status).ok()?];
        if !swarms.is_empty() {
            batch.push(Event::default().event("swarms").json_data(swarms).ok()?);
        }
        Some(batch)
    }
}
