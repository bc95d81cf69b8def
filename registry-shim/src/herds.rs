//! All origins together: which is asked when, and what their answers amount to.
//!
//! ```text
//!          ask in order, the next when one fails, says no, or is slow
//!   Yes ───────────────► Found          (the first; the others are dropped)
//!   Refused ───────────► Denied         (nobody said yes, somebody said 403)
//!   No everywhere ─────► Absent
//!   Odd, none silent ──► Odd            (somebody answered with what is of no use)
//!   otherwise ─────────► Unreachable    (after as many rounds as patience allows)
//! ```
//!
//! Invariant: nothing is absent that an origin may have which did not answer. What is remembered
//! of it stays.
//!
//! An origin that did not answer last time is asked last and beside the others, so that a
//! dead one costs nothing while another lives, and a revived one is met at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oci::{ErrorCode, RegistryError};
use tokio::time::{Instant, sleep, timeout};

use crate::origin::{Answer, Origin};

/// A healthy origin may think this long before the next is asked beside it.
const STAGGER: Duration = Duration::from_secs(1);
/// What an origin that looks down may take to object, once somebody answered no or where there is
/// another way to what it is asked for.
const LAST_WORD: Duration = Duration::from_millis(300);
/// Pauses between rounds when no origin answered.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// How long origins are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// Who did not answer is asked again for so long, and twice at least; zero is once.
    patience: Duration,
    /// In all; what has not come by then is given up.
    limit: Option<Duration>,
    /// There is another way to what is asked: nobody waits for an origin that looks down.
    otherwise: bool,
}

impl Wait {
    /// Everybody is asked once; an origin bounds the time of its own answer.
    pub(crate) fn once() -> Self {
        Self::patiently(Duration::ZERO)
    }

    /// Round after round for so long.
    pub(crate) fn patiently(patience: Duration) -> Self {
        Self {
            patience,
            limit: None,
            otherwise: false,
        }
    }

    /// No longer than this, whatever happens.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }

    /// Who asks knows another way.
    pub(crate) fn or_otherwise(self) -> Self {
        Self {
            otherwise: true,
            ..self
        }
    }
}

/// What all origins said together.
#[derive(Debug)]
pub(crate) enum Verdict<T> {
    /// One has it.
    Found(T),
    /// It does not exist: every origin says so.
    Absent,
    /// It may not be read.
    Denied(RegistryError),
    /// No origin gave it, every one answered, and not all made sense.
    Odd(RegistryError),
    /// No origin gave it, and not every one answered.
    Unreachable(Tried),
}

/// Whom was asked in vain, and why each failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tried(pub(crate) Vec<String>);

impl Tried {
    /// The answer for people: what was wanted, what was tried, what to do.
    pub(crate) fn unavailable(&self, what: &str) -> RegistryError {
        let message =
            format!("cannot fetch {what}: {self}. Check that the herd runs and can be reached");
        RegistryError::new(ErrorCode::Unavailable, message)
    }

    /// With what else failed.
    pub(crate) fn and(mut self, more: impl IntoIterator<Item = String>) -> Self {
        self.0.extend(more);
        self
    }
}

impl std::fmt::Display for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no herd is configured"),
            some => f.write_str(&some.join("; ")),
        }
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

    /// Asks round after round until the matter is settled or time is over; once, where nobody
    /// failed who was not down already: who waits behind a dead herd has waited before.
    pub(crate) async fn ask<T, F>(
        &self,
        wait: Wait,
        question: impl Fn(Arc<Origin>) -> F,
    ) -> Verdict<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let began = Instant::now();
        let limit = match wait.limit {
            _ if wait.otherwise && self.look_down() => Some(LAST_WORD),
            limit => limit,
        };
        let until = limit.map(|limit| began + limit);
        let hoped: Vec<bool> = self.origins.iter().map(|o| !o.looks_down()).collect();
        let mut rounds = 0;
        loop {
            let round = match self.round(&question, until).await {
                Ok(found) => return Verdict::Found(found),
                Err(round) => round,
            };
            let hopeful = round.unheard().any(|at| hoped[at]);
            let verdict = round.verdict(&self.origins);
            let pause = PAUSES[rounds.min(PAUSES.len() - 1)];
            let next = Instant::now() + pause;
            // Twice in any case: the first time a whole host may have been asleep.
            let time_left = (rounds == 0 || next < began + wait.patience)
                && until.is_none_or(|until| next < until);
            let unsettled = matches!(verdict, Verdict::Unreachable(_));
            if !unsettled || !hopeful || wait.patience.is_zero() || !time_left {
                return verdict;
            }
            sleep(pause).await;
            rounds += 1;
        }
    }

    /// Asks every origin at most once, none beyond `until`. `Err` is what was said instead of yes.
    async fn round<T, F>(
        &self,
        question: &impl Fn(Arc<Origin>) -> F,
        until: Option<Instant>,
    ) -> Result<T, Round>
    where
        F: Future<Output = Answer<T>>,
    {
        let downs = self.origins.iter().map(|origin| origin.looks_down());
        let mut waiting: Vec<_> = downs.enumerate().collect();
        // Taken from the end: the most trusted healthy one first, those that look down last.
        waiting.sort_by_key(|(_, down)| *down);
        waiting.reverse();
        let mut asked = FuturesUnordered::new();
        let mut round = Round::default();
        let mut healthy_asked = 0;
        let mut patient = false;
        loop {
            while let Some((at, down)) = waiting.pop_if(|_| !patient) {
                let answer = question(self.origins[at].clone());
                asked.push(async move { (at, down, answer.await) });
                round.open.push(at);
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
            let left = until.map_or(Duration::MAX, |until| until - Instant::now());
            match timeout(limit.min(left), asked.next()).await {
                Ok(Some((at, down, answer))) => {
                    healthy_asked -= usize::from(!down);
                    patient = false;
                    if let Some(found) = round.note(at, answer) {
                        return Ok(found);
                    }
                }
                Ok(None) => return Err(round),
                Err(_) if settled || left <= limit => {
                    self.give_up_on(&round.open);
                    return Err(round);
                }
                // The slow one is not given up: the next is asked beside it.
                Err(_) => patient = false,
            }
        }
    }

    /// These were not waited for any longer: the next who ask shall not wait again.
    fn give_up_on(&self, open: &[usize]) {
        for &at in open {
            // One that looks down already is given its full time once in a while.
            if !self.origins[at].looks_down() {
                self.origins[at].gave_no_answer();
            }
        }
    }
}

/// What was said so far in one round, by origins in order of trust.
#[derive(Default)]
struct Round {
    /// Those asked that did not answer yet.
    open: Vec<usize>,
    no: Vec<usize>,
    refused: Option<RegistryError>,
    failed: Vec<(usize, String)>,
    odd: Vec<String>,
}

impl Round {
    fn note<T>(&mut self, at: usize, answer: Answer<T>) -> Option<T> {
        self.open.retain(|open| *open != at);
        match answer {
            Answer::Yes(value) => return Some(value),
            Answer::No => self.no.push(at),
            Answer::Refused(error) => self.refused = Some(error),
            Answer::Failed(why) => self.failed.push((at, why)),
            Answer::Odd(what) => self.odd.push(what),
        }
        None
    }

    fn answered(&self) -> bool {
        !self.no.is_empty() || self.refused.is_some() || !self.odd.is_empty()
    }

    /// Those that gave no answer.
    fn unheard(&self) -> impl Iterator<Item = usize> {
        let failed = self.failed.iter().map(|(at, _)| *at);
        failed.chain(self.open.iter().copied())
    }

    fn verdict<T>(self, origins: &[Arc<Origin>]) -> Verdict<T> {
        if self.no.len() == origins.len() && !origins.is_empty() {
            return Verdict::Absent;
        }
        if let Some(error) = self.refused {
            return Verdict::Denied(error);
        }
        if self.unheard().next().is_none() && !self.odd.is_empty() {
            return Verdict::Odd(senseless(&self.odd));
        }
        let name = |at: usize| origins[at].herd().name();
        let failed = self.failed.into_iter().map(|(_, why)| why);
        let open = self.open.into_iter();
        let open = open.map(|at| format!("{}: no answer in time", name(at)));
        let no = self.no.into_iter();
        let no = no.map(|at| format!("{}: it has no such thing", name(at)));
        let all = failed.chain(open).chain(self.odd).chain(no);
        Verdict::Unreachable(Tried(all.collect()))
    }
}

/// The answer for people when a herd is there and says what nobody can use.
fn senseless(odd: &[String]) -> RegistryError {
    let message = format!("no herd gave a usable answer: {}", odd.join("; "));
    RegistryError::new(ErrorCode::Unavailable, message).with_status(StatusCode::BAD_GATEWAY)
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
            .ask(Wait::once(), |origin| {
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
            .ask(Wait::once(), |origin| async move {
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
    async fn what_a_silent_origin_may_have_is_not_absent() {
        let herds = herds(&["a", "b"]);
        let all = herds
            .ask(Wait::once(), |_| async { Answer::<()>::No })
            .await;
        assert!(matches!(all, Verdict::Absent));
        let some = herds
            .ask(
                Wait::patiently(Duration::from_secs(9)),
                |origin| async move {
                    match host(&origin).as_str() {
                        "a" => Answer::<()>::Failed("a:15000: refused".into()),
                        _ => Answer::No,
                    }
                },
            )
            .await;
        let Verdict::Unreachable(Tried(tried)) = some else {
            panic!("{some:?}");
        };
        assert_eq!(tried, ["a:15000: refused", "b:15000: it has no such thing"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_answering_is_asked_again_until_patience_ends() {
        let herds = herds(&["a"]);
        let started = Instant::now();
        let rounds = std::sync::atomic::AtomicU32::new(0);
        let verdict = herds
            .ask(Wait::patiently(Duration::from_secs(5)), |_| {
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

    #[tokio::test(start_paused = true)]
    async fn with_another_way_nobody_waits_long_for_a_herd_that_hangs() {
        let herds = herds(&["a"]);
        let limit = Duration::from_millis(1500);
        let wait = Wait::patiently(limit).within(limit).or_otherwise();
        let ask = async |wait| {
            let started = Instant::now();
            let verdict = herds.ask(wait, |_| std::future::pending::<Answer<()>>());
            assert!(matches!(verdict.await, Verdict::Unreachable(_)));
            started.elapsed()
        };
        assert_eq!(ask(wait).await, limit);
        assert!(herds.look_down());
        assert_eq!(ask(wait).await, LAST_WORD);
        // Only where there is another way.
        let wait = Wait::once().within(Duration::from_secs(4));
        assert_eq!(ask(wait).await, Duration::from_secs(4));
    }

    #[tokio::test]
    async fn without_a_herd_nobody_is_reached() {
        let verdict = herds(&[])
            .ask(Wait::patiently(Duration::from_secs(5)), |_| async {
                Answer::<()>::No
            })
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
