//! Head starts: the first pieces of downloads that begin, handed out by the web seed itself.
//!
//! A host that pulls alone, or comes late to a crowd, has its first bytes a moment after it
//! asked. When a thousand ask at once, the origin's link belongs to the swarm: few have their
//! turn at a time, each place rests after it, and everyone else is refused soon and has lost
//! nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Turns at a time.
const PLACES: usize = 4;
/// Waiting for a turn pays for no longer.
const PATIENCE: Duration = Duration::from_millis(30);
/// A place rests so many times as long as it was taken.
const REST: u32 = 3;
/// A turn that does not end keeps its place for this long.
const LONGEST: Duration = Duration::from_secs(2);

/// Hands out turns. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HeadStarts {
    places: Arc<Semaphore>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _over: oneshot::Sender<Infallible>,
}

impl HeadStarts {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }

    /// A turn, unless too many have theirs.
    pub(crate) async fn begin(&self) -> Option<Turn> {
        let place = timeout(PATIENCE, self.places.clone().acquire_owned()).await;
        let place = place.ok()?.ok()?;
        let began = Instant::now();
        let (turn, over) = oneshot::channel();
        tokio::spawn(async move {
            // Nothing is ever sent: it ends when the turn is dropped.
            let _ = timeout(LONGEST, over).await;
            sleep(began.elapsed() * REST).await;
            drop(place);
        });
        Some(Turn { _over: turn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    async fn all_turns(heads: &HeadStarts) -> Vec<Turn> {
        let mut turns = Vec::new();
        while let Some(turn) = heads.begin().await {
            turns.push(turn);
        }
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn few_at_a_time_and_places_rest() {
        let heads = HeadStarts::new();
        let turns = all_turns(&heads).await;
        assert_eq!(turns.len(), PLACES);
        sleep(TICK).await;
        drop(turns);
        sleep(TICK * 2).await;
        assert!(heads.begin().await.is_none(), "as long as it took, thrice");
        sleep(TICK * 2).await;
        assert_eq!(all_turns(&heads).await.len(), PLACES);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_a_little_has_the_next_turn() {
        let heads = HeadStarts::new();
        let turns: Vec<_> =
            futures_util::future::join_all((0..PLACES).map(|_| heads.begin())).await;
        let waiting = tokio::spawn({
            let heads = heads.clone();
            async move { heads.begin().await.is_some() }
        });
        sleep(PATIENCE / 8).await;
        drop(turns);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_never_ends_loses_its_place() {
        let heads = HeadStarts::new();
        let stuck = all_turns(&heads).await;
        sleep(LONGEST * (1 + REST)).await;
        assert_eq!(all_turns(&heads).await.len(), PLACES);
        drop(stuck);
    }
}
