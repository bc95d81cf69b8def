//! Upload sessions by id: who may write, what is kept between requests, what is reclaimed.
//!
//! Sessions live in memory and their bytes in the spool, so a restart knows none of them:
//! clients start over, and nothing is left. A writer owns its session's intake until the body
//! is kept or lost; dropping it ends the session and removes its bytes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use oci::RepoName;
use oci::digest::Algorithm;
use tokio_util::sync::CancellationToken;

use crate::intake::{Intake, Mark};
use crate::store::{BlobStore, StoreError};
use crate::upload::{Claim, Expected, Refusal, Upload};

/// When all sessions are taken, those that never got a byte for this long make room: clients
/// open sessions they then forget.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// All sessions of an origin.
pub(crate) struct Sessions {
    table: Mutex<HashMap<String, Arc<Session>>>,
    limit: usize,
    idle: Duration,
}

/// One of them.
pub(crate) struct Session {
    /// In its URL.
    pub(crate) id: String,
    /// The one it was opened in; it exists nowhere else.
    pub(crate) repo: RepoName,
    upload: Mutex<Upload>,
    /// Absent while a writer has it.
    intake: Mutex<Option<Intake>>,
    /// Ends a writer that is under way.
    cancelled: CancellationToken,
}

/// The one who may write to a session now.
pub(crate) struct Writer {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    /// What its body must turn out to be.
    pub(crate) expected: Expected,
    /// Where its bytes go; `None` once it is given back or on.
    intake: Option<Intake>,
    mark: Option<Mark>,
    /// Set when the session was left in a state for others to find.
    left: bool,
}

/// As many sessions as there may be are open.
#[derive(Debug, thiserror::Error)]
#[error("{0} uploads are open at this origin, which is as many as it allows")]
pub(crate) struct TooMany(usize);

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("open", &self.count())
            .finish_non_exhaustive()
    }
}

impl Sessions {
    /// None.
    pub(crate) fn new(limit: usize, idle: Duration) -> Self {
        Self {
            table: Mutex::default(),
            limit,
            idle,
        }
    }

    /// Opens one.
    pub(crate) fn open(
        &self,
        repo: &RepoName,
        store: Arc<dyn BlobStore>,
        algorithm: Algorithm,
    ) -> Result<Arc<Session>, TooMany> {
        let mut table = self.table();
        if table.len() >= self.limit {
            let now = Instant::now();
            table.retain(|_, session| !session.upload().forgotten(now, FORGOTTEN.min(self.idle)));
        }
        if table.len() >= self.limit {
            return Err(TooMany(self.limit));
        }
        let session = Arc::new(Session {
            id: fresh_id(),
            repo: repo.clone(),
            upload: Mutex::new(Upload::new(Instant::now())),
            intake: Mutex::new(Some(Intake::new(store, algorithm))),
            cancelled: CancellationToken::new(),
        });
        table.insert(session.id.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// The session of that id, if it was opened in that repository and is not over.
    pub(crate) fn find(&self, repo: &RepoName, id: &str) -> Option<Arc<Session>> {
        self.table()
            .get(id)
            .filter(|session| session.repo == *repo)
            .cloned()
    }

    /// Ends a session: its writer stops, its bytes go.
    pub(crate) fn end(&self, session: &Session) {
        self.table().remove(&session.id);
        session.end();
    }

    /// Asks to write.
    pub(crate) fn begin(
        self: &Arc<Self>,
        session: &Arc<Session>,
        claim: &Claim,
    ) -> Result<Writer, Refusal> {
        let expected = session.upload().begin(Instant::now(), claim)?;
        // Whoever ends the session in this moment takes the intake away.
        let intake = session.intake().take().ok_or(Refusal::Gone)?;
        let mark = intake.mark();
        let (sessions, session) = (Arc::clone(self), Arc::clone(session));
        Ok(Writer {
            sessions,
            session,
            expected,
            intake: Some(intake),
            mark: Some(mark),
            left: false,
        })
    }

    /// Ends those that nobody touched for too long.
    pub(crate) fn expire(&self, now: Instant) {
        let mut over = Vec::new();
        self.table().retain(|_, session| {
            let expired = session.upload().expire(now, self.idle);
            if expired {
                over.push(Arc::clone(session));
            }
            !expired
        });
        // Outside the lock: removing bytes takes its time.
        over.iter().for_each(|session| session.end());
    }

    /// Ends all of them.
    pub(crate) fn end_all(&self) {
        let all: Vec<_> = self.table().drain().collect();
        all.iter().for_each(|(_, session)| session.end());
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.table.lock().expect("no panic while the table is held")
    }
}

impl Session {
    /// Bytes received, whole bodies only.
    pub(crate) fn offset(&self) -> u64 {
        self.upload().offset()
    }

    /// Ends a writer that is under way.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    fn end(&self) {
        self.upload().cancel();
        self.cancelled.cancel();
        drop(self.intake().take());
    }

    fn upload(&self) -> MutexGuard<'_, Upload> {
        self.upload
            .lock()
            .expect("no panic while an upload is held")
    }

    fn intake(&self) -> MutexGuard<'_, Option<Intake>> {
        self.intake
            .lock()
            .expect("no panic while an intake is held")
    }
}

impl Writer {
    /// Where the bytes go.
    pub(crate) fn intake(&mut self) -> &mut Intake {
        self.intake
            .as_mut()
            .expect("a writer has its intake until it is kept or lost")
    }

    /// Its session.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The body was taken whole: the session stands past it. `false` when the session was
    /// ended meanwhile.
    pub(crate) fn kept(mut self) -> bool {
        let Some(intake) = self.intake.take() else {
            return false;
        };
        let length = intake.length() - self.expected.start;
        // The intake goes back before the next writer can begin.
        *self.session.intake() = Some(intake);
        self.left = self.session.upload().taken(Instant::now(), length);
        self.left
    }

    /// The body was cut or refused: the session stands where it stood, for another try.
    pub(crate) async fn lost(mut self) -> Result<(), StoreError> {
        let (Some(mut intake), Some(mark)) = (self.intake.take(), self.mark.take()) else {
            return Ok(());
        };
        intake.rewind(mark).await?;
        self.leave(intake);
        Ok(())
    }

    /// The body was taken whole and closes the upload: what came, for the store. Then the
    /// writer is dropped, or [`Self::failed`].
    pub(crate) fn close(&mut self) -> Option<Intake> {
        self.intake.take()
    }

    /// It could not be stored, and that is our fault. A client that sent everything in one
    /// request may send it again on the same URL; any other starts over.
    pub(crate) fn failed(mut self, fresh: Intake) {
        if self.expected.start == 0 {
            self.leave(fresh);
        }
    }

    fn leave(&mut self, intake: Intake) {
        // The intake is back before the next writer can begin.
        *self.session.intake() = Some(intake);
        self.left = self.session.upload().lost(Instant::now());
    }
}

impl Drop for Writer {
    /// Whatever was not kept or lost is over: stored, refused for good, or its task died.
    fn drop(&mut self) {
        if !self.left {
            self.sessions.end(&self.session);
        }
    }
}

/// A random version 4 UUID: nobody guesses another's session.
fn fresh_id() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        let _ = write!(id, "{byte:02x}");
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirStore;

    /// Two requests at once: one has been let in, the other ends the session before the first
    /// takes what came so far.
    #[tokio::test]
    async fn who_is_let_in_while_the_session_ends_hears_that_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(&dir.path().join("data")).unwrap();
        let sessions = Arc::new(Sessions::new(1, Duration::from_secs(60)));
        let repo = "p/x".parse().unwrap();
        let session = sessions
            .open(&repo, store.stores().blobs, Algorithm::Sha256)
            .unwrap();
        drop(session.intake().take());
        let refused = sessions.begin(&session, &Claim::default()).map(drop);
        assert_eq!(refused, Err(Refusal::Gone));
    }
}
