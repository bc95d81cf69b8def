//! How failures reach a person: what failed and why on one line, then a hint.

use std::process::ExitCode;

/// A command that did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// The work failed.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code: 1,
        }
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code: 2,
        }
    }

    /// The user interrupted it.
    pub(crate) fn interrupted() -> Self {
        Self {
            message: "interrupted".into(),
            hint: None,
            code: 130,
        }
    }

    /// The runtime does not start.
    pub(crate) fn runtime(source: &std::io::Error) -> Self {
        Self::new(format!("cannot start the runtime: {source}"))
    }

    /// What the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure as one of the command line or the configuration.
    pub(crate) fn usage_error(mut self) -> Self {
        self.code = 2;
        self
    }

    /// An error of a room, with its causes.
    pub(crate) fn from_error(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            let text = source.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = source.source();
        }
        // A room's own hint follows its message on a line that says so.
        match message.split_once("\nhint: ") {
            Some((what, hint)) => Self::new(what).hint(hint),
            None => Self::new(message),
        }
    }
}

/// Prints the failure and gives its exit code.
#[allow(
    clippy::print_stderr,
    reason = "this is where failures reach the terminal"
)]
pub(crate) fn failure(failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    if let Some(hint) = &failure.hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(failure.code)
}

/// A line of a command's result. A closed pipe (`swell ... | head`) ends the program quietly.
pub(crate) fn line(text: impl std::fmt::Display) {
    use std::io::Write;
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store\nhint: free the lock")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once_and_hints_get_their_own_line() {
        let failure = Failure::from_error(&Outer(std::io::Error::other("disk on fire")));
        assert_eq!(failure.message, "cannot open the store");
        assert!(
            failure
                .hint
                .as_deref()
                .is_some_and(|hint| hint.contains("disk on fire"))
        );
    }
}
