//! A tracker that answers as a test tells it to and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use tokio_util::task::AbortOnDropHandle;
use torrents::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, ReplyPeer};

type Answer = Box<dyn Fn(&AnnounceRequest) -> Response + Send + Sync>;

struct Inner {
    asked: Mutex<Vec<AnnounceRequest>>,
    answer: Mutex<Answer>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// Stops with its last handle.
pub(crate) struct Tracker {
    inner: Arc<Inner>,
    pub(crate) url: String,
    _server: AbortOnDropHandle<()>,
}

impl Tracker {
    pub(crate) async fn start(
        answer: impl Fn(&AnnounceRequest) -> Response + Send + Sync + 'static,
    ) -> Self {
        let inner = Arc::new(Inner {
            asked: Mutex::default(),
            answer: Mutex::new(Box::new(answer)),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/announce", listener.local_addr().unwrap());
        let app = Router::new().fallback(serve).with_state(inner.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            inner,
            url,
            _server: AbortOnDropHandle::new(server),
        }
    }

    pub(crate) fn answer_with(
        &self,
        answer: impl Fn(&AnnounceRequest) -> Response + Send + Sync + 'static,
    ) {
        *self.inner.answer.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn asked(&self) -> Vec<AnnounceRequest> {
        self.inner.asked.lock().unwrap().clone()
    }

    pub(crate) fn events(&self) -> Vec<AnnounceEvent> {
        self.asked().iter().map(|request| request.event).collect()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.inner.most_at_once.load(Ordering::SeqCst)
    }

    /// Waits until that many announces came.
    pub(crate) async fn heard(&self, count: usize) {
        eventually(|| self.asked().len() >= count).await;
    }
}

async fn serve(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let now = inner.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    inner.most_at_once.fetch_max(now, Ordering::SeqCst);
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let announce = AnnounceRequest::from_query(query).unwrap();
    inner.asked.lock().unwrap().push(announce.clone());
    // Others get their turn, so that what may happen at once does.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let response = (inner.answer.lock().unwrap())(&announce);
    inner.at_once.fetch_sub(1, Ordering::SeqCst);
    response
}

pub(crate) fn raw(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(crate) fn ok(reply: &AnnounceReply) -> Response {
    let mut body = Vec::new();
    reply.encode(true, true, &mut body);
    raw(200, body)
}

pub(crate) fn refusal(reason: &str) -> Response {
    let mut body = Vec::new();
    torrents::announce::encode_failure(reason, None, &mut body);
    raw(200, body)
}

pub(crate) fn reply(peers: &[&str]) -> AnnounceReply {
    let peers = peers.iter().map(|addr| ReplyPeer {
        addr: addr.parse().unwrap(),
        id: None,
    });
    AnnounceReply {
        interval: 900,
        min_interval: Some(1),
        tracker_id: Some("boot-1".into()),
        peers: peers.collect(),
        ..AnnounceReply::default()
    }
}

/// Waits for something that must come true; a minute is for the slowest of machines.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .expect("it never came true");
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
