//! Keeps one tracker told what this origin seeds: the ledger decides, this speaks HTTP.
//!
//! Nothing is withdrawn at shutdown: a herd's tracker serves registered swarms only, and what
//! this origin fed must live on among its agents.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use torrents::PeerId;
use torrents::register::{MAX_BODY, RegisterError, RegisterReply, RegisterRequest};
use url::Url;

use crate::ledger::{Change, Ledger, Say, Told};
use crate::shelf::Shelf;

/// Who registers.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// A lease belongs to it.
    pub(crate) peer_id: PeerId,
    /// What peers dial.
    pub(crate) peer: SocketAddr,
    /// What the tracker asks of origins.
    pub(crate) secret: Option<String>,
}

/// One tracker and what it was told.
pub(crate) struct Registrar {
    /// Its base URL.
    url: Url,
    state: Mutex<State>,
    news: Notify,
    /// Changes whenever the ledger moved on.
    moved: watch::Sender<()>,
}

struct State {
    ledger: Ledger,
    trouble: Option<String>,
}

/// How a tracker stands, for people.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TrackerStatus {
    /// Which one.
    pub(crate) url: Url,
    /// Whether it has everything we seed.
    pub(crate) registered: bool,
    /// Torrents it holds of ours.
    pub(crate) held: u64,
    /// Why the last attempt failed, when it did.
    pub(crate) trouble: Option<String>,
}

/// Why a tracker was not told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("{}", innermost(.0))]
    Http(#[from] reqwest::Error),
    #[error("it answered {0}")]
    Status(reqwest::StatusCode),
    #[error("its answer has more than {MAX_BODY} bytes")]
    TooLong,
    #[error(transparent)]
    Register(#[from] RegisterError),
}

impl Registrar {
    /// Nothing is said before [`Self::run`].
    pub(crate) fn new(url: Url) -> Self {
        let state = State {
            ledger: Ledger::new(Instant::now()),
            trouble: None,
        };
        Self {
            url,
            state: Mutex::new(state),
            news: Notify::new(),
            moved: watch::Sender::new(()),
        }
    }

    /// Notes a change to tell.
    pub(crate) fn note(&self, change: Change) {
        self.state().ledger.note(change);
        self.news.notify_one();
    }

    /// The number of the last change, for [`Self::told`].
    pub(crate) fn noted(&self) -> u64 {
        self.state().ledger.noted()
    }

    /// Waits until the change of that number has been told. Returns at once when the tracker
    /// does not answer: whoever waits must not be held up by it.
    pub(crate) async fn told(&self, number: u64) {
        let mut moved = self.moved.subscribe();
        loop {
            {
                let state = self.state();
                if state.ledger.told() >= number || !state.ledger.answers() {
                    return;
                }
            }
            if moved.changed().await.is_err() {
                return;
            }
        }
    }

    /// How it stands.
    pub(crate) fn status(&self) -> TrackerStatus {
        let state = self.state();
        TrackerStatus {
            url: self.url.clone(),
            registered: state.ledger.settled(),
            held: state.ledger.held(),
            trouble: state.trouble.clone(),
        }
    }

    /// Speaks until told to stop.
    pub(crate) async fn run(
        self: Arc<Self>,
        client: reqwest::Client,
        shelf: Arc<Shelf>,
        identity: Identity,
        stop: CancellationToken,
    ) {
        let speak = async {
            loop {
                let (say, wake) = {
                    let state = self.state();
                    (
                        state.ledger.poll_say(Instant::now()),
                        state.ledger.poll_timeout(),
                    )
                };
                match say {
                    Some(say) => self.tell(&client, &shelf, &identity, &say).await,
                    None => tokio::select! {
                        () = self.news.notified() => {}
                        () = tokio::time::sleep_until(wake.into()) => {}
                    },
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = speak => {}
        }
    }

    async fn tell(&self, client: &reqwest::Client, shelf: &Shelf, identity: &Identity, say: &Say) {
        let (request, told) = compose(shelf, identity, say);
        let answer = self.send(client, identity, request).await;
        let random = rand::random();
        {
            let mut state = self.state();
            let now = Instant::now();
            match answer {
                Ok(reply) => {
                    state.ledger.handle_reply(now, say, &told, &reply, random);
                    if state.trouble.take().is_some() {
                        tracing::info!(tracker = %self.url, "the tracker answers again");
                    }
                }
                Err(error) => {
                    state.ledger.handle_failure(now, random);
                    if state.trouble.replace(error.to_string()).is_none() {
                        tracing::warn!(tracker = %self.url, %error, "cannot register with the tracker; trying on");
                    }
                }
            }
        }
        self.moved.send_replace(());
    }

    /// Sends as many requests as it takes; the last answer counts, the first failure ends it.
    async fn send(
        &self,
        client: &reqwest::Client,
        identity: &Identity,
        request: RegisterRequest,
    ) -> Result<RegisterReply, TellError> {
        let mut last = None;
        for batch in request.into_batches() {
            last = Some(self.send_one(client, identity, &batch).await?);
        }
        Ok(last.expect("there is at least one batch"))
    }

    async fn send_one(
        &self,
        client: &reqwest::Client,
        identity: &Identity,
        request: &RegisterRequest,
    ) -> Result<RegisterReply, TellError> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/register", url.path().trim_end_matches('/')));
        let mut post = client
            .post(url)
            .header(CONTENT_TYPE, "application/x-bencode")
            .body(request.encode());
        if let Some(secret) = &identity.secret {
            post = post.bearer_auth(secret);
        }
        let mut response = post.send().await?;
        if !response.status().is_success() {
            return Err(TellError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await? {
            body.extend_from_slice(&bytes);
            if body.len() > MAX_BODY {
                return Err(TellError::TooLong);
            }
        }
        Ok(RegisterReply::decode(&body)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no panic while the ledger is held")
    }
}

/// The request, and what it came to.
fn compose(shelf: &Shelf, identity: &Identity, say: &Say) -> (RegisterRequest, Told) {
    let seeded = shelf.len() as u64;
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for change in &say.changes {
        let (Change::Add(hash) | Change::Remove(hash)) = *change;
        match shelf.registration(hash) {
            Some(registration) => add.push(registration),
            None => remove.push(hash),
        }
    }
    let mut reached = None;
    if let Some(bulk) = &say.bulk {
        let stretch = shelf.registrations(bulk.after, bulk.limit);
        if stretch.len() == bulk.limit {
            reached = stretch.last().map(|registration| registration.info_hash);
        }
        add.extend(stretch);
    }
    let request = RegisterRequest {
        origin: identity.peer_id,
        peers: vec![identity.peer],
        add,
        remove,
    };
    (request, Told { reached, seeded })
}

/// The client that registers: no proxy, no redirects, bounded in time.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(15))
        .build()
}

/// The innermost cause says most: "connection refused", not "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
