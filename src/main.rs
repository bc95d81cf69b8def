//! `swell`: the program. Parses, composes the rooms, turns outcomes into exit codes.
//!
//! No logic lives here: a command is a file in `commands/`, a setting is in `config`, and the
//! work is done in the rooms.
//!
//! Exit codes: 0 done; 1 it failed, and standard error says why; 2 the command line or the
//! configuration is wrong; 130 interrupted before the work was done.

mod cli;
mod commands;
mod config;
mod descriptors;
mod logging;
mod net;
mod report;
mod signals;
mod units;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

fn main() -> ExitCode {
    let matches = config::tell_defaults(cli::Cli::command()).get_matches();
    let cli = match cli::Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Err(error) = logging::start(&cli.log) {
        return report::failure(&error);
    }
    descriptors::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(source) => return report::failure(&report::Failure::runtime(&source)),
    };
    let outcome = runtime.block_on(commands::run(cli.command));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}
