//! Where the difference lies: two profiles as folded stacks, their differential flame graph, and the functions that grew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use inferno::differential::{self, Options as DiffOptions};
use inferno::flamegraph::{self, Options as FlameOptions};

/// Stacks, outermost frame first, frames separated by `;`, each with its own weight.
pub type Stacks = BTreeMap<String, u64>;

/// A differential flame graph and what it shows.
#[derive(Clone, Debug)]
pub struct Flame {
    /// The graph: widths are head's, red frames grew, blue ones shrank.
    pub svg: String,
    /// What the weights are, such as `instructions per packet`.
    pub weights: String,
    /// Functions by how much their own weight changed, largest change first.
    pub grown: Vec<Grown>,
}

/// How one function's own weight changed, in all stacks together.
#[derive(Clone, Debug, PartialEq)]
pub struct Grown {
    /// The function.
    pub function: String,
    /// Its own weight in base.
    pub base: u64,
    /// Its own weight in head.
    pub head: u64,
    /// The change as a share of all of base's weight.
    pub share: f64,
}

impl Grown {
    /// The function, marked where only one side has it.
    pub fn label(&self) -> String {
        match (self.base, self.head) {
            (0, _) => format!("{} (new)", self.function),
            (_, 0) => format!("{} (gone)", self.function),
            _ => self.function.clone(),
        }
    }
}

/// Why there is no graph.
#[derive(Debug, thiserror::Error)]
pub enum FlameError {
    /// No samples.
    #[error("{side}'s profile is empty")]
    Empty {
        /// `base` or `head`.
        side: &'static str,
    },
    /// Not folded stacks.
    #[error("the differential flame graph could not be made: {0}")]
    Graph(String),
}

/// Reads folded stacks: lines of `frame;frame;frame weight`.
///
/// # Errors
/// The number of the first line that is none.
pub fn parse(text: &str) -> Result<Stacks, usize> {
    let mut stacks = Stacks::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let (stack, weight) = line.rsplit_once(' ').ok_or(index + 1)?;
        let weight: u64 = weight.parse().map_err(|_| index + 1)?;
        let sum = stacks.entry(stack.to_owned()).or_default();
        *sum = sum.saturating_add(weight);
    }
    Ok(stacks)
}

/// The differential flame graph of two profiles.
///
/// # Errors
/// [`FlameError`] when a profile is empty or the graph cannot be drawn.
pub fn differential(base: &Stacks, head: &Stacks, weights: &str) -> Result<Flame, FlameError> {
    for (side, stacks) in [("base", base), ("head", head)] {
        if stacks.values().all(|weight| *weight == 0) {
            return Err(FlameError::Empty { side });
        }
    }
    let failed = |error: &dyn std::fmt::Display| FlameError::Graph(error.to_string());
    let mut lines = Vec::new();
    let (before, after) = (folded(base), folded(head));
    differential::from_readers(DiffOptions::default(), before.as_bytes(), after.as_bytes(), &mut lines)
        .map_err(|error| failed(&error))?;
    let mut options = FlameOptions::default();
    options.title = format!("Differential flame graph: {weights}");
    options.count_name = weights.to_owned();
    options.no_javascript = true;
    options.deterministic = true;
    options.image_width = Some(840);
    options.min_width = 0.05;
    let mut svg = Vec::new();
    flamegraph::from_reader(&mut options, lines.as_slice(), &mut svg).map_err(|error| failed(&error))?;
    let svg = String::from_utf8(svg).map_err(|error| failed(&error))?;
    Ok(Flame { svg: still(svg), weights: weights.to_owned(), grown: grown(base, head) })
}

/// The graph without what its script would use: variables, a handler, and labels of buttons.
fn still(mut svg: String) -> String {
    for (from, to) in [
        ("<script", "</script>"),
        (" onload=\"", "\""),
        ("<text id=\"unzoom\"", "</text>"),
        ("<text id=\"search\"", "</text>"),
        ("<text id=\"matched\"", "</text>"),
    ] {
        let Some(start) = svg.find(from) else { continue };
        let inner = start + from.len();
        let Some(end) = svg[inner..].find(to) else { continue };
        svg.replace_range(start..inner + end + to.len(), "");
    }
    svg
}

/// As a profile's file has it.
pub fn folded(stacks: &Stacks) -> String {
    let mut text = String::new();
    for (stack, weight) in stacks.iter().filter(|(_, weight)| **weight > 0) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{stack} {weight}");
    }
    text
}

fn grown(base: &Stacks, head: &Stacks) -> Vec<Grown> {
    let own = |stacks: &Stacks| {
        let mut own: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, weight) in stacks {
            let function = stack.rsplit_once(';').map_or(stack.as_str(), |(_, last)| last);
            *own.entry(function.to_owned()).or_default() += weight;
        }
        own
    };
    let (of_base, of_head) = (own(base), own(head));
    let total: u64 = of_base.values().sum();
    let functions: BTreeSet<&String> = of_base.keys().chain(of_head.keys()).collect();
    let mut grown: Vec<Grown> = functions
        .into_iter()
        .map(|function| {
            let weight = |own: &BTreeMap<String, u64>| own.get(function).copied().unwrap_or(0);
            let (base, head) = (weight(&of_base), weight(&of_head));
            let share = (head as f64 - base as f64) / total as f64;
            Grown { function: function.clone(), base, head, share }
        })
        .filter(|grown| grown.base != grown.head)
        .collect();
    grown.sort_by(|a, b| b.share.abs().total_cmp(&a.share.abs()).then_with(|| a.function.cmp(&b.function)));
    grown
}
