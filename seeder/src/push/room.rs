//! Room for manifests on their way in: their bytes are bounded in all, however many clients
//! send some, and none may keep the others waiting for long.
//!
//! Invariants: a body has room for all of itself before its first byte is read, so whoever is
//! being received can end. Who has none yet waits with its bytes in its socket, in order; that
//! is what clients cope with best, for neither Docker nor skopeo sends a manifest again upon a
//! 429 or 503. As long as nobody waits, nobody is hurried. Small ones, which is what almost all
//! are, have room of their own: a few large ones do not hold them up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use oci::manifest::{MAX_MANIFEST, too_large};
use oci::{ErrorCode, RegistryError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes in memory at most, of small bodies and of others.
const SMALL_ROOM: usize = 16 << 20;
const LARGE_ROOM: usize = 48 << 20;
/// Small is what announces no more than this.
const SMALL: usize = 256 << 10;
/// A body of unknown length grows by this much: doubling would take twice what it claimed.
const GROWTH: usize = 256 << 10;
/// While others wait, a body may bring nothing for this long, and take so long in all.
const SILENCE: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
/// How long a body waits for room.
const PATIENCE: Duration = Duration::from_secs(120);
/// When a client that was turned away may come back.
const LATER: Duration = Duration::from_secs(10);

/// The room. One for all clients.
pub(crate) struct Room {
    small: Space,
    large: Space,
}

/// Room for those of one kind.
struct Space {
    bytes: Arc<Semaphore>,
    waiting: watch::Sender<usize>,
}

/// A body that came whole, and the room it takes.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Bytes,
    /// Kept for as long as the bytes are needed.
    pub(super) room: OwnedSemaphorePermit,
}

/// Counted as waiting, until dropped.
struct Waiting<'r>(&'r watch::Sender<usize>);

impl Room {
    pub(crate) fn new() -> Self {
        Self {
            small: Space::new(SMALL_ROOM),
            large: Space::new(LARGE_ROOM),
        }
    }

    /// Takes a manifest in; `length` is what its sender announced.
    pub(super) async fn receive(
        &self,
        body: Body,
        length: Option<u64>,
    ) -> Result<Received, RegistryError> {
        let announced = length.map_or(Ok(MAX_MANIFEST), usize::try_from);
        let claimed = announced
            .ok()
            .filter(|length| *length <= MAX_MANIFEST)
            .ok_or_else(too_large)?;
        let space = match claimed {
            ..=SMALL => &self.small,
            _ => &self.large,
        };
        let room = space.claim(claimed).await?;
        let mut bytes = Vec::with_capacity(if length.is_some() { claimed } else { 0 });
        let mut stream = body.into_data_stream();
        let mut waiting = space.waiting.subscribe();
        let begun = Instant::now();
        loop {
            let step = tokio::select! {
                biased;
                () = hurried(&mut waiting, begun) => return Err(too_slow()),
                step = stream.next() => step,
            };
            let Some(step) = step.transpose().map_err(|error| cut(&error))? else {
                break;
            };
            if bytes.len() + step.len() > claimed {
                return Err(too_large());
            }
            if bytes.capacity() - bytes.len() < step.len() {
                bytes.reserve_exact(step.len().max(GROWTH));
            }
            bytes.extend_from_slice(&step);
        }
        Ok(Received {
            bytes: bytes.into(),
            room,
        })
    }
}

impl Space {
    fn new(bytes: usize) -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(bytes)),
            waiting: watch::Sender::new(0),
        }
    }

    async fn claim(&self, bytes: usize) -> Result<OwnedSemaphorePermit, RegistryError> {
        let bytes = u32::try_from(bytes).map_err(|_| too_large())?;
        if let Ok(room) = Arc::clone(&self.bytes).try_acquire_many_owned(bytes) {
            return Ok(room);
        }
        let _waiting = Waiting::new(&self.waiting);
        let claim = Arc::clone(&self.bytes).acquire_many_owned(bytes);
        match timeout(PATIENCE, claim).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(later("too many manifests are being pushed at once")),
        }
    }
}

impl<'r> Waiting<'r> {
    fn new(count: &'r watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Ends when a body that brings nothing from now on is to make room for others.
async fn hurried(waiting: &mut watch::Receiver<usize>, begun: Instant) {
    sleep_until((Instant::now() + SILENCE).min(begun + LONGEST)).await;
    // The sender lives in the room, which outlives whoever is in it.
    let _ = waiting.wait_for(|count| *count > 0).await;
}

fn cut(error: &axum::Error) -> RegistryError {
    let message = format!("the manifest did not come whole: {error}");
    RegistryError::new(ErrorCode::ManifestInvalid, message)
}

fn too_slow() -> RegistryError {
    later("the manifest came too slowly, while others waited to push theirs")
}

fn later(message: &str) -> RegistryError {
    RegistryError::new(ErrorCode::TooManyRequests, message).with_retry_after(LATER)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use tokio::time::sleep;

    use super::*;

    /// Brings so many bytes, then nothing for ever, or for so long.
    fn stalled(bytes: usize, after: Option<Duration>) -> Body {
        let step = |bytes| Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]));
        let last = stream::once(async move {
            match after {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
            step(1)
        });
        Body::from_stream(stream::iter([step(bytes)]).chain(last))
    }

    fn full(room: &Arc<Room>) -> Vec<tokio::task::JoinHandle<Result<Received, RegistryError>>> {
        let stalls = (0..LARGE_ROOM / MAX_MANIFEST).map(|_| {
            let room = Arc::clone(room);
            let length = Some(MAX_MANIFEST as u64);
            tokio::spawn(async move { room.receive(stalled(MAX_MANIFEST - 1, None), length).await })
        });
        stalls.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_stall_make_room() {
        let room = Arc::new(Room::new());
        let stalls = full(&room);
        sleep(SILENCE * 100).await;
        assert_eq!(room.large.bytes.available_permits(), 0);
        assert!(stalls.iter().all(|stall| !stall.is_finished()), "no hurry");
        // A small one need not even wait.
        let begun = Instant::now();
        let received = room.receive(Body::from("{}"), Some(2)).await.unwrap();
        assert_eq!(
            (received.bytes, begun.elapsed()),
            ("{}".into(), Duration::ZERO)
        );
        let received = room.receive(Body::from("{}"), None).await.unwrap();
        assert_eq!(received.bytes, "{}");
        assert!(begun.elapsed() <= SILENCE);
        for stall in stalls {
            if stall.is_finished() {
                let refused = stall.await.unwrap().unwrap_err();
                assert_eq!(refused.status(), 429);
                assert!(refused.retry_after.is_some());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drips_do_not_keep_others_out() {
        let room = Arc::new(Room::new());
        let drip = || {
            stream::unfold((), |()| async {
                sleep(SILENCE / 2).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
            })
        };
        let drips: Vec<_> = (0..LARGE_ROOM / MAX_MANIFEST)
            .map(|_| {
                let room = Arc::clone(&room);
                tokio::spawn(async move { room.receive(Body::from_stream(drip()), None).await })
            })
            .collect();
        sleep(Duration::from_millis(1)).await;
        let begun = Instant::now();
        room.receive(Body::from("{}"), None).await.unwrap();
        assert!(begun.elapsed() <= LONGEST + SILENCE);
        drips.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_large_ones_takes_turns() {
        let room = Arc::new(Room::new());
        let pushes = (0..100).map(|_| {
            let room = Arc::clone(&room);
            tokio::spawn(async move {
                let body = stalled(1000, Some(SILENCE / 2));
                let received = room.receive(body, None).await.unwrap();
                let left = room.large.bytes.available_permits();
                assert!(left <= LARGE_ROOM - MAX_MANIFEST);
                received.bytes.len()
            })
        });
        for push in pushes.collect::<Vec<_>>() {
            assert_eq!(push.await.unwrap(), 1001);
        }
        assert_eq!(room.large.bytes.available_permits(), LARGE_ROOM);
    }

    #[tokio::test]
    async fn too_much_is_refused_before_it_is_held() {
        let room = Room::new();
        let large = Some(MAX_MANIFEST as u64 + 1);
        let refused = room.receive(Body::empty(), large).await.unwrap_err();
        assert_eq!(refused.status(), 413);
        let body = Body::from(vec![b' '; MAX_MANIFEST + 1]);
        assert_eq!(room.receive(body, None).await.unwrap_err().status(), 413);
        assert_eq!(room.large.bytes.available_permits(), LARGE_ROOM);
    }
}
