//! What the process tells the shell: one code a meaning.

use std::process::ExitCode;

/// Exit codes of every subcommand; scripts rely on them (`docs/cli.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; of a comparison: better or same.
    Ok = 0,
    /// Of a comparison: worse.
    Worse = 1,
    /// The command line, or a scenario it names, is wrong; nothing was run.
    Usage = 2,
    /// Something this machine, or this build, does not have is needed; nothing was run.
    Prerequisite = 3,
    /// The run failed, or its result could not be stored.
    Failed = 4,
    /// Of a comparison: nothing can be said.
    Inconclusive = 5,
    /// Interrupted; what had been measured is saved.
    Interrupted = 130,
}

impl Exit {
    /// The meaning of another process's code.
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        [
            Self::Ok,
            Self::Worse,
            Self::Usage,
            Self::Prerequisite,
            Self::Failed,
            Self::Inconclusive,
            Self::Interrupted,
        ]
        .into_iter()
        .find(|exit| i32::from(*exit as u8) == code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
