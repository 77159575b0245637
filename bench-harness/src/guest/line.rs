//! What the agent in the guest says, line by line. The guest is not trusted more than any other input.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    sync::mpsc::Sender,
};

use thiserror::Error;

/// Where a line is cut that has no end, in bytes.
const LINE_BYTES: u64 = 1 << 20;
/// Longest line that is taken in, in bytes.
const MOST_BYTES: usize = 64 << 10;
/// Most lines of one answer.
const MOST_LINES: usize = 100_000;

/// An answer is not one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum LineError {
    /// Another command's.
    #[error("the guest answered command {found} instead of {wanted}")]
    Number {
        /// What it answered.
        found: u64,
        /// What was asked.
        wanted: u64,
    },
    /// A line that is no answer.
    #[error("the guest said `{line}` where an answer belongs")]
    Stray {
        /// The line.
        line: String,
    },
    /// Too much.
    #[error("the guest's answer has more than {MOST_LINES} lines, or one of more than {MOST_BYTES} bytes")]
    TooLong,
}

/// What comes before anything is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It is up, with this kernel.
    Up(String),
    /// Something else, such as the driver's bytes before the line is set up.
    Noise,
}

/// Reads a greeting.
pub(super) fn greeting(line: &str) -> Greeting {
    match line.trim().strip_prefix("@up ") {
        Some(release) => Greeting::Up(release.to_owned()),
        None => Greeting::Noise,
    }
}

/// A command's answer, as it comes in.
#[derive(Debug)]
pub(super) struct Answer {
    number: u64,
    begun: bool,
    lines: Vec<String>,
}

/// An answer that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complete {
    /// What the command printed.
    pub(super) text: String,
    /// Its exit code.
    pub(super) status: i32,
}

impl Answer {
    /// To the command of this number.
    pub(super) fn to(number: u64) -> Self {
        Self { number, begun: false, lines: Vec::new() }
    }

    /// Takes a line; the answer, once it is complete.
    ///
    /// # Errors
    /// When the line is not part of this answer.
    pub(super) fn take(&mut self, line: &str) -> Result<Option<Complete>, LineError> {
        let line = line.trim_end_matches('\r');
        if line.len() > MOST_BYTES || self.lines.len() >= MOST_LINES {
            return Err(LineError::TooLong);
        }
        if let Some(number) = line.strip_prefix("@begin ") {
            self.expect(number, line)?;
            self.begun = true;
        } else if let Some(rest) = line.strip_prefix("@end ").filter(|_| self.begun) {
            let stray = || LineError::Stray { line: line.to_owned() };
            let (number, status) = rest.split_once(' ').ok_or_else(stray)?;
            self.expect(number, line)?;
            let status = status.trim().parse().map_err(|_| stray())?;
            return Ok(Some(Complete { text: self.lines.join("\n"), status }));
        } else if self.begun {
            self.lines.push(line.to_owned());
        } else if let Some(problem) = line.strip_prefix("@problem ") {
            // Said once, after the greeting: what went wrong while it came up.
            return Err(LineError::Stray { line: problem.to_owned() });
        } else if !line.is_empty() {
            return Err(LineError::Stray { line: line.to_owned() });
        }
        Ok(None)
    }

    fn expect(&self, number: &str, line: &str) -> Result<(), LineError> {
        let found = number.trim().parse().map_err(|_| LineError::Stray { line: line.to_owned() })?;
        if found != self.number {
            return Err(LineError::Number { found, wanted: self.number });
        }
        Ok(())
    }
}

/// Passes lines on until the other end is gone.
pub(super) fn pump(output: impl io::Read, lines: &Sender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut bytes = Vec::new();
        match (&mut output).take(LINE_BYTES).read_until(b'\n', &mut bytes) {
            Ok(1..) => {}
            _ => return,
        }
        let text = String::from_utf8_lossy(&bytes);
        if lines.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Result<Option<Complete>, LineError> {
        let mut answer = Answer::to(7);
        for line in lines {
            if let Some(complete) = answer.take(line)? {
                return Ok(Some(complete));
            }
        }
        Ok(None)
    }

    #[test]
    fn an_answer_is_what_stands_between_its_marks() {
        let complete = read(&["", "@begin 7", "a\r", "", "@endless", "@end 7 3"]).unwrap().unwrap();
        assert_eq!(complete, Complete { text: "a\n\n@endless".to_owned(), status: 3 });
        assert_eq!(read(&["@begin 7", "a"]).unwrap(), None);
        assert_eq!(greeting("@up 6.12.1\r"), Greeting::Up("6.12.1".to_owned()));
        assert_eq!(greeting("\u{0}"), Greeting::Noise);
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(read(&["@begin 8"]), Err(LineError::Number { found: 8, wanted: 7 }));
        assert_eq!(read(&["@begin 7", "@end 6 0"]), Err(LineError::Number { found: 6, wanted: 7 }));
        for line in ["@begin x", "hello", "@end 7 0", "@problem insmod x"] {
            assert!(matches!(read(&[line]), Err(LineError::Stray { .. })), "{line}");
        }
        for line in ["@end 7", "@end 7 x", "@end y 0"] {
            assert!(matches!(read(&["@begin 7", line]), Err(LineError::Stray { .. })), "{line}");
        }
        assert_eq!(read(&["@begin 7", &"x".repeat(MOST_BYTES + 1)]), Err(LineError::TooLong));
    }

    #[test]
    fn lines_are_passed_on_until_the_end() {
        let (sender, lines) = std::sync::mpsc::channel();
        pump(&b"one\r\n\xff\ntwo"[..], &sender);
        drop(sender);
        assert_eq!(lines.iter().collect::<Vec<_>>(), ["one", "\u{fffd}", "two"]);
    }

    proptest! {
        #[test]
        fn no_line_panics(lines in proptest::collection::vec("(@begin |@end |@problem )?[0-9 ]{0,4}\\PC{0,6}", 0..12)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let _ = read(&lines);
        }
    }
}
