//! What a tracker does beside answering: once a second it forgets what expired, follows the deny
//! list and, when it is time, saves the registrations.
//!
//! Invariant: a tracker whose housekeeping broke down ends. It would go on answering, and never
//! forget anybody; whoever supervises it starts a better one.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use torrents::InfoHash;

use crate::cache::Snapshot;
use crate::config::Config;
use crate::deny::{DenyError, DenyFile};
use crate::server::TrackerError;
use crate::service::Service;

/// How often expired peers and lapsed leases are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Between two saves of the registrations at least.
const PAUSE: Duration = Duration::from_secs(5);

/// And so many times what the last one took: a tracker with millions of them does something else
/// most of the time.
const PAUSE_PER_COST: u32 = 20;

/// All there is to do, and where it stands.
pub(crate) struct Household {
    service: Arc<Service>,
    denying: Denying,
    saving: Option<Saving>,
}

impl Household {
    /// `denying` is in force already.
    pub(crate) fn new(service: Arc<Service>, denying: Denying, directory: Option<PathBuf>) -> Self {
        let saved = service.table.registrations().changes();
        let saving = directory.map(|directory| Saving {
            directory,
            saved,
            due: Instant::now(),
        });
        Self {
            service,
            denying,
            saving,
        }
    }

    /// One tick's worth; at the `last` one everything is saved. Blocks.
    pub(crate) fn keep(&mut self, last: bool) {
        let service = &self.service;
        service.table.tick(service.now(Instant::now()));
        if let Err(error) = self.denying.follow(service) {
            tracing::warn!(%error, "the deny list stays as it was");
        }
        if let Some(saving) = &mut self.saving {
            saving.save(service, last);
        }
    }
}

/// Lets `keep` work on the household every tick until the shutdown, and once more then.
pub(crate) async fn housekeeping_task<H: Send + 'static>(
    mut household: H,
    keep: fn(&mut H, bool),
    shutdown: CancellationToken,
) {
    let _shutdown = shutdown.clone().drop_guard();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let last = tokio::select! {
            _ = ticks.tick() => false,
            () = shutdown.cancelled() => true,
        };
        let work = tokio::task::spawn_blocking(move || {
            keep(&mut household, last);
            household
        });
        household = match work.await {
            Ok(household) => household,
            Err(error) => {
                tracing::error!(%error, "tracker's housekeeping broke down");
                return;
            }
        };
        if last {
            return;
        }
    }
}

/// What is denied: always, and as long as a file says so.
pub(crate) struct Denying {
    always: HashSet<InfoHash>,
    file: Option<DenyFile>,
}

impl Denying {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            always: config.denied.clone(),
            file: config.deny_list.clone().map(DenyFile::new),
        }
    }

    /// The first reading, which must succeed.
    pub(crate) async fn started(mut self, service: &Arc<Service>) -> Result<Self, TrackerError> {
        let service = Arc::clone(service);
        let read = tokio::task::spawn_blocking(move || self.follow(&service).map(|()| self));
        let read = read
            .await
            .map_err(|join| TrackerError::Thread(io::Error::other(join)))?;
        Ok(read?)
    }

    /// Puts the list in force if it changed.
    fn follow(&mut self, service: &Service) -> Result<(), DenyError> {
        let Some(read) = self.file.as_mut().and_then(DenyFile::changed) else {
            return Ok(());
        };
        let mut hashes = read?;
        tracing::info!(torrents = hashes.len(), "deny list read");
        hashes.extend(&self.always);
        service.table.deny(hashes);
        Ok(())
    }
}

/// The cache on disk.
struct Saving {
    directory: PathBuf,
    /// `Registrations::changes` as they were saved last.
    saved: u64,
    /// Not saved again before.
    due: Instant,
}

impl Saving {
    /// Saves the registrations if they changed, when it is time or for the `last` time.
    fn save(&mut self, service: &Service, last: bool) {
        let began = Instant::now();
        if !last && began < self.due {
            return;
        }
        let registrations = service.table.registrations();
        if registrations.changes() == self.saved {
            return;
        }
        let snapshot = Snapshot::of(&registrations);
        drop(registrations);
        match snapshot.save(&self.directory) {
            Ok(()) => self.saved = snapshot.changes(),
            Err(error) => {
                service.metrics.save_failed();
                tracing::warn!(%error, "registrations are not saved");
            }
        }
        self.due = Instant::now() + pause_after(began.elapsed());
    }
}

fn pause_after(cost: Duration) -> Duration {
    PAUSE.max(cost * PAUSE_PER_COST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tracker_whose_housekeeping_breaks_down_ends() {
        let shutdown = CancellationToken::new();
        let keep = |ticks: &mut u32, _: bool| *ticks = ticks.checked_sub(1).expect("two ticks");
        housekeeping_task(1, keep, shutdown.clone()).await;
        assert!(shutdown.is_cancelled());
    }

    #[test]
    fn a_save_that_costs_much_is_rare() {
        assert_eq!(pause_after(Duration::from_millis(10)), PAUSE);
        assert_eq!(pause_after(Duration::from_secs(2)), Duration::from_secs(40));
    }
}
