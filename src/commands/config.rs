//! `swell config`: the default file of a role, and the check of one.

use std::process::ExitCode;

use crate::cli::ConfigCommand;
use crate::config;
use crate::report::{Failure, line};

/// Runs the command.
pub(crate) fn run(command: ConfigCommand) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Print { role } => line(config::print(role).trim_end()),
        ConfigCommand::Check { role, file } => {
            config::check(role, &file)?;
            line(format_args!("{} is fine", file.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
