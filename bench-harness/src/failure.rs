//! Why a command did not do what was asked, what that means for the exit code, and what helps.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};

use crate::exit::Exit;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Green.on_default().bold();

/// A command that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What went wrong, values and paths included.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

impl Failure {
    /// The command line or a file it names is wrong.
    pub(crate) fn usage(error: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Usage, message: error.to_string(), remedy: None }
    }

    /// Something is missing here.
    pub(crate) fn prerequisite(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit: Exit::Prerequisite, message: message.into(), remedy: Some(remedy.into()) }
    }

    /// The work itself failed.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Failed, message: error.to_string(), remedy: None }
    }

    /// Adds what helps.
    pub(crate) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Prints it to standard error, in colour on a terminal.
    pub(crate) fn print(&self) {
        label(ERROR, "error", &self.message);
        if let Some(remedy) = &self.remedy {
            label(HINT, " hint", remedy);
        }
    }
}

/// Prints a warning to standard error.
pub(crate) fn warn(message: &str) {
    label(WARNING, "warning", message);
}

fn label(style: Style, label: &str, message: &str) {
    // Nothing is left to be told when standard error is gone.
    let _ = writeln!(anstream::stderr(), "{style}{label}:{style:#} {message}");
}
