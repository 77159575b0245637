//! What devices and drivers log: warnings always (a garbled request, a stuck endpoint), more when asked.

use std::io::{self, IsTerminal};

use tracing::Level;

/// Sends log lines to standard error, where they do not mix with `--json`.
pub(crate) fn to_stderr(verbose: u8) {
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_max_level(level).with_ansi(colour).with_writer(io::stderr).init();
}
