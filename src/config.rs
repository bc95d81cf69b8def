//! Settings: flags, then `SWELL_*` variables, then a TOML file, then defaults that work.
//!
//! Each role has one struct of options. Its doc comments are at once the help of the flags
//! and the comments of the printed file, so the two cannot drift. `resolve` turns options
//! into settings and is where rules across options live; `swell config check` ends there.

mod options;
pub(crate) mod resolve;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use options::{
    AgentOptions, HerdOptions, NodeOptions, OriginOptions, OriginPolicy, OriginPorts,
    TrackerOptions,
};

use crate::cli::{Configured, Role};
use crate::report::Failure;

/// A role's options with everything the file says filled in where the command line is silent.
pub(crate) fn merge<T>(configured: Configured<T>) -> Result<T, Failure>
where
    T: Args + Serialize + DeserializeOwned,
{
    let Some(path) = configured.config else {
        return Ok(configured.options);
    };
    let mut table = read::<T>(&path)?;
    let flags = toml::Table::try_from(&configured.options).map_err(|error| {
        Failure::usage(format!(
            "the command line cannot be combined with {}: {error}",
            path.display()
        ))
    })?;
    table.extend(flags);
    from_table(table, &path)
}

/// Reads a role's file and checks everything that can be checked without starting.
pub(crate) fn check(role: Role, path: &Path) -> Result<(), Failure> {
    fn options<T: Args + DeserializeOwned>(path: &Path) -> Result<T, Failure> {
        from_table(read::<T>(path)?, path)
    }
    match role {
        Role::Herd => resolve::herd(options(path)?).map(drop),
        Role::Origin => resolve::origin(options(path)?).map(drop),
        Role::Tracker => resolve::tracker(options(path)?).map(drop),
        Role::Agent => resolve::agent(options(path)?).map(drop),
    }
}

/// The commented default file of a role.
pub(crate) fn print(role: Role) -> String {
    match role {
        Role::Herd => printed::<HerdOptions>("herd", &HerdOptions::defaults()),
        Role::Origin => printed::<OriginOptions>("origin", &OriginOptions::defaults()),
        Role::Tracker => printed::<TrackerOptions>("tracker", &TrackerOptions::defaults()),
        Role::Agent => printed::<AgentOptions>("agent", &AgentOptions::defaults()),
    }
}

/// The command with the defaults of every role in its help.
pub(crate) fn tell_defaults(command: clap::Command) -> clap::Command {
    fn told<T: Serialize>(command: clap::Command, defaults: &T) -> clap::Command {
        let values = toml::Table::try_from(defaults).unwrap_or_default();
        command.mut_args(|arg| {
            let Some(value) = values.get(arg.get_id().as_str()) else {
                return arg;
            };
            let help = arg.get_help().map(ToString::to_string);
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            arg.help(format!("{} [default: {value}]", help.unwrap_or_default()))
        })
    }
    command
        .mut_subcommand("herd", |herd| told(herd, &HerdOptions::defaults()))
        .mut_subcommand("origin", |origin| told(origin, &OriginOptions::defaults()))
        .mut_subcommand("tracker", |tracker| {
            told(tracker, &TrackerOptions::defaults())
        })
        .mut_subcommand("agent", |agent| told(agent, &AgentOptions::defaults()))
}

fn printed<T: Args + Serialize>(role: &str, defaults: &T) -> String {
    let values = toml::Table::try_from(defaults).unwrap_or_default();
    let mut text = format!(
        "# Settings of `swell {role}`. A flag or a SWELL_* variable wins over this file.\n\
         # Lines that are commented out show the default.\n"
    );
    for arg in T::augment_args(clap::Command::new("")).get_arguments() {
        let key = arg.get_id().as_str();
        text.push('\n');
        for line in arg
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default()
            .lines()
        {
            text.push_str(&format!("# {line}\n"));
        }
        match values.get(key) {
            Some(value) => text.push_str(&format!("# {key} = {value}\n")),
            None => text.push_str(&format!("# {key} = {}\n", placeholder(arg))),
        }
    }
    text
}

/// What to show for an option that has no default.
fn placeholder(arg: &clap::Arg) -> String {
    let name = arg.get_value_names().and_then(|names| names.first());
    let many = matches!(arg.get_action(), clap::ArgAction::Append);
    let text = format!("\"{}\"", name.map_or("", |name| name.as_str()));
    if many { format!("[{text}]") } else { text }
}

fn read<T: Args>(path: &Path) -> Result<toml::Table, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error| Failure::usage(format!("{} is not TOML: {error}", path.display())))?;
    let command = T::augment_args(clap::Command::new(""));
    let known: Vec<&str> = command
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .collect();
    if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(
            Failure::usage(format!("{}: there is no setting {key:?}", path.display()))
                .hint(format!("the settings are {}", known.join(", "))),
        );
    }
    Ok(table)
}

fn from_table<T: DeserializeOwned>(table: toml::Table, path: &Path) -> Result<T, Failure> {
    table
        .try_into()
        .map_err(|error: toml::de::Error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Where a role keeps its data unless told otherwise.
fn default_data(role: &str) -> PathBuf {
    let system = Path::new("/var/lib/groundswell");
    let base = match (
        nix_is_root(),
        std::env::var_os("XDG_DATA_HOME"),
        std::env::var_os("HOME"),
    ) {
        (true, _, _) | (false, None, None) => system.to_path_buf(),
        (false, Some(data), _) => PathBuf::from(data).join("groundswell"),
        (false, None, Some(home)) => PathBuf::from(home).join(".local/share/groundswell"),
    };
    base.join(role)
}

fn nix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The printed file with every default uncommented.
    fn uncommented(text: &str) -> String {
        text.lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = "))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    #[test]
    fn what_is_printed_parses_to_the_defaults() {
        for (role, defaults) in [
            (
                Role::Herd,
                toml::Table::try_from(HerdOptions::defaults()).unwrap(),
            ),
            (
                Role::Origin,
                toml::Table::try_from(OriginOptions::defaults()).unwrap(),
            ),
            (
                Role::Tracker,
                toml::Table::try_from(TrackerOptions::defaults()).unwrap(),
            ),
            (
                Role::Agent,
                toml::Table::try_from(AgentOptions::defaults()).unwrap(),
            ),
        ] {
            let table: toml::Table = uncommented(&print(role)).parse().unwrap();
            for (key, value) in defaults {
                assert_eq!(table.get(&key), Some(&value), "{role:?} {key}");
            }
        }
    }

    #[test]
    fn help_tells_the_defaults() {
        let mut command = tell_defaults(crate::cli::Cli::command());
        for (role, defaults) in [
            ("herd", ["15000", "15003", "127.0.0.1"]),
            ("agent", ["16000", "256MiB", "127.0.0.1"]),
        ] {
            let help = command.find_subcommand_mut(role).unwrap().render_help();
            for default in defaults {
                let told = format!("[default: {default}]");
                assert!(help.to_string().contains(&told), "{role}: no {told}");
            }
        }
    }

    #[test]
    fn a_file_fills_in_what_flags_leave_open_and_typos_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(
            &path,
            "herd = [\"10.0.1.100\"]\nregistry_port = 17000\npeer_port = 1\n",
        )
        .unwrap();
        let flags = AgentOptions {
            peer_port: Some(17001),
            ..AgentOptions::default()
        };
        let merged = merge(Configured {
            config: Some(path.clone()),
            options: flags,
        })
        .unwrap();
        assert_eq!(merged.registry_port, Some(17000));
        assert_eq!(merged.peer_port, Some(17001));
        assert_eq!(merged.herd.len(), 1);
        std::fs::write(&path, "herds = []\n").unwrap();
        let error = check(Role::Agent, &path).unwrap_err().to_string();
        assert!(error.contains("\"herds\""), "{error}");
    }
}
