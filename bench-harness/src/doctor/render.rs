//! The table for people, 80 columns wide.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{Checked, State};
use crate::out::{WIDTH, wrapped};

/// Columns of name and state, with the space after them.
const NAME: usize = 18;
const STATE: usize = 9;

/// One paragraph for each check, and how many there are of each state.
pub(super) fn table(checks: &[Checked]) -> String {
    let mut text = String::new();
    for check in checks {
        paragraph(&mut text, check);
    }
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let (yes, limited, no) = (count(State::Yes), count(State::Limited), count(State::No));
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(text, "{yes} yes, {limited} limited, {no} no");
    text
}

fn paragraph(text: &mut String, check: &Checked) {
    let (word, style) = match check.state {
        State::Yes => ("yes", AnsiColor::Green.on_default()),
        State::Limited => ("limited", AnsiColor::Yellow.on_default()),
        State::No => ("no", AnsiColor::Red.on_default()),
    };
    let bold = Style::new().bold();
    let mut head = format!("{bold}{:<NAME$}{bold:#}{style}{word:<STATE$}{style:#}", check.name);
    let indent = " ".repeat(NAME + STATE);
    let enables = format!("for: {}", check.enables);
    let remedy = format!("remedy: {}", check.remedy);
    let parts = [Some(&check.detail), Some(&enables), (!check.remedy.is_empty()).then_some(&remedy)];
    for part in parts.into_iter().flatten() {
        for line in wrapped(part, WIDTH - NAME - STATE) {
            let _ = writeln!(text, "{head}{line}");
            head.clone_from(&indent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_say_everything() {
        let check = Checked {
            name: "bpf_tracing_fentry",
            state: State::Limited,
            detail: "loads, but ".repeat(20),
            enables: "latencies of kernel functions",
            remedy: "boot another kernel".to_owned(),
        };
        let text = anstream::adapter::strip_str(&table(&[check])).to_string();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        for part in [
            "limited",
            "for: latencies of kernel functions",
            "remedy: boot another kernel",
            "0 yes, 1 limited, 0 no",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
