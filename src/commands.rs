//! One file a command; each returns an exit code or a [`Failure`].

mod config;
mod inspection;
mod leech;
mod limit;
mod pull;
mod roles;
mod simulate;
mod status;
mod top;
mod torrent;

use std::process::ExitCode;

use crate::cli::Command;
use crate::report::Failure;

/// Runs the command.
pub(crate) async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Herd(args) => roles::herd(args).await,
        Command::Origin(args) => roles::origin(args).await,
        Command::Tracker(args) => roles::tracker(args).await,
        Command::Agent(args) => roles::agent(args).await,
        Command::Pull(args) => pull::run(args).await,
        Command::Leech(args) => leech::run(args).await,
        Command::Torrent(command) => torrent::run(command).await,
        Command::Status(args) => status::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Limit(args) => limit::run(args).await,
        Command::Simulate(args) => simulate::run(*args).await,
        Command::Config(command) => config::run(command),
    }
}
