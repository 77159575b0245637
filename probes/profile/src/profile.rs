//! What was sampled, by stack.

use std::{collections::BTreeMap, fmt::Write as _};

use inferno::flamegraph::{self, Options, color::Palette};

use crate::ProfileError;

/// Whether a profile has kernel stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelStacks {
    /// It has.
    Recorded,
    /// Nobody asked for them.
    NotAsked,
    /// The kernel does not give them; time in the kernel is absent from the profile.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A profile with names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `cycles` or `cpu-clock`.
    pub event: &'static str,
    /// Samples a second and CPU that were asked for.
    pub frequency_hz: u32,
    /// Whether kernel stacks are in it.
    pub kernel: KernelStacks,
    /// Samples taken.
    pub samples: u64,
    /// Samples that the kernel had no room for.
    pub lost: u64,
    /// Times the kernel paused sampling, because it took too long.
    pub throttled: u64,
    /// Records that could not be read.
    pub unreadable: u64,
    /// Samples by stack: names joined by `;`, outermost first.
    pub stacks: BTreeMap<String, u64>,
}

impl Profile {
    /// The stacks in the folded form that flame graph tools read: a line each, its count last.
    pub fn folded(&self) -> String {
        let mut text = String::new();
        for (stack, samples) in &self.stacks {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{stack} {samples}");
        }
        text
    }

    /// One sentence about what the profile is.
    pub fn describe(&self) -> String {
        let kernel = match &self.kernel {
            KernelStacks::Recorded => "kernel and user stacks".to_owned(),
            KernelStacks::NotAsked => "user stacks only".to_owned(),
            KernelStacks::Refused { reason } => format!("user stacks only ({reason})"),
        };
        let mut text =
            format!("{} samples of {} at {} Hz, {kernel}", self.samples, self.event, self.frequency_hz);
        for (count, what) in
            [(self.lost, "lost"), (self.throttled, "times throttled"), (self.unreadable, "unreadable")]
        {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text
    }

    /// Functions by the samples in which they were running themselves, most first.
    pub fn hottest(&self, most: usize) -> Vec<(&str, u64)> {
        let mut own: BTreeMap<&str, u64> = BTreeMap::new();
        for (stack, samples) in &self.stacks {
            *own.entry(stack.rsplit(';').next().unwrap_or(stack)).or_default() += samples;
        }
        let mut own: Vec<_> = own.into_iter().collect();
        own.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        own.truncate(most);
        own
    }

    /// A flame graph as one SVG that loads nothing from outside. `None` when nothing was sampled.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self, title: &str) -> Result<Option<String>, ProfileError> {
        if self.stacks.is_empty() {
            return Ok(None);
        }
        let mut options = Options::default();
        options.title = title.to_owned();
        options.subtitle = Some(self.describe());
        options.colors = Palette::Multi(flamegraph::color::MultiPalette::Rust);
        options.deterministic = true;
        options.image_width = Some(1200);
        options.min_width = 0.1;
        let folded = self.folded();
        let mut svg = Vec::new();
        flamegraph::from_lines(&mut options, folded.lines(), &mut svg).map_err(ProfileError::Draw)?;
        Ok(Some(String::from_utf8_lossy(&svg).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            event: "cpu-clock",
            frequency_hz: 99,
            kernel: KernelStacks::Recorded,
            samples: 4,
            lost: 2,
            throttled: 0,
            unreadable: 0,
            stacks: BTreeMap::from([("main;a<T>;b".to_owned(), 3), ("main;sys_read_[k]".to_owned(), 1)]),
        }
    }

    #[test]
    fn folded_stacks_and_flame_graph_say_the_same() {
        let profile = profile();
        assert_eq!(profile.folded(), "main;a<T>;b 3\nmain;sys_read_[k] 1\n");
        let svg = profile.svg("a run").unwrap().unwrap();
        for text in ["a run", "a&lt;T&gt; (3 samples, 75.00%)", "sys_read", "2 lost"] {
            assert!(svg.contains(text), "{text} is not in\n{svg}");
        }
        assert_eq!(profile.hottest(1), [("b", 3)]);
        assert_eq!(profile.describe(), "4 samples of cpu-clock at 99 Hz, kernel and user stacks, 2 lost");
    }

    #[test]
    fn nothing_sampled_is_no_picture() {
        let empty = Profile { stacks: BTreeMap::new(), ..profile() };
        assert_eq!(empty.svg("x").unwrap(), None);
        assert_eq!(empty.folded(), "");
    }
}
