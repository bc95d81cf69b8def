//! The announce path for the fuzzer, without a socket: any bytes in, answers out.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Config, Limits, Mode};
use crate::http::lane::{self, Buffers, Next};
use crate::service::Service;

/// An open tracker with little room and one client, who is a stranger.
#[derive(Debug)]
pub struct Lane {
    service: Service,
    buffers: Buffers,
}

impl Default for Lane {
    fn default() -> Self {
        let limits = Limits {
            swarms: 64,
            peers: 256,
            ..Limits::default()
        };
        let config = Config {
            mode: Mode::Open,
            limits,
            ..Config::default()
        };
        Self {
            service: Service::unstarted(&config),
            buffers: Buffers::default(),
        }
    }
}

impl Lane {
    /// Serves what a connection brought; how much was used, and the answers. `None` when it
    /// wants the general server.
    pub fn serve(&mut self, input: &[u8]) -> Option<(usize, &[u8])> {
        let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        self.buffers.output.clear();
        let (used, next) = lane::serve(&self.service, client, input, &mut self.buffers);
        (next != Next::HandOver).then_some((used, &self.buffers.output[..]))
    }

    /// Swarms and peers held; never more than 64 and 256.
    pub fn held(&self) -> (usize, usize) {
        let totals = self.service.table.totals();
        (totals.swarms, totals.peers)
    }
}
