//! `swell simulate`: a flash crowd on the real swarm machine, without a network.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use torrents::hashing::piece_len_for;
use torrents::sim::{Crowd, Report};

use crate::cli::SimulateArgs;
use crate::report::{Failure, line};
use crate::signals;
use crate::units::Size;

/// What a runtime that reads a layer wants ahead, as in the agent.
const AHEAD: u64 = 16 << 20;
/// The lines of the chart.
const CHART: usize = 16;
const CHART_WIDTH: usize = 50;

/// What glibc is to do with the heap, and where it looks that up when a process begins.
const TUNABLES: &str = "GLIBC_TUNABLES";
const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1";

/// Runs the command.
pub(crate) async fn run(args: SimulateArgs) -> Result<ExitCode, Failure> {
    let json = args.json;
    let plan = Plan::new(args)?;
    begin_on_huge_pages();
    let stop = signals::stop_token();
    let began = Instant::now();
    let simulated = {
        let (plan, stop) = (plan.clone(), stop.clone());
        tokio::task::spawn_blocking(move || simulate(&plan, &stop))
    };
    let report = simulated
        .await
        .map_err(|error| Failure::from_error(&error))??;
    if stop.is_cancelled() {
        return Err(Failure::interrupted());
    }
    let told = Told::new(&plan, &report, began.elapsed());
    if json {
        let text = serde_json::to_string(&told).map_err(|error| Failure::from_error(&error))?;
        line(text);
    } else {
        told.print(&plan, &report);
    }
    if report.unfinished > 0 {
        return Err(Failure::new(format!(
            "{} hosts had not finished after {} simulated",
            report.unfinished,
            seconds(report.now)
        ))
        .hint("--limit gives them longer"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Begins the process anew, with its heap on huge pages, unless somebody chose how the heap is to
/// be. The machines of thousands of hosts lie all over it, and on small pages every look at one
/// waits for the page table as well: a crowd of 2,600 takes a quarter more.
fn begin_on_huge_pages() {
    if std::env::var_os(TUNABLES).is_some() {
        return;
    }
    let mut args = std::env::args_os();
    let (Some(name), Ok(program)) = (args.next(), std::env::current_exe()) else {
        return;
    };
    let error = Command::new(program)
        .arg0(name)
        .args(args)
        .env(TUNABLES, HUGE_PAGES)
        .exec();
    tracing::debug!(%error, "the heap stays on small pages");
}

/// What is simulated.
#[derive(Debug, Clone)]
struct Plan {
    crowd: Crowd,
    piece_lens: Vec<u64>,
}

impl Plan {
    fn new(args: SimulateArgs) -> Result<Self, Failure> {
        let layers = sizes(&args)?;
        let piece_len = args.piece_length.map(|Size(bytes)| bytes);
        let piece_lens: Vec<u64> = layers
            .iter()
            .map(|&layer| piece_len.unwrap_or(piece_len_for(layer).into()))
            .collect();
        let mut crowd = Crowd::default();
        let whole = piece_lens.iter().copied().max().unwrap_or(0);
        crowd.settings.block_len = block(args.block.map_or(whole, |Size(bytes)| bytes))?;
        crowd.hosts = args.hosts;
        crowd.origins = args.origins;
        crowd.layers = layers;
        crowd.piece_len = piece_len;
        crowd.rate = rate(args.rate)?;
        crowd.origin_rate = args.origin_rate.map(rate).transpose()?;
        crowd.slow = args.slow.0;
        crowd.slow_rate = args.slow_rate.map_or(Ok(crowd.rate / 10), rate)?;
        crowd.churn = args.churn.0;
        crowd.cuts = args.cuts;
        crowd.liars = args.liars;
        crowd.stallers = args.stallers;
        crowd.spread = args.spread.0;
        crowd.reader = args.readers.then_some(AHEAD);
        crowd.seed = args.seed;
        crowd.limit = args.limit.0;
        crowd.network.latency = args.latency.0;
        crowd.network.coalesce = args.coalesce.0;
        crowd.network.trackers = args.trackers;
        crowd.network.numwant = args.numwant;
        crowd.network.announce_interval = args.announce_interval.0;
        if crowd.network.announce_interval < Duration::from_secs(1) {
            return Err(Failure::usage("--announce-interval must be at least 1s"));
        }
        if crowd.cuts > 0 && crowd.limit > Duration::from_secs(3600) {
            return Err(Failure::usage("--cuts needs a --limit of at most 1h"));
        }
        if let Some(connections) = args.connections {
            crowd.settings.max_peers = connections.max(1);
        }
        if let Some(slots) = args.slots {
            crowd.settings.upload_slots = slots.max(1);
        }
        Ok(Self { crowd, piece_lens })
    }
}

fn sizes(args: &SimulateArgs) -> Result<Vec<u64>, Failure> {
    if !args.layer.is_empty() {
        return Ok(args.layer.iter().map(|size| size.0).collect());
    }
    if args.layers == 0 || args.size.0 < u64::from(args.layers) {
        return Err(Failure::usage(
            "there must be at least one layer, and a byte in each",
        ));
    }
    let each = args.size.0 / u64::from(args.layers);
    Ok(vec![each; args.layers as usize])
}

fn rate(Size(bytes): Size) -> Result<u64, Failure> {
    // Slower, and one block takes longer than anybody waits.
    if bytes < 1_000 {
        return Err(Failure::usage("a link carries at least 1kB a second"));
    }
    Ok(bytes)
}

fn block(bytes: u64) -> Result<u32, Failure> {
    u32::try_from(bytes)
        .ok()
        .filter(|&bytes| bytes >= 16 * 1024 && bytes.is_power_of_two())
        .ok_or_else(|| Failure::usage("--block must be a power of two from 16KiB on"))
}

fn simulate(plan: &Plan, stop: &CancellationToken) -> Result<Report, Failure> {
    let bar = bar();
    let report = plan.crowd.run(|progress| {
        bar.set_length(progress.of);
        bar.set_position(progress.pieces);
        bar.set_message(seconds(progress.now));
        !stop.is_cancelled()
    });
    bar.finish_and_clear();
    report.map_err(|error| Failure::usage(error.to_string()))
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "simulating {bar:30} {percent}% of all pieces, {msg} simulated, {elapsed} spent",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(1).with_style(style)
}

/// The result as it is printed.
#[derive(Debug, Serialize)]
struct Told {
    hosts: u32,
    origins: u32,
    layers: Vec<u64>,
    piece_lengths: Vec<u64>,
    block: u32,
    rate: u64,
    seed: u64,
    finished: usize,
    unfinished: usize,
    died: usize,
    /// What one host alone would need: all bytes over its link.
    ideal_seconds: f64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    p999_seconds: Option<f64>,
    max_seconds: Option<f64>,
    origin_bytes: u64,
    origin_copies: f64,
    /// Bytes received for one byte of content.
    overhead: f64,
    corrupt_pieces: u64,
    events: u64,
    trace: String,
    wall_seconds: f64,
    /// After so many seconds so large a share of the hosts was complete.
    curve: Vec<(f64, f64)>,
}

#[allow(clippy::cast_precision_loss, reason = "ratios for people")]
impl Told {
    fn new(plan: &Plan, report: &Report, wall: Duration) -> Self {
        let crowd = &plan.crowd;
        let at = |of| report.per_mille(of).map(|took| took.as_secs_f64());
        let copies = (report.took.len() as u64 * report.copy).max(1);
        Self {
            hosts: crowd.hosts,
            origins: crowd.origins,
            layers: crowd.layers.clone(),
            piece_lengths: plan.piece_lens.clone(),
            block: crowd.settings.block_len,
            rate: crowd.rate,
            seed: crowd.seed,
            finished: report.took.len(),
            unfinished: report.unfinished,
            died: report.died,
            ideal_seconds: report.copy as f64 / crowd.rate as f64,
            p50_seconds: at(500),
            p99_seconds: at(990),
            p999_seconds: at(999),
            max_seconds: at(1000),
            origin_bytes: report.origin_bytes,
            origin_copies: report.origin_copies(),
            overhead: report.downloaded as f64 / copies as f64,
            corrupt_pieces: report.corrupt,
            events: report.events,
            trace: format!("{:016x}", report.trace),
            wall_seconds: wall.as_secs_f64(),
            curve: curve(report),
        }
    }

    fn print(&self, plan: &Plan, report: &Report) {
        let crowd = &plan.crowd;
        let sizes: Vec<String> = crowd.layers.iter().map(|&size| decimal(size)).collect();
        line(format_args!(
            "{} hosts pull {} in layers of {} over links of {}/s from {} origins (seed {})",
            crowd.hosts,
            decimal(report.copy),
            sizes.join(" and "),
            decimal(crowd.rate),
            crowd.origins,
            crowd.seed
        ));
        let pieces: Vec<String> = plan
            .piece_lens
            .iter()
            .map(|&len| Size(len).to_string())
            .collect();
        line(format_args!(
            "pieces of {}, simulated block {}, hosts come within {}",
            pieces.join(" and "),
            Size(self.block.into()),
            seconds(crowd.spread)
        ));
        line("");
        let time = |of| report.per_mille(of).map_or("-".into(), seconds);
        line(format_args!("ideal    {:.2} s", self.ideal_seconds));
        for (name, of) in [("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1000)] {
            line(format_args!("{name:<8} {}", time(of)));
        }
        line(format_args!(
            "origins  {} sent, {:.2} copies",
            decimal(self.origin_bytes),
            self.origin_copies
        ));
        line(format_args!(
            "hosts    {} finished, {} died, {} did not finish; {:.3} bytes received for one",
            self.finished, self.died, self.unfinished, self.overhead
        ));
        if self.corrupt_pieces > 0 {
            line(format_args!(
                "pieces   {} were wrong and fetched again",
                self.corrupt_pieces
            ));
        }
        line(format_args!(
            "effort   {} events in {:.1} s (trace {})",
            self.events, self.wall_seconds, self.trace
        ));
        if std::io::stdout().is_terminal() {
            line("");
            chart(&self.curve);
        }
    }
}

/// The share of hosts complete over time, from the first to the last.
#[allow(clippy::cast_precision_loss, reason = "a chart")]
fn curve(report: &Report) -> Vec<(f64, f64)> {
    let (Some(&first), Some(&last)) = (report.done.first(), report.done.last()) else {
        return Vec::new();
    };
    let all = report.done.len() + report.unfinished;
    let step = (last - first).div_f64(CHART as f64 - 1.0);
    let point = |n: u32| {
        let at = if n as usize + 1 == CHART {
            last
        } else {
            first + step * n
        };
        let done = report.done.partition_point(|&done| done <= at);
        (at.as_secs_f64(), done as f64 / all as f64)
    };
    (0..).take(CHART).map(point).collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of the width"
)]
fn chart(curve: &[(f64, f64)]) {
    for (at, share) in curve {
        let bar = "█".repeat((share * CHART_WIDTH as f64).round() as usize);
        line(format_args!(
            "{at:>8.2} s {bar:<CHART_WIDTH$} {:>5.1}%",
            share * 100.0
        ));
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Links and layers are given in decimal units.
#[allow(clippy::cast_precision_loss, reason = "for people")]
fn decimal(bytes: u64) -> String {
    let steps = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let found = steps.iter().find(|(_, step)| bytes as f64 >= *step);
    match found {
        Some((unit, step)) => {
            let text = format!("{:.2}", bytes as f64 / step);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            format!("{text} {unit}")
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(flags: &[&str]) -> Result<Plan, Failure> {
        let words = ["swell", "simulate"].iter().chain(flags);
        match Cli::parse_from(words).command {
            Command::Simulate(args) => Plan::new(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_a_crowd() {
        let plan = plan(&[
            "--layers",
            "2",
            "--size",
            "3GB",
            "--slow",
            "5%",
            "--readers",
        ])
        .unwrap();
        let crowd = plan.crowd;
        assert_eq!(crowd.layers, [1_500_000_000; 2]);
        assert_eq!(crowd.settings.block_len, 1 << 20);
        assert_eq!(crowd.slow_rate * 10, crowd.rate);
        assert_eq!(crowd.reader, Some(AHEAD));
    }

    #[test]
    fn numbers_without_sense_are_usage_errors() {
        for flags in [
            ["--size", "1"],
            ["--block", "1000"],
            ["--rate", "1"],
            ["--announce-interval", "0s"],
        ] {
            assert!(plan(&flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn sizes_are_decimal_and_short() {
        assert_eq!(decimal(1_500_000_000), "1.5 GB");
        assert_eq!(decimal(300_000_000), "300 MB");
        assert_eq!(decimal(999), "999 B");
    }
}
