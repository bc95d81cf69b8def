//! One client's connection on the announce path.
//!
//! A connection at rest owns no buffer: bytes are read into the thread's, and only a request
//! that came in part, or a reply that could not be sent whole, gets memory of its own, both
//! bounded. A request has one deadline from its first byte on, however slowly it drips; the
//! first one, from the accept on.
//!
//! ```text
//!   at rest ──bytes──▶ serve ──all sent, keep-alive──▶ at rest
//!      │                 ├─part of a request──▶ wait for the rest (one deadline)
//!      │                 ├─other than announce or scrape──▶ general server
//!      │                 └─garbage──▶ refused ─the rest of it dropped──┐
//!      └─idle too long, or close asked for───────────────────────────▶ closed
//! ```

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::handover;
use super::lane::{self, Buffers, MAX_HEAD, Next};
use super::routes::Routes;
use crate::service::Service;

/// More than this is given back after a burst of pipelining.
const KEEP_OUTPUT: usize = 256 * 1024;

/// What is read, and for how long, of a client that was refused. Closed with bytes unread, a
/// socket resets the connection, and the answer is lost on its way.
const LINGER_BYTES: u64 = 64 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// What every connection is served with.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) service: Arc<Service>,
    pub(crate) routes: Routes,
    pub(crate) shutdown: CancellationToken,
}

/// One thread's buffers, lent for the length of a synchronous step.
struct Scratch {
    input: Box<[u8]>,
    buffers: Buffers,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; MAX_HEAD].into_boxed_slice(),
        buffers: Buffers::default(),
    });
}

/// What one step over a connection left to do.
pub(crate) struct Step {
    /// Read but not yet used: part of a request, or what the general server is to read.
    pub(crate) unread: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    /// A whole request was served.
    served: bool,
    next: Next,
}

impl Step {
    /// Nothing read yet.
    pub(crate) fn fresh() -> Self {
        Self {
            unread: Vec::new(),
            unsent: Vec::new(),
            served: false,
            next: Next::Read,
        }
    }

    fn closing() -> Self {
        Self {
            next: Next::Close,
            ..Self::fresh()
        }
    }

    /// Whether the connection is done with.
    pub(crate) fn is_over(&self) -> bool {
        self.next == Next::Close && self.unsent.is_empty()
    }
}

/// Serves a connection to its end, from the step that was made when it was accepted.
pub(crate) async fn connection_task(
    serving: Serving,
    mut stream: TcpStream,
    peer: IpAddr,
    mut step: Step,
) {
    let limits = &serving.service.limits;
    let mut deadline = Instant::now() + limits.request_time;
    loop {
        if step.served {
            // At rest it may stay; with part of another request the clock starts again.
            let rests = step.unread.is_empty();
            let patience = if rests {
                limits.idle_time
            } else {
                limits.request_time
            };
            deadline = Instant::now() + patience;
        }
        if !step.unsent.is_empty() {
            match timeout(limits.request_time, stream.write_all(&step.unsent)).await {
                Ok(Ok(())) => step.unsent = Vec::new(),
                _ => return,
            }
        }
        // A client that pipelines without end must not keep the thread from the others.
        tokio::task::consume_budget().await;
        match step.next {
            Next::Close => return,
            Next::Refuse => return linger(stream).await,
            Next::HandOver => {
                return handover::serve(&serving, stream, peer, step.unread).await;
            }
            Next::Again => step = serve(&serving.service, &stream, peer, step.unread),
            Next::Read => {
                let resting = step.unread.is_empty();
                if !readable(&serving, &stream, resting, deadline).await {
                    return;
                }
                step = advance(&serving.service, &stream, peer, step.unread);
                if resting && !step.unread.is_empty() {
                    deadline = Instant::now() + limits.request_time;
                }
            }
        }
    }
}

/// Ends the answer, and closes once the client has read it or had its time.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let (mut rest, mut nowhere) = (stream.take(LINGER_BYTES), tokio::io::sink());
    let drained = tokio::io::copy(&mut rest, &mut nowhere);
    // However it ends: the connection is over.
    let _ = timeout(LINGER_TIME, drained).await;
}

/// Waits for bytes until the deadline; at rest the shutdown ends the wait too.
async fn readable(serving: &Serving, stream: &TcpStream, resting: bool, deadline: Instant) -> bool {
    let ready = timeout_at(deadline, stream.readable());
    if !resting {
        return matches!(ready.await, Ok(Ok(())));
    }
    tokio::select! {
        ready = ready => matches!(ready, Ok(Ok(()))),
        () = serving.shutdown.cancelled() => false,
    }
}

/// A socket as a step uses it, without waiting.
pub(crate) trait Socket {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// `last` when the socket is closed right after: what is sent then leaves in one packet with
    /// the end of the stream, which halves the packets of an answer.
    fn try_write(&self, bytes: &[u8], last: bool) -> io::Result<usize>;
}

impl Socket for TcpStream {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // A read that leaves room has emptied the socket; said to the reactor at once, it saves
        // the read that would find out.
        let mut read = 0;
        let room = buffer.len();
        match self.try_io(Interest::READABLE, || {
            read = rustix::net::recv(self, &mut *buffer, RecvFlags::empty())?.0;
            if read > 0 && read < room {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(read)
            }
        }) {
            Err(_) if read > 0 => Ok(read),
            outcome => outcome,
        }
    }
    fn try_write(&self, bytes: &[u8], last: bool) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, || send(self, bytes, last))
    }
}

/// Sends without waiting.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], last: bool) -> io::Result<usize> {
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, last);
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Reads once, serves what is there, writes once.
pub(crate) fn advance(
    service: &Service,
    socket: &impl Socket,
    peer: IpAddr,
    unread: Vec<u8>,
) -> Step {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { input, buffers } = scratch;
        let already = unread.len().min(input.len());
        input[..already].copy_from_slice(&unread[..already]);
        match socket.try_read(&mut input[already..]) {
            Ok(0) => Step::closing(),
            Ok(n) => answer(service, socket, peer, &input[..already + n], buffers),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step {
                unread,
                ..Step::fresh()
            },
            Err(_) => Step::closing(),
        }
    })
}

/// Serves what was read before, and writes once.
fn serve(service: &Service, socket: &impl Socket, peer: IpAddr, unread: Vec<u8>) -> Step {
    SCRATCH.with_borrow_mut(|scratch| answer(service, socket, peer, &unread, &mut scratch.buffers))
}

fn answer(
    service: &Service,
    socket: &impl Socket,
    peer: IpAddr,
    input: &[u8],
    buffers: &mut Buffers,
) -> Step {
    buffers.output.clear();
    let (used, next) = lane::serve(service, peer, input, buffers);
    let output = &buffers.output;
    let last = next == Next::Close && used == input.len();
    let sent = match socket.try_write(output, last) {
        _ if output.is_empty() => 0,
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(_) => return Step::closing(),
    };
    let step = Step {
        unread: input[used..].to_vec(),
        unsent: output[sent..].to_vec(),
        served: used > 0,
        next,
    };
    if buffers.output.capacity() > KEEP_OUTPUT {
        buffers.output = Vec::new();
    }
    step
}
