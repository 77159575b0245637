//! The figures as text, 80 columns wide.

use crate::report::{Bound, Figure};

/// The figures, one a line: name, value, 99 % interval, bound, and whether the value keeps it.
pub fn figures(figures: &[Figure]) -> String {
    let mut text = format!("{:<38}{:>9}  {:<15}{:>9} {}\n", "figure", "value", "99 % interval", "bound", "");
    for Figure { name, value, unit, ci: [lo, hi], bound } in figures {
        let interval =
            if lo == hi { "exact".to_owned() } else { format!("{}..{}", number(*lo), number(*hi)) };
        let (bound_text, verdict) = match (bound, bound.holds(*value)) {
            (Bound::AtMost(bound), Some(holds)) => (format!("<= {}", short(*bound)), verdict(holds)),
            (Bound::AtLeast(bound), Some(holds)) => (format!(">= {}", short(*bound)), verdict(holds)),
            _ => ("-".to_owned(), ""),
        };
        let value = if *unit == "ratio" {
            number(*value)
        } else {
            format!("{} {}", short(*value), unit.replace("bytes", "B"))
        };
        line(&mut text, format_args!("{name:<38}{value:>9}  {interval:<15}{bound_text:>9} {verdict}"));
    }
    text
}

/// Appends `line` without the spaces at its end.
pub fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let line = line.to_string();
    text.push_str(line.trim_end());
    text.push('\n');
}

fn verdict(holds: bool) -> &'static str {
    if holds { "ok" } else { "MISSED" }
}

/// Three significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// As few digits as say it.
fn short(value: f64) -> String {
    if value == value.trunc() {
        format!("{value}")
    } else {
        format!("{value:.3}").trim_end_matches('0').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::GROUPS;

    #[test]
    fn tables_fit_80_columns() {
        let names = GROUPS.iter().flat_map(|group| group.names);
        let list: Vec<Figure> = names
            .enumerate()
            .map(|(i, &name)| Figure {
                name,
                value: 262_143.0,
                unit: if i % 2 == 0 { "bytes" } else { "ratio" },
                ci: [123.456, 262_143.0],
                bound: if i % 3 == 0 { Bound::AtMost(262_142.0) } else { Bound::AtLeast(0.95) },
            })
            .collect();
        let text = figures(&list);
        assert_eq!(text.lines().count(), list.len() + 1);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(text.contains("MISSED") && text.contains("ok"));
    }
}
