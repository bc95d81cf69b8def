//! Counts of what went out, for whoever publishes metrics: responses by kind of route and
//! status, body bytes, and how bodies ended.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

/// Counters of one port. Every number only grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Few keys (kinds are literals in the code, statuses the ones we answer), touched once
    /// per response.
    responses: Mutex<BTreeMap<(&'static str, u16), u64>>,
    body_bytes: AtomicU64,
    bodies_cut: AtomicU64,
    bodies_abandoned: AtomicU64,
}

impl Counters {
    /// Counts this response now, and its body as it is sent. `kind` is
    /// [`Route::kind`](crate::route::Route::kind), or a literal of the caller's for what is
    /// no route.
    pub fn counted(self: &Arc<Self>, kind: &'static str, response: Response) -> Response {
        let key = (kind, response.status().as_u16());
        *self.lock().entry(key).or_default() += 1;
        if response.body().is_end_stream() {
            return response;
        }
        response.map(|body| {
            Body::new(CountedBody {
                body,
                counters: self.clone(),
                ended: false,
            })
        })
    }

    /// Responses so far, by kind and status.
    pub fn responses(&self) -> Vec<(&'static str, u16, u64)> {
        let responses = self.lock();
        let flat = responses
            .iter()
            .map(|(&(kind, status), &count)| (kind, status, count));
        flat.collect()
    }

    /// Body bytes handed to connections.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// Bodies that ended with an error of ours: the connection was cut.
    pub fn bodies_cut(&self) -> u64 {
        self.bodies_cut.load(Ordering::Relaxed)
    }

    /// Bodies whose client left, or stalled, before the end.
    pub fn bodies_abandoned(&self) -> u64 {
        self.bodies_abandoned.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, u16), u64>> {
        self.responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct CountedBody {
    body: Body,
    counters: Arc<Counters>,
    ended: bool,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.counters.body_bytes.fetch_add(bytes, Ordering::Relaxed);
                this.ended = this.body.is_end_stream();
            }
            Some(Err(_)) => {
                this.counters.bodies_cut.fetch_add(1, Ordering::Relaxed);
                this.ended = true;
            }
            None => this.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        if !self.ended {
            self.counters
                .bodies_abandoned
                .fetch_add(1, Ordering::Relaxed);
        }
    }
}
