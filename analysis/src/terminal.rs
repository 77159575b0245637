//! A run as text: ratios first, then what each case cost.

mod probes;

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use iommu_results::{Case, Run, names};

use crate::format;
use crate::view::{self, Group};

/// How to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Columns that the text may take; below 60 it is laid out for 60.
    pub width: usize,
    /// Use ANSI colours. The caller knows whether anybody can see them.
    pub colour: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { width: 80, colour: false }
    }
}

const NARROWEST: usize = 60;

/// The whole run as text, ending with a newline.
pub fn render(run: &Run, options: Options) -> String {
    let mut page = Page::new(options);
    page.head(run);
    page.comparisons(run);
    for group in view::groups(run) {
        page.group(&group);
    }
    page.probes(run);
    page.notes();
    page.warnings(run);
    page.text
}

/// Text under construction.
pub(crate) struct Page {
    text: String,
    options: Options,
    /// Reasons for `n/a`, numbered from 1.
    notes: Vec<String>,
}

impl Page {
    pub(crate) fn new(options: Options) -> Self {
        Self { text: String::new(), options, notes: Vec::new() }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// A whole table; the columns `right` are right-aligned.
    pub(crate) fn rows(&mut self, heads: &[&str], right: &[usize], rows: Vec<Vec<String>>) {
        let mut table = self.table(heads, right);
        for cells in rows {
            table.add_row(row(cells, right));
        }
        self.put(&table);
    }

    fn head(&mut self, run: &Run) {
        let title = format!("{} on {}", run.scenario, run.machine);
        self.line(&title, Style::new().bold());
        self.wrapped(&format!("seed {} · {}", run.seed, run.run_id), Style::new().dimmed());
        let common: Vec<String> =
            view::common_params(run).iter().map(|(key, value)| view::param(key, value)).collect();
        if !common.is_empty() {
            self.wrapped(&common.join(" · "), Style::new().dimmed());
        }
        if run.partial {
            let text = "PARTIAL: the run ended early; the figures cover what was measured until then.";
            self.wrapped(text, AnsiColor::Yellow.on_default().bold());
        }
    }

    fn comparisons(&mut self, run: &Run) {
        let comparisons = view::comparisons(run);
        let Some(first) = comparisons.first() else { return };
        let level = significant_percent(first.relative.level);
        self.heading(&format!("What it costs: ratios with {level} intervals"));
        let mut table = self.table(&["", "", "ratio", "interval", "effect"], &[2, 3]);
        let mut group = "";
        for comparison in &comparisons {
            if comparison.group != group {
                group = &comparison.group;
                table = self.flush(table, &["", "", "ratio", "interval", "effect"]);
                self.line(group, Style::new().underline());
            }
            let relative = comparison.relative;
            table.add_row(row(
                [
                    comparison.pair.clone(),
                    comparison.metric.clone(),
                    format::ratio(relative.ratio),
                    format!(
                        "{} to {}",
                        format::significant(relative.ci[0]),
                        format::significant(relative.ci[1])
                    ),
                    format::effect(relative.ratio, relative.ci),
                ],
                &[2, 3],
            ));
        }
        self.flush(table, &["", "", "ratio", "interval", "effect"]);
    }

    fn group(&mut self, group: &Group<'_>) {
        self.heading(&group.title);
        let heads = ["mode", "time/packet", "", "throughput", "", "transactions", ""];
        let mut table = self.table(&heads, &[1, 2, 3, 4, 5, 6]);
        for case in &group.cases {
            let mut cells = vec![case.mode.to_string()];
            for name in [names::CPU_PER_PACKET, names::THROUGHPUT, names::TRANSACTIONS] {
                match view::measured(case, name) {
                    Ok((value, ci, unit)) => {
                        cells.extend([format::quantity(value, unit), format::plus_minus(value, ci)]);
                    }
                    Err(reason) => cells.extend([self.missing(reason), String::new()]),
                }
            }
            table.add_row(row(cells, &[1, 2, 3, 4, 5, 6]));
        }
        self.put(&table);
        self.blank();

        let heads = ["", "map p50", "p99", "unmap p50", "p99", "requests", "kicks", "invalid."];
        let mut table = self.table(&heads, &[1, 2, 3, 4, 5, 6, 7]);
        for case in &group.cases {
            let mut cells = vec![case.mode.to_string()];
            for name in [names::MAP_LATENCY, names::UNMAP_LATENCY] {
                cells.extend(self.latency(case, name));
            }
            cells.push(self.requests(case));
            for name in [names::KICKS_IOMMU, names::INVALIDATIONS] {
                cells.push(self.per_packet(case, name));
            }
            table.add_row(row(cells, &[1, 2, 3, 4, 5, 6, 7]));
        }
        self.put(&table);
        self.line("requests, IOMMU kicks and invalidations waited for: per packet", Style::new().dimmed());
    }

    fn latency(&mut self, case: &Case, name: &str) -> [String; 2] {
        match case.histograms.get(name) {
            Some(summary) => {
                [format::duration_ns(summary.p50 as f64), format::duration_ns(summary.p99 as f64)]
            }
            None if view::sends_no_requests(case.mode) => ["–".to_owned(), "–".to_owned()],
            None => [self.missing(format!("{} was not recorded", view::metric_label(name))), String::new()],
        }
    }

    fn requests(&mut self, case: &Case) -> String {
        match (case.per_packet(names::REQUESTS_MAP), case.per_packet(names::REQUESTS_UNMAP)) {
            (Some(map), Some(unmap)) => format::significant(map + unmap),
            (None, _) => self.missing(view::why_not_counted(case, names::REQUESTS_MAP)),
            (_, None) => self.missing(view::why_not_counted(case, names::REQUESTS_UNMAP)),
        }
    }

    fn per_packet(&mut self, case: &Case, name: &str) -> String {
        match case.per_packet(name) {
            Some(value) => format::significant(value),
            None => self.missing(view::why_not_counted(case, name)),
        }
    }

    /// `n/a` with the number of its footnote.
    fn missing(&mut self, reason: String) -> String {
        let number = match self.notes.iter().position(|note| *note == reason) {
            Some(index) => index + 1,
            None => {
                self.notes.push(reason);
                self.notes.len()
            }
        };
        format!("n/a [{number}]")
    }

    fn notes(&mut self) {
        if self.notes.is_empty() {
            return;
        }
        self.blank();
        for (index, note) in std::mem::take(&mut self.notes).iter().enumerate() {
            self.wrapped(&format!("[{}] {note}", index + 1), Style::new().dimmed());
        }
    }

    fn warnings(&mut self, run: &Run) {
        if run.warnings.is_empty() {
            return;
        }
        self.heading("Before you believe it");
        for warning in &run.warnings {
            self.wrapped(&format!("! {warning}"), AnsiColor::Yellow.on_default());
        }
    }

    fn table(&self, heads: &[&str], right: &[usize]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(self.width()).unwrap_or(u16::MAX));
        table.set_header(row(heads.iter().map(ToString::to_string), right));
        for column in table.column_iter_mut() {
            column.set_padding((2, 0));
        }
        table
    }

    /// Writes a table that has rows and returns an empty one with the same columns.
    fn flush(&mut self, table: Table, heads: &[&str]) -> Table {
        if table.row_iter().next().is_some() {
            self.put(&table);
        }
        self.table(heads, &[2, 3])
    }

    fn put(&mut self, table: &Table) {
        for (index, line) in table.lines().enumerate() {
            let style = if index == 0 { Style::new().dimmed() } else { Style::new() };
            self.line(line.trim_end(), style);
        }
    }

    fn width(&self) -> usize {
        self.options.width.max(NARROWEST)
    }

    pub(crate) fn heading(&mut self, text: &str) {
        self.blank();
        self.wrapped(text, Style::new().bold());
    }

    pub(crate) fn blank(&mut self) {
        self.text.push('\n');
    }

    pub(crate) fn line(&mut self, text: &str, style: Style) {
        let text = printable(text);
        if self.options.colour && style != Style::new() {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{style}{text}{style:#}");
        } else {
            self.text.push_str(&text);
            self.text.push('\n');
        }
    }

    /// Breaks at blanks, with what follows indented.
    pub(crate) fn wrapped(&mut self, text: &str, style: Style) {
        const INDENT: &str = "  ";
        let width = self.width();
        let mut line = String::new();
        for word in text.split(' ').flat_map(|word| pieces(word, width - INDENT.len())) {
            if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                self.line(&line, style);
                line = INDENT.to_owned();
            }
            if !line.trim().is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        self.line(&line, style);
    }
}

/// A word cut into pieces that fit a line.
fn pieces(word: &str, length: usize) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    if characters.is_empty() {
        return vec![String::new()];
    }
    characters.chunks(length).map(|chunk| chunk.iter().collect()).collect()
}

fn row(cells: impl IntoIterator<Item = String>, right: &[usize]) -> Vec<Cell> {
    cells
        .into_iter()
        .enumerate()
        .map(|(index, text)| {
            let cell = Cell::new(printable(&text));
            if right.contains(&index) { cell.set_alignment(CellAlignment::Right) } else { cell }
        })
        .collect()
}

/// Names in a run may come from a file of somebody else: no control character reaches the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn significant_percent(level: f64) -> String {
    format!("{} %", (level * 1000.0).round() / 10.0)
}
