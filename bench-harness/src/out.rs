//! Standard output: what the command was asked for, and nothing else.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::failure::Failure;

/// Prints `text`. A reader who has seen enough and closed the pipe is no error.
///
/// # Errors
/// When standard output cannot be written for another reason (a full disk behind a redirection, say).
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// As [`print()`], for what another process printed.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints `value` as indented JSON and a newline.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    print(&(text + "\n"))
}

/// Whether `stream` wants colour: a terminal, and neither `NO_COLOR` nor `TERM=dumb` says otherwise.
fn wants_colour(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Tells people who wait what is being done, on standard error and only on a terminal.
pub(crate) fn note(what: &str) {
    let mut stderr = anstream::stderr();
    if io::stderr().is_terminal() {
        // Nothing is lost when standard error is gone.
        let _ = writeln!(stderr, "{what}");
    }
}

/// Columns that every terminal has.
pub(crate) const WIDTH: usize = 80;

/// `text` in lines of at most `width` characters, broken at spaces; a longer word has a line to itself.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Columns of standard output: 80 unless it is a narrower terminal.
fn columns() -> usize {
    if !io::stdout().is_terminal() {
        return WIDTH;
    }
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    asked.unwrap_or(WIDTH).clamp(60, WIDTH)
}

/// How a summary is to look on standard output.
pub(crate) fn table_options() -> iommu_analysis::terminal::Options {
    iommu_analysis::terminal::Options { width: columns(), colour: wants_colour(&io::stdout()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_whole() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensibilities and more", 8), ["incomprehensibilities", "and more"]);
        assert!(wrapped("  ", 8).is_empty());
    }
}
