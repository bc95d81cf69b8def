//! One upload session as a pure state machine: requests and time in, decisions out.
//!
//! ```text
//!            begin ───► Receiving ───┬── taken ──► Idle, offset past the body
//!   Idle ◄──────────────────┬────────┴── lost ───► Idle, offset as before
//!    │                      │
//!    └── expired, cancel ───┴── cancel, closed ──► Gone
//! ```
//!
//! Invariants: one writer at a time; a body counts whole or not at all, so a retry of a cut
//! request on the same URL starts where the first one did and nothing is ever interleaved;
//! `offset` is exactly what the hashes have seen; a session is never expired under its writer.
//! Knows no file, hash or clock.

use std::ops::Range;
use std::time::{Duration, Instant};

/// A session's place in its life.
#[derive(Debug)]
pub(crate) struct Upload {
    offset: u64,
    state: State,
    touched: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Receiving(Expected),
    Gone,
}

/// What a request says about its body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Claim {
    /// `Content-Range`; without one the body is appended.
    pub(crate) range: Option<Range<u64>>,
    /// `Content-Length`; streamed bodies have none.
    pub(crate) length: Option<u64>,
}

/// What the body must turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Where its first byte belongs.
    pub(crate) start: u64,
    /// How long it is, when that is known.
    pub(crate) length: Option<u64>,
}

/// Why a request may not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Somebody else is writing.
    #[error("another request is writing to this upload")]
    Busy,
    /// Its bytes belong elsewhere.
    #[error("the next byte of this upload is {0}")]
    OutOfOrder(u64),
    /// Its two lengths disagree.
    #[error("Content-Range covers {range} bytes, Content-Length says {length}")]
    Contradiction {
        /// By `Content-Range`.
        range: u64,
        /// By `Content-Length`.
        length: u64,
    },
    /// It was closed, cancelled or expired.
    #[error("this upload is over")]
    Gone,
}

impl Upload {
    /// Nothing received.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            offset: 0,
            state: State::Idle,
            touched: now,
        }
    }

    /// Bytes received and hashed, whole bodies only.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// A request wants to write. On success it is the one writer until [`Self::taken`],
    /// [`Self::lost`] or [`Self::cancel`].
    pub(crate) fn begin(&mut self, now: Instant, claim: &Claim) -> Result<Expected, Refusal> {
        match self.state {
            State::Gone => return Err(Refusal::Gone),
            State::Receiving(_) => return Err(Refusal::Busy),
            State::Idle => {}
        }
        let length = match &claim.range {
            None => claim.length,
            Some(range) => {
                if range.start != self.offset {
                    return Err(Refusal::OutOfOrder(self.offset));
                }
                let covers = range.end - range.start;
                if let Some(length) = claim.length.filter(|&length| length != covers) {
                    return Err(Refusal::Contradiction {
                        range: covers,
                        length,
                    });
                }
                Some(covers)
            }
        };
        let expected = Expected {
            start: self.offset,
            length,
        };
        self.state = State::Receiving(expected);
        self.touched = now;
        Ok(expected)
    }

    /// The writer has taken its whole body: the session stands past it. `false` when the
    /// session was cancelled meanwhile.
    pub(crate) fn taken(&mut self, now: Instant, length: u64) -> bool {
        let State::Receiving(expected) = self.state else {
            return false;
        };
        debug_assert!(expected.length.is_none_or(|expected| expected == length));
        self.offset = expected.start + length;
        self.state = State::Idle;
        self.touched = now;
        true
    }

    /// The writer's body was cut or could not be kept: the session stands where it stood.
    /// `false` when the session was cancelled meanwhile.
    pub(crate) fn lost(&mut self, now: Instant) -> bool {
        let State::Receiving(_) = self.state else {
            return false;
        };
        self.state = State::Idle;
        self.touched = now;
        true
    }

    /// Ends the session whatever it is doing: stored, refused for good, or cancelled.
    pub(crate) fn cancel(&mut self) {
        self.state = State::Gone;
    }

    /// Ends the session if it has no byte and nobody touched it for `idle`. `true` when it is
    /// over.
    pub(crate) fn forgotten(&mut self, now: Instant, idle: Duration) -> bool {
        self.offset == 0 && self.expire(now, idle)
    }

    /// Ends the session if nobody touched it for `idle`. `true` when it is over.
    pub(crate) fn expire(&mut self, now: Instant, idle: Duration) -> bool {
        if self.state == State::Idle && now.saturating_duration_since(self.touched) >= idle {
            self.state = State::Gone;
        }
        self.state == State::Gone
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(range: Range<u64>) -> Claim {
        Claim {
            length: Some(range.end - range.start),
            range: Some(range),
        }
    }

    #[test]
    fn chunks_come_in_order_or_not_at_all() {
        let now = Instant::now();
        let mut upload = Upload::new(now);
        assert_eq!(upload.begin(now, &chunk(5..9)), Err(Refusal::OutOfOrder(0)));
        assert_eq!(
            upload.begin(now, &chunk(0..5)),
            Ok(Expected {
                start: 0,
                length: Some(5)
            })
        );
        assert_eq!(upload.begin(now, &Claim::default()), Err(Refusal::Busy));
        assert!(upload.taken(now, 5));
        assert_eq!(upload.begin(now, &chunk(0..5)), Err(Refusal::OutOfOrder(5)));
        let short = Claim {
            range: Some(5..9),
            length: Some(3),
        };
        assert_eq!(
            upload.begin(now, &short),
            Err(Refusal::Contradiction {
                range: 4,
                length: 3
            })
        );
        assert!(upload.begin(now, &chunk(5..9)).is_ok());
        assert!(upload.lost(now));
        assert_eq!(upload.offset(), 5);
        assert!(upload.begin(now, &Claim::default()).is_ok());
        upload.cancel();
        assert!(!upload.taken(now, 1));
        assert_eq!(upload.begin(now, &Claim::default()), Err(Refusal::Gone));
    }

    #[test]
    fn a_session_never_expires_under_its_writer() {
        let start = Instant::now();
        let idle = Duration::from_secs(60);
        let mut upload = Upload::new(start);
        upload.begin(start, &Claim::default()).unwrap();
        let later = start + 10 * idle;
        assert!(!upload.expire(later, idle));
        assert!(upload.lost(later));
        assert!(!upload.expire(later + idle / 2, idle));
        assert!(upload.expire(later + idle, idle));
    }

    #[test]
    fn only_an_empty_session_is_forgotten() {
        let start = Instant::now();
        let idle = Duration::from_secs(60);
        let mut upload = Upload::new(start);
        assert!(!upload.forgotten(start + idle / 2, idle));
        upload.begin(start, &Claim::default()).unwrap();
        assert!(!upload.forgotten(start + idle, idle));
        assert!(upload.taken(start, 1));
        assert!(!upload.forgotten(start + idle, idle));
        assert!(Upload::new(start).forgotten(start + idle, idle));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Begin(Claim),
        Taken(u64),
        Lost,
        Cancel,
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = proptest::option::of((0..40u64, 1..20u64).prop_map(|(a, n)| a..a + n));
        prop_oneof![
            4 => (range, proptest::option::of(0..20u64))
                .prop_map(|(range, length)| Op::Begin(Claim { range, length })),
            4 => (0..20u64).prop_map(Op::Taken),
            2 => Just(Op::Lost),
            1 => Just(Op::Cancel),
            2 => (0..100u64).prop_map(Op::Wait),
        ]
    }

    proptest! {
        /// Against a model that keeps the bytes themselves: what the session says it holds is
        /// the whole bodies in order, with no gap, overlap or half.
        #[test]
        fn it_holds_whole_bodies_in_order(ops in proptest::collection::vec(op(), 0..60)) {
            let idle = Duration::from_secs(50);
            let mut now = Instant::now();
            let mut upload = Upload::new(now);
            let mut bodies: Vec<u64> = Vec::new();
            let mut writer: Option<Expected> = None;
            let mut gone = false;
            let mut touched = now;
            for op in ops {
                match op {
                    Op::Begin(claim) => {
                        let held: u64 = bodies.iter().sum();
                        match upload.begin(now, &claim) {
                            Ok(expected) => {
                                prop_assert!(!gone && writer.is_none());
                                prop_assert_eq!(expected.start, held);
                                if let Some(range) = claim.range {
                                    prop_assert_eq!(range.start, held);
                                }
                                writer = Some(expected);
                                touched = now;
                            }
                            Err(Refusal::Gone) => prop_assert!(gone),
                            Err(Refusal::Busy) => prop_assert!(writer.is_some()),
                            Err(Refusal::OutOfOrder(at)) => {
                                prop_assert_eq!(at, held);
                                prop_assert_ne!(claim.range.map(|r| r.start), Some(held));
                            }
                            Err(Refusal::Contradiction { range, length }) => {
                                prop_assert_ne!(range, length);
                            }
                        }
                    }
                    Op::Taken(n) => {
                        let n = writer.and_then(|w| w.length).unwrap_or(n);
                        let took = upload.taken(now, n);
                        prop_assert_eq!(took, writer.is_some() && !gone);
                        if took {
                            bodies.push(n);
                            touched = now;
                        }
                        writer = None;
                    }
                    Op::Lost => {
                        let lost = upload.lost(now);
                        prop_assert_eq!(lost, writer.take().is_some() && !gone);
                        if lost {
                            touched = now;
                        }
                    }
                    Op::Cancel => {
                        upload.cancel();
                        gone = true;
                        writer = None;
                    }
                    Op::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        let due = writer.is_none() && now - touched >= idle;
                        gone |= due;
                        prop_assert_eq!(upload.expire(now, idle), gone);
                    }
                }
                prop_assert_eq!(upload.offset(), bodies.iter().sum::<u64>());
            }
        }
    }
}
