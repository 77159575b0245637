//! Callgrind's output: exact instruction counts of every call path, and how often functions were called.
//!
//! Run with `--separate-callers=N`, callgrind names a function together with its callers, as `leaf'caller'caller`; that is
//! a folded stack the other way round. Self costs only: what a call cost is counted where it was spent.

use std::collections::BTreeMap;

use crate::compare::Stacks;

/// What one process executed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Instructions by call path, outermost function first, separated by `;`.
    pub stacks: Stacks,
    /// How often each function was called, by its name.
    pub calls: BTreeMap<String, u64>,
}

/// Why text is not callgrind's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallgrindError {
    /// The first line is not callgrind's.
    #[error("not a callgrind file: the first line is not `# callgrind format`")]
    Format,
    /// A line that this reader does not understand.
    #[error("line {line}: `{text}` is not a callgrind line with one event")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// Its text.
        text: String,
    },
    /// The counts are not instructions.
    #[error("the events are `{events}`, expected `Ir` alone")]
    Events {
        /// What is counted.
        events: String,
    },
    /// The summary that ends a whole file is not there, or is not the sum of the lines.
    #[error("cut off: {found} instructions are in the file, its summary says {expected:?}")]
    CutOff {
        /// Sum of the lines.
        found: u64,
        /// The file's own sum.
        expected: Option<u64>,
    },
}

impl Counted {
    /// Instructions altogether.
    pub fn instructions(&self) -> u64 {
        self.stacks.values().sum()
    }

    /// Calls of the C library's functions that allocate.
    pub fn allocations(&self) -> u64 {
        const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];
        ALLOCATORS.iter().filter_map(|name| self.calls.get(*name)).sum()
    }

    /// What a process executed beyond what `shorter` did, call path by call path: setting up and tearing down, which both
    /// did, cancels. Where `shorter` did more, nothing is left.
    pub fn beyond(&self, shorter: &Self) -> Self {
        let minus = |all: &BTreeMap<String, u64>, less: &BTreeMap<String, u64>| {
            let left = |(name, n): (&String, &u64)| {
                let left = n.saturating_sub(less.get(name).copied().unwrap_or(0));
                (left > 0).then(|| (name.clone(), left))
            };
            all.iter().filter_map(left).collect()
        };
        Self { stacks: minus(&self.stacks, &shorter.stacks), calls: minus(&self.calls, &shorter.calls) }
    }
}

/// Reads the file that one process left.
///
/// # Errors
/// [`CallgrindError`] when it is not callgrind's, counts something else than instructions, or is cut off.
pub fn parse(text: &str) -> Result<Counted, CallgrindError> {
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, line)| line != "# callgrind format") {
        return Err(CallgrindError::Format);
    }
    let mut reader = Reader::default();
    for (index, line) in lines {
        reader.line(line).ok_or_else(|| CallgrindError::Line { line: index + 1, text: line.to_owned() })?;
        if let Some(events) = line.strip_prefix("events: ")
            && events.trim() != "Ir"
        {
            return Err(CallgrindError::Events { events: events.to_owned() });
        }
    }
    let found = reader.counted.instructions();
    match reader.totals {
        Some(total) if total == found => Ok(reader.counted),
        expected => Err(CallgrindError::CutOff { found, expected }),
    }
}

#[derive(Default)]
struct Reader {
    /// Names by number; a name stands in the file only once.
    names: BTreeMap<u64, String>,
    /// Call path of the function whose costs follow.
    stack: String,
    /// Leaf of the function that the next `calls=` line calls.
    callee: String,
    /// The next cost is that of a call, not of the function itself.
    inclusive: bool,
    totals: Option<u64>,
    counted: Counted,
}

impl Reader {
    /// `None` when the line is not understood.
    fn line(&mut self, line: &str) -> Option<()> {
        let line = line.trim_end();
        match line.as_bytes().first() {
            None | Some(b'#') => Some(()),
            Some(b'0'..=b'9' | b'+' | b'-' | b'*') => self.cost(line),
            _ => self.specification(line),
        }
    }

    fn specification(&mut self, line: &str) -> Option<()> {
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "fn" => self.stack = outermost_first(&self.name(value)?),
                "cfn" => {
                    let name = self.name(value)?;
                    self.callee = name.split('\'').next().unwrap_or_default().to_owned();
                }
                "calls" => {
                    let calls: u64 = value.split(' ').next()?.parse().ok()?;
                    *self.counted.calls.entry(self.callee.clone()).or_default() += calls;
                    self.inclusive = true;
                }
                "fl" | "fi" | "fe" | "ob" | "cfi" | "cfl" | "cob" | "jump" | "jcnd" => {}
                // A header such as `cmd: … --x=y`.
                _ if key.contains(':') => {}
                _ => return None,
            }
            return Some(());
        }
        let (key, value) = line.split_once(':')?;
        if key == "totals" {
            self.totals = Some(value.trim().parse().ok()?);
        }
        Some(())
    }

    /// `(number) name` or `(number)`, or a bare name.
    fn name(&mut self, value: &str) -> Option<String> {
        let Some(rest) = value.strip_prefix('(') else { return Some(value.to_owned()) };
        let (number, name) = rest.split_once(')')?;
        let number: u64 = number.parse().ok()?;
        match name.strip_prefix(' ') {
            Some(name) => {
                self.names.insert(number, name.to_owned());
                Some(name.to_owned())
            }
            None => self.names.get(&number).cloned(),
        }
    }

    fn cost(&mut self, line: &str) -> Option<()> {
        let mut fields = line.split(' ');
        fields.next()?;
        // Trailing zeros are left out.
        let cost: u64 = fields.next().map_or(Some(0), |cost| cost.parse().ok())?;
        if fields.next().is_some() {
            return None;
        }
        if !std::mem::take(&mut self.inclusive) && cost > 0 {
            let sum = self.counted.stacks.entry(self.stack.clone()).or_default();
            *sum = sum.checked_add(cost)?;
        }
        Some(())
    }
}

/// `leaf'caller'caller` as `caller;caller;leaf`. Recursion levels (`leaf'2`) are dropped.
fn outermost_first(name: &str) -> String {
    let frames = name.split('\'').filter(|frame| !frame.bytes().all(|byte| byte.is_ascii_digit()));
    // A folded stack separates frames by `;` and the weight by a blank at the end, so only `;` is in the way.
    let mut frames: Vec<String> = frames.map(|frame| frame.replace(';', ",")).collect();
    frames.reverse();
    frames.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TEST DATA in the format of callgrind 3.19: main calls work three times, work allocates once each.
    const FILE: &str = "# callgrind format\nversion: 1\ncreator: callgrind-3.19.0\npid: 7\ncmd: ./x --a=b\npart: 1\n\n\
        desc: Trigger: Program termination\n\npositions: line\nevents: Ir\nsummary: 61\n\n\n\
        ob=(1) /x\nfl=(1) main.rs\nfn=(1) main\n16 4\n+1 2\ncfn=(2) work'main\ncalls=3 30 \n+1 55\n\n\
        fn=(2)\n30 15\nfi=(3) core.rs\n* 10\nfe=(1)\ncob=(2) libc\ncfi=(4) malloc.c\ncfn=(3) malloc'work'main\ncalls=3 9\n31 30\n\n\
        fn=(3)\n9 30\n\ntotals: 61\n";

    #[test]
    fn self_costs_by_call_path_and_calls_by_function() {
        let counted = parse(FILE).unwrap();
        let expected = [("main", 6), ("main;work", 25), ("main;work;malloc", 30)];
        assert_eq!(counted.stacks, expected.map(|(stack, n)| (stack.to_owned(), n)).into());
        assert_eq!((counted.instructions(), counted.allocations()), (61, 3));
        assert_eq!(counted.calls["work"], 3);
    }

    #[test]
    fn what_both_did_cancels() {
        let (long, short) = (parse(FILE).unwrap(), parse(FILE).unwrap());
        assert_eq!(long.beyond(&short), Counted::default());
        let mut more = long.clone();
        *more.stacks.get_mut("main;work").unwrap() += 5;
        assert_eq!(more.beyond(&short).stacks, [("main;work".to_owned(), 5)].into());
    }

    #[test]
    fn damage_is_refused() {
        assert_eq!(parse("fn=(1) main"), Err(CallgrindError::Format));
        for length in (20..FILE.len() - 1).filter(|length| FILE.is_char_boundary(*length)) {
            assert!(parse(&FILE[..length]).is_err(), "accepted {length} bytes");
        }
        let two = FILE.replace("events: Ir", "events: Ir Dr");
        assert!(matches!(parse(&two), Err(CallgrindError::Events { .. })));
        let other = FILE.replace("9 30\n", "9 31\n");
        assert_eq!(parse(&other), Err(CallgrindError::CutOff { found: 62, expected: Some(61) }));
        let strange = FILE.replace("calls=3 9\n", "calls=x\n");
        assert!(matches!(parse(&strange), Err(CallgrindError::Line { .. })));
    }
}
