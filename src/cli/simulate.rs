//! The flags of `swell simulate`.

use std::time::Duration;

use clap::Args;

use crate::units::Size;

/// `swell simulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Simulated is the network; what decides who asks whom for what is the code that the agent runs.
A run repeats exactly from its seed.

A thousand hosts pull 1 GB at 1 Gbit/s, one in twenty of them slow:
  swell simulate --hosts 1000 --size 1GB --rate 125MB --slow 5%")]
pub(crate) struct SimulateArgs {
    /// Hosts that pull
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) hosts: u32,
    /// Hosts that have everything from the start
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) origins: u32,
    /// Trackers; each layer is announced to two of them
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) trackers: usize,
    /// Bytes that each host pulls, in all layers together
    #[arg(
        long,
        default_value = "1GB",
        value_name = "SIZE",
        conflicts_with = "layer"
    )]
    pub(crate) size: Size,
    /// Layers of equal size, pulled at the same time
    #[arg(long, default_value_t = 2, value_name = "N", conflicts_with = "layer")]
    pub(crate) layers: u32,
    /// One layer of this size; may be given several times
    #[arg(long, value_name = "SIZE")]
    pub(crate) layer: Vec<Size>,
    /// Bytes a second of each host's link, up and down
    #[arg(long, default_value = "300MB", value_name = "SIZE")]
    pub(crate) rate: Size,
    /// The same of the origins [default: the hosts']
    #[arg(long, value_name = "SIZE")]
    pub(crate) origin_rate: Option<Size>,
    /// The share of hosts with a slow link: 5% or 0.05
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub(crate) slow: Share,
    /// Bytes a second of a slow link [default: a tenth of the rate]
    #[arg(long, value_name = "SIZE")]
    pub(crate) slow_rate: Option<Size>,
    /// The share of hosts that die in mid-pull; half of them come back two seconds later with
    /// what they had, and new hosts come for the others
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub(crate) churn: Share,
    /// Connections that break each second
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) cuts: u32,
    /// Further hosts that claim to have everything and send wrong bytes
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) liars: u32,
    /// Further hosts that claim to have everything and never answer
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) stallers: u32,
    /// All hosts come within so long
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub(crate) spread: Time,
    /// A container runtime reads every layer as it comes
    #[arg(long)]
    pub(crate) readers: bool,
    /// From one host to another, one way
    #[arg(long, default_value = "100us", value_name = "TIME")]
    pub(crate) latency: Time,
    /// Connections of one host for one layer [default: the agent's]
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// Peers a host serves at once for one layer [default: the agent's]
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// Peers in one answer of a tracker
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) numwant: usize,
    /// How often incomplete hosts announce
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub(crate) announce_interval: Time,
    /// The piece length [default: the real one of each layer]
    #[arg(long, value_name = "SIZE")]
    pub(crate) piece_length: Option<Size>,
    /// The size of one request; larger ones make a faster simulation [default: a piece]
    #[arg(long, value_name = "SIZE")]
    pub(crate) block: Option<Size>,
    /// HAVEs that reach a host within so long of each other are handled together
    #[arg(long, default_value = "1ms", value_name = "TIME")]
    pub(crate) coalesce: Time,
    /// Gives up after so much simulated time
    #[arg(long, default_value = "10m", value_name = "TIME")]
    pub(crate) limit: Time,
    /// For every choice that is left to chance
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A part of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

/// A text that is no part of all.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a share; write 5% or 0.05")]
pub(crate) struct InvalidShare(String);

impl std::str::FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidShare(text.into());
        let (number, whole) = match text.trim().strip_suffix('%') {
            Some(number) => (number, 100.0),
            None => (text.trim(), 1.0),
        };
        let share = number.trim().parse::<f64>().map_err(|_| invalid())? / whole;
        (0.0..=1.0)
            .contains(&share)
            .then_some(Self(share))
            .ok_or_else(invalid)
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

/// A text that is no length of time.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a time; write 100us, 5ms, 1.5s or 10m")]
pub(crate) struct InvalidTime(String);

impl std::str::FromStr for Time {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTime(text.into());
        let compact = text.trim();
        let split = compact
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(compact.len());
        let (number, unit) = compact.split_at(split);
        let unit = match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        let seconds = number.parse::<f64>().map_err(|_| invalid())? * unit;
        // A year is longer than anybody simulates, and adds up without overflow.
        if seconds > 31_536_000.0 {
            return Err(invalid());
        }
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times_read_as_people_write_them() {
        assert_eq!("5%".parse::<Share>().unwrap(), Share(0.05));
        assert_eq!("0.5".parse::<Share>().unwrap(), Share(0.5));
        for text in ["", "%", "101%", "-1%", "two"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        for (text, micros) in [("100us", 100), ("1.5ms", 1_500), ("2 s", 2_000_000)] {
            let time = Duration::from_micros(micros);
            assert_eq!(text.parse::<Time>().unwrap(), Time(time), "{text}");
        }
        for text in ["", "s", "1d", "-1s", "99999999h"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
