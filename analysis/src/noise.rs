//! Recorded noise: what one build showed in process after process, slice by slice.
//!
//! The format, `iommu-bench/noise/1`, is lines of text. Comments begin with `#`; the first line names the schema. A line
//! `case<TAB>metric` introduces a series, in order; after the line `processes`, every line is one process in the order in
//! which they ran: for each series, separated by tabs, its slices, separated by commas.

use crate::paired::typical;
use iommu_results::metric::{self, Direction, UnknownName};

/// First line of the format.
pub const SCHEMA: &str = "# iommu-bench/noise/1";

/// Processes of one build, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    /// Case and metric of each series.
    pub series: Vec<(String, String)>,
    /// For each process, for each series, the slices.
    pub processes: Vec<Vec<Vec<f64>>>,
}

/// Why text is no recorded noise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoiseError {
    /// Another schema, or none.
    #[error("the first line is not `{SCHEMA}`")]
    Schema,
    /// A line that is not understood.
    #[error("line {line}: {what}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// No series or no process.
    #[error("{series} series and {processes} processes are recorded: too little to draw from")]
    Little {
        /// How many series.
        series: usize,
        /// How many processes.
        processes: usize,
    },
}

impl Noise {
    /// Reads the format.
    ///
    /// # Errors
    /// [`NoiseError`] naming the line.
    pub fn parse(text: &str) -> Result<Self, NoiseError> {
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, line)| line != SCHEMA) {
            return Err(NoiseError::Schema);
        }
        let mut lines = lines.filter(|(_, line)| !line.starts_with('#') && !line.is_empty());
        let mut noise = Self { series: Vec::new(), processes: Vec::new() };
        for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "processes") {
            let (case, metric) = line.split_once('\t').unwrap_or((line, ""));
            noise.series.push((case.to_owned(), metric.to_owned()));
        }
        for (index, line) in lines {
            let process = noise.process(line).map_err(|what| NoiseError::Line { line: index + 1, what })?;
            noise.processes.push(process);
        }
        if noise.series.is_empty() || noise.processes.len() < 64 {
            return Err(NoiseError::Little { series: noise.series.len(), processes: noise.processes.len() });
        }
        Ok(noise)
    }

    fn process(&self, line: &str) -> Result<Vec<Vec<f64>>, &'static str> {
        let slices = |text: &str| -> Result<Vec<f64>, &'static str> {
            let values: Result<Vec<f64>, _> = text.split(',').map(str::parse).collect();
            let values = values.map_err(|_| "a slice is not a number")?;
            let sound = values.iter().all(|value| value.is_finite() && *value > 0.0);
            if sound { Ok(values) } else { Err("a slice is not a finite number above zero") }
        };
        let process = line.split('\t').map(slices).collect::<Result<Vec<_>, _>>()?;
        if process.len() == self.series.len() {
            Ok(process)
        } else {
            Err("not as many series as were introduced")
        }
    }

    /// As [`Noise::parse`] reads it, with four significant digits, which is far below the noise.
    pub fn to_text(&self, comment: &str) -> String {
        let mut text = format!("{SCHEMA}\n");
        comment.lines().for_each(|line| text.push_str(&format!("# {line}\n")));
        self.series.iter().for_each(|(case, metric)| text.push_str(&format!("{case}\t{metric}\n")));
        text.push_str("processes\n");
        for process in &self.processes {
            let series: Vec<String> = process
                .iter()
                .map(|slices| {
                    slices.iter().map(|value| format!("{}", rounded(*value))).collect::<Vec<_>>().join(",")
                })
                .collect();
            text.push_str(&series.join("\t"));
            text.push('\n');
        }
        text
    }

    /// Direction of each series.
    ///
    /// # Errors
    /// [`UnknownName`] for a series without a row in the metric table.
    pub fn directions(&self) -> Result<Vec<Direction>, UnknownName> {
        self.series.iter().map(|(_, name)| metric::series(name).map(|row| row.direction)).collect()
    }

    /// What stands for each process, by series.
    ///
    /// # Errors
    /// As [`Noise::directions`].
    pub fn typical(&self) -> Result<Vec<Vec<f64>>, UnknownName> {
        let directions = self.directions()?;
        let one = |process: &Vec<Vec<f64>>| {
            // A process has at least one slice of each series: an empty field is not a number.
            let of = |(direction, slices): (&Direction, &Vec<f64>)| {
                typical(*direction, slices).unwrap_or(f64::NAN)
            };
            directions.iter().zip(process).map(of).collect()
        };
        Ok(self.processes.iter().map(one).collect())
    }
}

fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Noise {
        let process = |i: usize| vec![vec![1.0 + i as f64, 2.0], vec![3.5, 4e9]];
        let series = [("a", "request_service"), ("a", "throughput")];
        Noise {
            series: series.map(|(case, metric)| (case.to_owned(), metric.to_owned())).into(),
            processes: (0..64).map(process).collect(),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let text = sample().to_text("TEST DATA");
        assert_eq!(Noise::parse(&text).unwrap(), sample());
        assert_eq!(sample().typical().unwrap()[9], [2.0, 4e9], "the better half of each");
    }

    #[test]
    fn damage_is_refused() {
        let text = sample().to_text("TEST DATA");
        assert_eq!(Noise::parse(&text[1..]), Err(NoiseError::Schema));
        for (old, new) in [("3.5,", "NaN,"), ("3.5,", "-3.5,"), ("3.5,", "x,"), ("\t3.5", "")] {
            assert!(
                matches!(Noise::parse(&text.replacen(old, new, 1)), Err(NoiseError::Line { .. })),
                "{new}"
            );
        }
        let few: String = text.lines().take(20).map(|line| format!("{line}\n")).collect();
        assert!(matches!(Noise::parse(&few), Err(NoiseError::Little { series: 2, .. })));
    }
}
