//! The commands and their flags, exactly as typed. What they mean is decided in `config` and
//! `commands`.

mod simulate;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::simulate::SimulateArgs;
use crate::config::{AgentOptions, HerdOptions, OriginOptions, TrackerOptions};
use crate::units::{Rate, Size};

/// Container images over standard BitTorrent.
///
/// One host runs `swell herd` and takes `docker push`; every other host runs `swell agent`
/// and serves `docker pull` from the swarm.
#[derive(Debug, Parser)]
#[command(
    name = "swell",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How it logs.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// What to log: a level, or a filter such as `leecher=debug,info`
    #[arg(
        long,
        global = true,
        env = "SWELL_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
    /// How log lines look
    #[arg(long, global = true, env = "SWELL_LOG_FORMAT", default_value = "human")]
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the tracker and an origin in one process: where images are pushed to
    Herd(Configured<HerdOptions>),
    /// Run an origin alone, beside trackers that run elsewhere
    Origin(Configured<OriginOptions>),
    /// Run a tracker alone
    Tracker(Configured<TrackerOptions>),
    /// Run the agent of this host: where images are pulled from
    Agent(Configured<AgentOptions>),
    /// Pull an image through the agent and give it its own name
    Pull(PullArgs),
    /// Download a torrent like any BitTorrent client
    Leech(LeechArgs),
    /// Make, show or scrape .torrent files
    #[command(subcommand)]
    Torrent(TorrentCommand),
    /// Show a herd's swarms, or what an agent is doing
    Status(StatusArgs),
    /// Watch a herd's swarms fill
    Top(TopArgs),
    /// Show or change what an agent or origin of this host may send and receive, while it runs
    Limit(LimitArgs),
    /// Simulate a flash crowd with the real swarm machines
    Simulate(Box<SimulateArgs>),
    /// Print the commented default configuration, or check a file
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// A role's options and the file they may also come from.
#[derive(Debug, Args)]
pub(crate) struct Configured<T: Args> {
    /// A TOML file with settings; `swell config print` shows every one
    #[arg(long, env = "SWELL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: T,
}

/// `swell pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image by its own name: team/app:v1
    pub(crate) image: String,
    /// The agent's registry
    #[arg(
        long,
        env = "SWELL_AGENT",
        default_value = "localhost:16000",
        value_name = "HOST:PORT"
    )]
    pub(crate) agent: String,
    /// The registry to pull from when the agent fails [default: the agent's first herd]
    #[arg(long, env = "SWELL_FALLBACK", value_name = "HOST:PORT")]
    pub(crate) fallback: Option<String>,
    /// The container runtime's command [default: docker, else podman, else nerdctl]
    #[arg(long, env = "SWELL_RUNTIME", value_name = "COMMAND")]
    pub(crate) runtime: Option<String>,
}

/// `swell leech`.
#[derive(Debug, Args)]
pub(crate) struct LeechArgs {
    /// A .torrent file, or the http:// address of one
    #[arg(value_name = "FILE.torrent|URL")]
    pub(crate) torrent: String,
    /// Where the content goes; what is there already is checked and kept
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Where peers reach this client [default: a free port on the address that routes to the
    /// tracker]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Peers to try besides those of the tracker
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) peer: Vec<SocketAddr>,
    /// Go on seeding until interrupted
    #[arg(long)]
    pub(crate) seed: bool,
    /// Ignore the web seeds of the .torrent
    #[arg(long)]
    pub(crate) no_web_seed: bool,
    /// Bytes a second to peers at most
    #[arg(long, value_name = "SIZE")]
    pub(crate) upload_limit: Option<Size>,
    /// Bytes a second from peers at most
    #[arg(long, value_name = "SIZE")]
    pub(crate) download_limit: Option<Size>,
}

/// `swell torrent`.
#[derive(Debug, Subcommand)]
pub(crate) enum TorrentCommand {
    /// Make a .torrent of a file
    Create(CreateArgs),
    /// Show what a .torrent says
    Show {
        /// The .torrent file
        #[arg(value_name = "FILE.torrent")]
        file: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the trackers of a .torrent how many peers there are
    Scrape {
        /// The .torrent file
        #[arg(value_name = "FILE.torrent")]
        file: PathBuf,
    },
}

/// `swell torrent create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The file to share
    pub(crate) file: PathBuf,
    /// Where the .torrent goes
    #[arg(long, short, value_name = "OUT.torrent")]
    pub(crate) output: PathBuf,
    /// Announce URLs, each a tier of its own
    #[arg(long, required = true, value_name = "URL")]
    pub(crate) announce: Vec<String>,
    /// Web seeds
    #[arg(long, value_name = "URL")]
    pub(crate) web_seed: Vec<String>,
    /// A power of two from 16KiB [default: by the file's size]
    #[arg(long, value_name = "SIZE")]
    pub(crate) piece_length: Option<Size>,
    /// A note for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
}

/// `swell status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The herd to ask [default: localhost]
    #[arg(
        long,
        env = "SWELL_HERD",
        value_name = "HOST",
        conflicts_with = "agent"
    )]
    pub(crate) herd: Option<String>,
    /// An agent's API to ask instead
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) agent: Option<String>,
    /// The hosts of one swarm, by digest or info hash
    #[arg(long, value_name = "NAME", conflicts_with = "agent")]
    pub(crate) swarm: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `swell top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// The herd to watch [default: localhost]
    #[arg(long, env = "SWELL_HERD", value_name = "HOST")]
    pub(crate) herd: Option<String>,
}

/// `swell limit`.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// One blob alone, by digest or info hash [default: the whole process]
    #[arg(value_name = "BLOB")]
    pub(crate) blob: Option<String>,
    /// Bytes a second to peers at most, or `none`
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) upload: Option<Rate>,
    /// Bytes a second from peers and web seeds at most, or `none`
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) download: Option<Rate>,
    /// The API of the agent; of an origin it is port 15002
    #[arg(long, default_value = "localhost:16002", value_name = "HOST:PORT")]
    pub(crate) api: String,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `swell config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the commented default configuration of a role
    Print {
        /// Whose
        role: Role,
    },
    /// Check a configuration file
    Check {
        /// Whose
        role: Role,
        /// The file
        file: PathBuf,
    },
}

/// What a process can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Tracker and origin in one process
    Herd,
    /// Origin alone
    Origin,
    /// Tracker alone
    Tracker,
    /// The agent of a host
    Agent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
