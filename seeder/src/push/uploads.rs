//! Uploads over HTTP: sessions opened, appended to, closed, looked at, cancelled.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use oci::digest::Algorithm;
use oci::range::upload_chunk;
use oci::route::{Route, query_value};
use oci::{Action, Caller, Digest, ErrorCode, RegistryError, RepoName};
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Answer, RegistryPort, created, empty, header, interrupted, length, parsed, text};
use crate::intake::Intake;
use crate::registry::{CommitError, storage};
use crate::sessions::{Session, Writer};
use crate::store::StoreError;
use crate::upload::{Claim, Refusal};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// When a client that was turned away may come back.
const LATER: Duration = Duration::from_secs(10);

/// A client that brings nothing for this long ends its turn.
const LULL: Duration = Duration::from_secs(1);
/// A turn is over after this long, when others may be waiting for theirs.
const TURN: Duration = Duration::from_secs(5);

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    /// The connection ended, or nothing came for too long.
    #[error("the upload was cut: {0}")]
    Cut(axum::Error),
    /// More or less came than was announced.
    #[error("{expected} bytes were announced, and {came} came")]
    Length { expected: u64, came: u64 },
    /// Somebody ended the session.
    #[error("the upload was cancelled")]
    Cancelled,
    /// Ours.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RegistryPort {
    /// `POST`: a session, or a whole blob at once, or a mount.
    pub(super) async fn start(&self, caller: &Caller, repo: RepoName, request: Request) -> Answer {
        self.registry.permit(caller, Action::Push, &repo, None)?;
        if let Some(mount) = parsed::<Digest>(&request, "mount")?
            && let Some(created) = self
                .mount(caller, &repo, &mount, query(&request, "from"))
                .await?
        {
            return Ok(created);
        }
        let digest = parsed::<Digest>(&request, "digest")?;
        let algorithm = digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let session = self.open(&repo, algorithm)?;
        // Without a body nothing but the empty blob could come of it.
        let bodiless = request.body().is_end_stream();
        match digest.filter(|digest| !bodiless || digest.is_of_nothing()) {
            None => Ok(accepted(&session)),
            Some(digest) => self.take_and_commit(&session, digest, request, true).await,
        }
    }

    async fn mount(
        &self,
        caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
        from: Option<String>,
    ) -> Result<Option<Response>, RegistryError> {
        // `from` may be a name of another registry, or none at all: that is no mount, and no
        // reason to refuse the upload that the client falls back to.
        let from = match from.as_deref().map(str::parse) {
            Some(Ok(from)) => Some(from),
            Some(Err(_)) => return Ok(None),
            None => None,
        };
        let mounted = self
            .registry
            .mount(caller, repo, digest, from.as_ref())
            .await?;
        Ok(mounted.then(|| created(&Route::Blob(repo.clone(), digest.clone()).path(), digest)))
    }

    fn open(&self, repo: &RepoName, algorithm: Algorithm) -> Result<Arc<Session>, RegistryError> {
        let blobs = Arc::clone(&self.registry.stores().blobs);
        self.sessions.open(repo, blobs, algorithm).map_err(|full| {
            RegistryError::new(ErrorCode::TooManyRequests, full.to_string()).with_retry_after(LATER)
        })
    }

    /// `PATCH`: the next bytes.
    pub(super) async fn append(
        &self,
        caller: &Caller,
        repo: RepoName,
        id: String,
        request: Request,
    ) -> Answer {
        self.registry.permit(caller, Action::Push, &repo, None)?;
        let session = self.find(&repo, &id)?;
        let writer = match self.begin(&session, request.headers())? {
            Ok(writer) => writer,
            Err(out_of_order) => return Ok(out_of_order),
        };
        let this = self.clone();
        let taken = self.tasks.spawn(async move {
            let writer = this.receive(writer, request.into_body()).await?;
            if writer.kept() { Ok(()) } else { Err(over()) }
        });
        taken.await.map_err(|_| interrupted())??;
        Ok(accepted(&session))
    }

    /// `PUT`: the last bytes, if any, and the digest of all.
    pub(super) async fn close(
        &self,
        caller: &Caller,
        repo: RepoName,
        id: String,
        request: Request,
    ) -> Answer {
        self.registry.permit(caller, Action::Push, &repo, None)?;
        let session = self.find(&repo, &id)?;
        let Some(digest) = parsed::<Digest>(&request, "digest")? else {
            let message = "an upload is closed with ?digest=, which is missing";
            return Err(RegistryError::new(ErrorCode::DigestInvalid, message));
        };
        self.take_and_commit(&session, digest, request, false).await
    }

    /// `once`: the client does not know the session, so nobody would come back to it.
    async fn take_and_commit(
        &self,
        session: &Arc<Session>,
        digest: Digest,
        request: Request,
        once: bool,
    ) -> Answer {
        let mut writer = match self.begin(session, request.headers())? {
            Ok(writer) => writer,
            Err(out_of_order) => return Ok(out_of_order),
        };
        writer.intake().expect(digest.algorithm());
        let (this, wanted) = (self.clone(), digest.clone());
        let stored = self.tasks.spawn(async move {
            let session = Arc::clone(writer.session());
            let stored = async {
                let writer = this.receive(writer, request.into_body()).await?;
                this.commit(writer, &wanted).await
            };
            let stored = stored.await;
            if once {
                this.sessions.end(&session);
            }
            stored
        });
        stored.await.map_err(|_| interrupted())??;
        let location = Route::Blob(session.repo.clone(), digest.clone()).path();
        Ok(created(&location, &digest))
    }

    async fn commit(&self, mut writer: Writer, wanted: &Digest) -> Result<(), RegistryError> {
        let repo = writer.session().repo.clone();
        let Some(intake) = writer.close() else {
            return Err(over());
        };
        let committed = self.registry.commit(&repo, wanted, intake).await;
        committed.map_err(|error| {
            self.registry.metrics().upload_refused();
            if let CommitError::Failed(_) = error {
                let blobs = Arc::clone(&self.registry.stores().blobs);
                writer.failed(Intake::new(blobs, wanted.algorithm()));
            }
            error.into_answer()
        })
    }

    /// `GET`: how far it is.
    pub(super) fn status(&self, caller: &Caller, repo: &RepoName, id: &str) -> Answer {
        self.registry.permit(caller, Action::Push, repo, None)?;
        let session = self.find(repo, id)?;
        Ok(standing(StatusCode::NO_CONTENT, &session))
    }

    /// `DELETE`: it never was.
    pub(super) fn cancel(&self, caller: &Caller, repo: &RepoName, id: &str) -> Answer {
        self.registry.permit(caller, Action::Push, repo, None)?;
        let session = self.find(repo, id)?;
        self.sessions.end(&session);
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn find(&self, repo: &RepoName, id: &str) -> Result<Arc<Session>, RegistryError> {
        self.sessions.find(repo, id).ok_or_else(over)
    }

    /// The inner error is a 416 that says where the session stands.
    fn begin(
        &self,
        session: &Arc<Session>,
        headers: &HeaderMap,
    ) -> Result<Result<Writer, Response>, RegistryError> {
        let range = match text(headers, &CONTENT_RANGE) {
            None => None,
            Some(header) => Some(upload_chunk(header).ok_or_else(|| {
                let message = "Content-Range is not of the form <first byte>-<last byte>";
                RegistryError::new(ErrorCode::BlobUploadInvalid, message)
            })?),
        };
        let claim = Claim {
            range,
            length: length(headers),
        };
        let refusal = match self.sessions.begin(session, &claim) {
            Ok(writer) => return Ok(Ok(writer)),
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::Gone => Err(over()),
            Refusal::Busy => {
                let error = RegistryError::new(ErrorCode::BlobUploadInvalid, refusal.to_string());
                Err(error
                    .with_status(StatusCode::CONFLICT)
                    .with_retry_after(LATER))
            }
            Refusal::OutOfOrder(_) | Refusal::Contradiction { .. } => {
                let error = RegistryError::new(ErrorCode::RangeInvalid, refusal.to_string());
                let mut response = error.into_response();
                say_standing(&mut response, session);
                Ok(Err(response))
            }
        }
    }

    /// Takes the body in, whole or not at all.
    async fn receive(&self, mut writer: Writer, body: Body) -> Result<Writer, RegistryError> {
        let error = match self.take(&mut writer, body).await {
            Ok(()) => return Ok(writer),
            Err(error) => error,
        };
        let metrics = self.registry.metrics();
        let session = Arc::clone(writer.session());
        let answer = match error {
            BodyError::Cancelled => over(),
            BodyError::Store(error) => storage(error),
            BodyError::Length { .. } => {
                RegistryError::new(ErrorCode::SizeInvalid, error.to_string())
            }
            BodyError::Cut(_) => {
                metrics.upload_cut();
                tracing::info!(repo = %session.repo, upload = session.id, %error, "an upload was cut");
                RegistryError::new(ErrorCode::BlobUploadInvalid, error.to_string())
            }
        };
        writer.lost().await.map_err(storage)?;
        Err(answer)
    }

    /// Bytes are in memory only during a turn: whoever falls silent has them written, and lets
    /// others. Waiting for a turn costs the client nothing but time: its bytes wait in its
    /// socket, but for the few with which it broke its silence.
    async fn take(&self, writer: &mut Writer, body: Body) -> Result<(), BodyError> {
        let cancelled = writer.session().cancelled().clone();
        let expected = writer.expected.length;
        let wrong =
            |came| expected.map_or(Ok(()), |expected| Err(BodyError::Length { expected, came }));
        let mut stream = body.into_data_stream();
        let mut came = 0;
        let mut turn = self.turn(&cancelled).await?;
        loop {
            let step = tokio::select! {
                biased;
                () = cancelled.cancelled() => return Err(BodyError::Cancelled),
                step = stream.next() => step,
                () = tokio::time::sleep(LULL) => {
                    writer.intake().settle().await?;
                    drop(turn);
                    let step = unless_cancelled(&cancelled, stream.next()).await?;
                    turn = self.turn(&cancelled).await?;
                    step
                }
            };
            let Some(bytes) = step.transpose().map_err(BodyError::Cut)? else {
                break;
            };
            came += bytes.len() as u64;
            if expected.is_some_and(|expected| came > expected) {
                wrong(came)?;
            }
            self.registry.metrics().upload_received(bytes.len() as u64);
            writer.intake().take(&bytes).await?;
            if turn.since.elapsed() > TURN && self.receiving.available_permits() == 0 {
                writer.intake().settle().await?;
                drop(turn);
                turn = self.turn(&cancelled).await?;
            }
        }
        if expected.is_some_and(|expected| came < expected) {
            wrong(came)?;
        }
        writer.intake().settle().await?;
        Ok(())
    }

    async fn turn(&self, cancelled: &CancellationToken) -> Result<Turn<'_>, BodyError> {
        let permit = unless_cancelled(cancelled, self.receiving.acquire()).await?;
        Ok(Turn {
            since: Instant::now(),
            _permit: permit.map_err(|_| BodyError::Cancelled)?,
        })
    }
}

/// One's time to have bytes in memory.
struct Turn<'p> {
    since: Instant,
    _permit: SemaphorePermit<'p>,
}

async fn unless_cancelled<T>(
    cancelled: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, BodyError> {
    let done = cancelled.run_until_cancelled(work).await;
    done.ok_or(BodyError::Cancelled)
}

fn query(request: &Request, key: &str) -> Option<String> {
    query_value(request.uri().query(), key).map(Cow::into_owned)
}

/// 202: the session stands here.
fn accepted(session: &Session) -> Response {
    standing(StatusCode::ACCEPTED, session)
}

fn standing(status: StatusCode, session: &Session) -> Response {
    let mut response = empty(status);
    say_standing(&mut response, session);
    response
}

/// Docker sends a layer again, five times, when `Range` or `Location` is missing here.
fn say_standing(response: &mut Response, session: &Session) {
    let location = Route::Upload(session.repo.clone(), session.id.clone()).path();
    let last = session.offset().saturating_sub(1);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(location));
    headers.insert(RANGE, header(format_args!("0-{last}")));
    headers.insert(UPLOAD_ID, header(&session.id));
}

fn over() -> RegistryError {
    let message =
        "this upload is not known here: it was closed, cancelled, or forgotten; start a new one";
    RegistryError::new(ErrorCode::BlobUploadUnknown, message)
}
