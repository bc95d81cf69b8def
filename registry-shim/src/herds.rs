//! All origins together: which is asked when, and what their answers amount to.
//!
//! ```text
//!          ask in order, the next when one fails, says no, or is slow
//!   Yes ───────────────► Found          (the first; the others are dropped)
//!   Refused ───────────► Denied         (nobody said yes, somebody said 403)
//!   No ────────────────► Absent         (nobody said yes or 403, somebody said 404)
//!   Failed everywhere ─► Unreachable    (after as many rounds as patience allows)
//! ```
//!
//! An origin that did not answer last time is asked last and beside the others, so that a
//! dead one costs nothing while another lives, and a revived one is met at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oci::{ErrorCode, RegistryError};
use tokio::time::{Instant, sleep, timeout};

use crate::origin::{Answer, Origin};

/// A healthy origin may think this long before the next is asked beside it.
const STAGGER: Duration = Duration::from_secs(1);
/// Once somebody answered no, an origin that looked down may take this long to object.
const LAST_WORD: Duration = Duration::from_millis(300);
/// Pauses between rounds when no origin answered.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// What all origins said together.
#[derive(Debug)]
pub(crate) enum Verdict<T> {
    /// One has it.
    Found(T),
    /// It does not exist: every origin that answered says so.
    Absent {
        /// And every origin answered.
        everywhere: bool,
    },
    /// It may not be read.
    Denied(RegistryError),
    /// No origin answered.
    Unreachable(Tried),
}

/// Whom was asked in vain, and why each failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tried(pub(crate) Vec<String>);

impl Tried {
    /// The answer for people: what was wanted, what was tried, what to do.
    pub(crate) fn unavailable(&self, what: &str) -> RegistryError {
        let tried = match self.0.as_slice() {
            [] => "no herd is configured".to_owned(),
            some => some.join("; "),
        };
        let message =
            format!("cannot fetch {what}: {tried}. Check that the herd runs and can be reached");
        RegistryError::new(ErrorCode::Unavailable, message)
    }

    /// With what else failed.
    pub(crate) fn and(mut self, more: impl IntoIterator<Item = String>) -> Self {
        self.0.extend(more);
        self
    }
}

/// The configured origins, most trusted first.
#[derive(Debug, Clone)]
pub(crate) struct Herds {
    origins: Arc<[Arc<Origin>]>,
}

impl Herds {
    pub(crate) fn new(origins: impl IntoIterator<Item = Origin>) -> Self {
        Self {
            origins: origins.into_iter().map(Arc::new).collect(),
        }
    }

    /// All of them, in order of trust.
    pub(crate) fn origins(&self) -> &[Arc<Origin>] {
        &self.origins
    }

    /// The one that is asked first now.
    pub(crate) fn first(&self) -> Option<Arc<Origin>> {
        let mut healthy = self.origins.iter().filter(|origin| !origin.looks_down());
        healthy.next().cloned()
    }

    /// Where the origins' own peers listen, as far as they said.
    pub(crate) fn peers(&self) -> Vec<std::net::SocketAddr> {
        self.origins
            .iter()
            .flat_map(|origin| origin.peers())
            .collect()
    }

    /// Whether none answered when it was asked last, lately.
    pub(crate) fn look_down(&self) -> bool {
        self.origins.iter().all(|origin| origin.looks_down())
    }

    /// Asks round after round until somebody answers or `patience` is over, at least twice;
    /// once, when it is zero or every origin was down already: who waits behind a dead herd
    /// has waited before.
    pub(crate) async fn ask<T, F>(
        &self,
        patience: Duration,
        question: impl Fn(Arc<Origin>) -> F,
    ) -> Verdict<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let deadline = Instant::now() + patience;
        let hopeless = self.look_down();
        let mut rounds = 0;
        loop {
            let verdict = self.round(&question).await;
            let pause = PAUSES[rounds.min(PAUSES.len() - 1)];
            // Twice in any case: the first time a whole host may have been asleep.
            let time_left = rounds == 0 || Instant::now() + pause < deadline;
            let unheard = matches!(verdict, Verdict::Unreachable(_));
            if !unheard || hopeless || patience.is_zero() || !time_left {
                return verdict;
            }
            sleep(pause).await;
            rounds += 1;
        }
    }

    /// Asks every origin at most once.
    async fn round<T, F>(&self, question: &impl Fn(Arc<Origin>) -> F) -> Verdict<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let mut waiting: Vec<_> = self.origins.iter().map(|o| (o.looks_down(), o)).collect();
        // Taken from the end: the most trusted healthy one first, those that look down last.
        waiting.sort_by_key(|(down, _)| *down);
        waiting.reverse();
        let mut asked = FuturesUnordered::new();
        let mut round = Round::default();
        let mut healthy_asked = 0;
        let mut patient = false;
        loop {
            while let Some((down, origin)) = waiting.pop_if(|_| !patient) {
                let answer = question(origin.clone());
                asked.push(async move { (down, answer.await) });
                healthy_asked += usize::from(!down);
                patient = !down;
            }
            let settled = round.answered() && healthy_asked == 0 && waiting.is_empty();
            let limit = match (settled, waiting.is_empty()) {
                (true, _) => LAST_WORD,
                (false, false) => STAGGER,
                // Every question is bounded in time by itself.
                (false, true) => Duration::MAX,
            };
            match timeout(limit, asked.next()).await {
                Ok(Some((down, answer))) => {
                    healthy_asked -= usize::from(!down);
                    patient = false;
                    if let Some(found) = round.note(answer) {
                        return Verdict::Found(found);
                    }
                }
                Ok(None) => return round.verdict(),
                Err(_) if settled => {
                    round.silent = true;
                    return round.verdict();
                }
                // The slow one is not given up: the next is asked beside it.
                Err(_) => patient = false,
            }
        }
    }
}

/// What was said so far in one round.
#[derive(Default)]
struct Round {
    no: bool,
    refused: Option<RegistryError>,
    failed: Vec<String>,
    silent: bool,
}

impl Round {
    fn note<T>(&mut self, answer: Answer<T>) -> Option<T> {
        match answer {
            Answer::Yes(value) => return Some(value),
            Answer::No => self.no = true,
            Answer::Refused(error) => self.refused = Some(error),
            Answer::Failed(why) => self.failed.push(why),
        }
        None
    }

    fn answered(&self) -> bool {
        self.no || self.refused.is_some()
    }

    fn verdict<T>(self) -> Verdict<T> {
        if let Some(error) = self.refused {
            Verdict::Denied(error)
        } else if self.no {
            let everywhere = self.failed.is_empty() && !self.silent;
            Verdict::Absent { everywhere }
        } else {
            Verdict::Unreachable(Tried(self.failed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn herds(names: &[&str]) -> Herds {
        let client = reqwest::Client::new();
        Herds::new(names.iter().map(|name| {
            let herd = name.parse().unwrap();
            Origin::new(herd, client.clone(), Duration::from_secs(4))
        }))
    }

    fn host(origin: &Origin) -> String {
        origin.herd().registry.host_str().unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_yes_wins_and_a_no_passes_on() {
        let herds = herds(&["a", "b", "c"]);
        let asked = std::sync::Mutex::new(Vec::new());
        let verdict = herds
            .ask(Duration::ZERO, |origin| {
                asked.lock().unwrap().push(host(&origin));
                async move {
                    match host(&origin).as_str() {
                        "a" => Answer::No,
                        other => Answer::Yes(other.to_owned()),
                    }
                }
            })
            .await;
        assert!(matches!(verdict, Verdict::Found(name) if name == "b"));
        assert_eq!(*asked.lock().unwrap(), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_origin_is_overtaken() {
        let herds = herds(&["slow", "quick"]);
        let started = Instant::now();
        let verdict = herds
            .ask(Duration::ZERO, |origin| async move {
                if host(&origin) == "slow" {
                    sleep(Duration::from_secs(60)).await;
                }
                Answer::Yes(host(&origin))
            })
            .await;
        assert!(matches!(verdict, Verdict::Found(name) if name == "quick"));
        assert_eq!(started.elapsed(), STAGGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_no_of_all_that_answer_is_absent_and_says_whether_all_did() {
        let herds = herds(&["a", "b"]);
        let all = herds
            .ask(Duration::ZERO, |_| async { Answer::<()>::No })
            .await;
        assert!(matches!(all, Verdict::Absent { everywhere: true }));
        let some = herds
            .ask(Duration::from_secs(9), |origin| async move {
                match host(&origin).as_str() {
                    "a" => Answer::<()>::Failed("refused".into()),
                    _ => Answer::No,
                }
            })
            .await;
        assert!(matches!(some, Verdict::Absent { everywhere: false }));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_answering_is_asked_again_until_patience_ends() {
        let herds = herds(&["a"]);
        let started = Instant::now();
        let rounds = std::sync::atomic::AtomicU32::new(0);
        let verdict = herds
            .ask(Duration::from_secs(5), |_| {
                rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                async { Answer::<()>::Failed("a: refused".into()) }
            })
            .await;
        let Verdict::Unreachable(tried) = verdict else {
            panic!("{verdict:?}");
        };
        let text = tried.unavailable("team/app:v1").message;
        assert!(
            text.contains("team/app:v1") && text.contains("a: refused"),
            "{text}"
        );
        assert!(started.elapsed() <= Duration::from_secs(5));
        assert!(rounds.into_inner() >= 4);
    }

    #[tokio::test]
    async fn without_a_herd_nobody_is_reached() {
        let verdict = herds(&[])
            .ask(Duration::from_secs(5), |_| async { Answer::<()>::No })
            .await;
        let Verdict::Unreachable(tried) = verdict else {
            panic!("{verdict:?}");
        };
        assert!(
            tried
                .unavailable("x")
                .message
                .contains("no herd is configured")
        );
    }
}
