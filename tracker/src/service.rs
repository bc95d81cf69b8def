//! What every connection shares: the tables, the numbers, the clock.

use std::time::Instant;

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::table::Table;

/// One tracker, without its sockets.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) table: Table,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    /// What registrations must carry, when set.
    pub(crate) secret: Option<String>,
    /// Without a secret, networks that are not trusted may register too.
    pub(crate) anyone_registers: bool,
    pub(crate) started: Instant,
}

impl Service {
    /// Of a tracker that is never started: always with the same random choices.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn unstarted(config: &crate::config::Config) -> Self {
        Self {
            table: Table::new(config, "0123456789abcdef".to_owned(), 1),
            metrics: Metrics::default(),
            limits: config.limits.clone(),
            secret: None,
            anyone_registers: false,
            started: Instant::now(),
        }
    }

    /// The tables' time at a clock reading.
    pub(crate) fn now(&self, clock: Instant) -> Moment {
        Moment::after_start(clock.saturating_duration_since(self.started))
    }
}
