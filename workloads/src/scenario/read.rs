//! From TOML text, or a `--set` argument, to a [`Scenario`].

use std::{collections::BTreeMap, fs::File, io::Read as _, ops::Range, path::Path, time::Duration};

use jiff::SignedDuration;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Axis, Endpoint, Machine, Nearest, Place, Scenario, ScenarioError, Test,
    keys::{Accepts, KEYS, Key, find},
    value::{Value, parse_int},
};
use crate::dma::Mode;

/// Longest scenario file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest summary, in bytes.
const MAX_SUMMARY_BYTES: usize = 400;
/// Most values of one key.
const MAX_VALUES: usize = 256;
const DEFAULT_DURATION: Duration = Duration::from_secs(5);
const DEFAULT_SEED: u64 = 1;
const LONGEST_DURATION: Duration = Duration::from_secs(24 * 3600);

const TOP_KEYS: [&str; 9] =
    ["name", "summary", "machine", "tests", "modes", "endpoints", "duration", "seed", "params"];
const DURATION_ACCEPTED: &str = "a time such as 500ms, 10s or 2m, more than zero and at most 24h";

/// Reads `500ms`, `10s`, `2m`; zero, negative and over a day are refused (`None`).
pub fn parse_duration(text: &str) -> Option<Duration> {
    let signed: SignedDuration = text.trim().parse().ok()?;
    Duration::try_from(signed).ok().filter(|time| !time.is_zero() && *time <= LONGEST_DURATION)
}

/// A value as it was written, and where.
#[derive(Clone, Debug)]
struct Raw {
    text: String,
    place: Place,
    is_text: bool,
}

pub(super) fn load(path: &Path) -> Result<Scenario, ScenarioError> {
    let source = path.display().to_string();
    let place = Place { source: source.as_str().into(), line: None };
    let unreadable =
        |error: std::io::Error| ScenarioError::Unreadable { place: place.clone(), reason: error.to_string() };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    scenario(&source, &text)
}

pub(super) fn scenario(source: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let place = Place { source: source.into(), line: None };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ScenarioError::TooLong { place, limit: MAX_FILE_BYTES });
    }
    let reader = Reader { source, text };
    let table = DeTable::parse(text).map_err(|error| ScenarioError::Syntax {
        place: error.span().map_or_else(|| place.clone(), |span| reader.place(span)),
        reason: error.message().to_owned(),
    })?;
    let mut scenario = blank(place.clone(), text);
    let mut seen = Vec::new();
    for (key, value) in in_order(table.get_ref()) {
        let name = key.get_ref().as_ref();
        seen.push(name.to_owned());
        if name == "params" {
            reader.params(&mut scenario, value)?;
        } else if TOP_KEYS.contains(&name) {
            top(&mut scenario, name, &reader.list(name, value)?)?;
        } else {
            return Err(unknown_key(reader.place(key.span()), name, &TOP_KEYS));
        }
    }
    for key in ["name", "tests", "modes"] {
        if !seen.iter().any(|name| name == key) {
            return Err(ScenarioError::Missing { place, key });
        }
    }
    Ok(scenario)
}

fn blank(place: Place, text: &str) -> Scenario {
    Scenario {
        name: String::new(),
        summary: String::new(),
        machine: Machine::Local,
        tests: Vec::new(),
        modes: Vec::new(),
        endpoints: vec![Endpoint::Emulated],
        duration: DEFAULT_DURATION,
        seed: DEFAULT_SEED,
        text: text.to_owned(),
        place,
        axes: BTreeMap::new(),
    }
}

pub(super) fn set(scenario: &mut Scenario, argument: &str) -> Result<(), ScenarioError> {
    let malformed = || ScenarioError::Set { argument: argument.to_owned() };
    let (key, value) = argument.split_once('=').ok_or_else(malformed)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || value.is_empty() {
        return Err(malformed());
    }
    let place = Place { source: "--set".into(), line: None };
    let inner = value.strip_prefix('[').and_then(|value| value.strip_suffix(']')).unwrap_or(value);
    let raw = |text: &str| Raw {
        text: text.trim().trim_matches('"').to_owned(),
        place: place.clone(),
        is_text: true,
    };
    let values: Vec<Raw> = inner.split(',').map(raw).collect();
    if let Some((test, name)) = key.split_once('.') {
        let test = test_named(&place, test)?;
        return axis(scenario, Some(test), name, &place, &values);
    }
    if ["machine", "tests", "modes", "endpoints", "duration", "seed"].contains(&key) {
        return top(scenario, key, &values);
    }
    axis(scenario, None, key, &place, &values)?;
    // What is set for all tests holds for all of them, whatever the file says about one.
    scenario.axes.retain(|(test, name), _| test.is_none() || *name != key);
    Ok(())
}

/// Keys other than `params`.
fn top(scenario: &mut Scenario, key: &str, values: &[Raw]) -> Result<(), ScenarioError> {
    match key {
        "name" => scenario.name = text(key, values, MAX_NAME_BYTES)?,
        "summary" => scenario.summary = text(key, values, MAX_SUMMARY_BYTES)?,
        "machine" => scenario.machine = one(key, words(key, values, &Machine::ALL, Machine::name)?, values)?,
        "tests" => scenario.tests = words(key, values, &Test::ALL, Test::name)?,
        "modes" => scenario.modes = words(key, values, &Mode::ALL, Mode::name)?,
        "endpoints" => scenario.endpoints = words(key, values, &Endpoint::ALL, Endpoint::name)?,
        "duration" => {
            let raw = one(key, values.to_vec(), values)?;
            let time = parse_duration(&raw.text);
            scenario.duration = time.ok_or_else(|| refused(key, &raw, DURATION_ACCEPTED.to_owned()))?;
        }
        _ => {
            let raw = one(key, values.to_vec(), values)?;
            let seed = raw.text.parse().ok();
            scenario.seed =
                seed.ok_or_else(|| refused(key, &raw, "a whole number from 0 to 2^64-1".to_owned()))?;
        }
    }
    Ok(())
}

fn refused(key: &str, raw: &Raw, accepted: String) -> ScenarioError {
    let (key, found) = (key.to_owned(), shorten(&raw.text));
    ScenarioError::Value { place: raw.place.clone(), key, found, accepted, nearest: Nearest(None) }
}

/// A value that is quoted in an error, without the megabyte it may have.
fn shorten(text: &str) -> String {
    let mut short: String =
        text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if short.len() < text.len() && text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

fn text(key: &str, values: &[Raw], longest: usize) -> Result<String, ScenarioError> {
    let raw = one(key, values.to_vec(), values)?;
    let fits = raw.is_text && (1..=longest).contains(&raw.text.len()) && !raw.text.contains(char::is_control);
    if fits { Ok(raw.text) } else { Err(refused(key, &raw, format!("one line of 1 to {longest} bytes"))) }
}

fn one<T>(key: &str, mut items: Vec<T>, values: &[Raw]) -> Result<T, ScenarioError> {
    match (items.len(), items.pop()) {
        (1, Some(item)) => Ok(item),
        _ => {
            let place =
                values.first().map_or(Place { source: key.into(), line: None }, |raw| raw.place.clone());
            let found = format!("{} values", values.len());
            let accepted = "one value".to_owned();
            Err(ScenarioError::Value { place, key: key.to_owned(), found, accepted, nearest: Nearest(None) })
        }
    }
}

fn words<T: Copy + PartialEq>(
    key: &str,
    values: &[Raw],
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, ScenarioError> {
    let mut chosen = Vec::new();
    for raw in values {
        let Some(item) = all.iter().copied().find(|item| name(*item) == raw.text) else {
            let names: Vec<&str> = all.iter().map(|item| name(*item)).collect();
            return Err(ScenarioError::Value {
                place: raw.place.clone(),
                key: key.to_owned(),
                found: shorten(&raw.text),
                accepted: format!("one of {}", names.join(", ")),
                nearest: Nearest::of(&raw.text, names),
            });
        };
        if chosen.contains(&item) {
            return Err(duplicate(key, raw));
        }
        chosen.push(item);
    }
    Ok(chosen)
}

fn duplicate(key: &str, raw: &Raw) -> ScenarioError {
    ScenarioError::Duplicate { place: raw.place.clone(), key: key.to_owned(), value: shorten(&raw.text) }
}

fn test_named(place: &Place, name: &str) -> Result<Test, ScenarioError> {
    let names = Test::ALL.map(Test::name);
    let found = Test::ALL.into_iter().find(|test| test.name() == name);
    found.ok_or_else(|| unknown_key(place.clone(), name, &names))
}

fn unknown_key(place: Place, key: &str, known: &[&str]) -> ScenarioError {
    let nearest = Nearest::of(key, known.iter().copied());
    ScenarioError::UnknownKey { place, key: shorten(key), nearest, known: known.join(", ") }
}

/// Sets one parameter, for one test or for all.
fn axis(
    scenario: &mut Scenario,
    test: Option<Test>,
    name: &str,
    place: &Place,
    values: &[Raw],
) -> Result<(), ScenarioError> {
    let Some(key) = find(name) else {
        let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        return Err(unknown_key(place.clone(), name, &known));
    };
    let mut accepted = Vec::new();
    for raw in values {
        let value = accept(key, raw)?;
        if accepted.contains(&value) {
            return Err(duplicate(name, raw));
        }
        accepted.push(value);
    }
    scenario.axes.insert((test, key.name), Axis { values: accepted, place: place.clone() });
    Ok(())
}

fn accept(key: &Key, raw: &Raw) -> Result<Value, ScenarioError> {
    let value = match key.accepts {
        Accepts::Word(_) => Some(Value::Text(raw.text.clone())),
        Accepts::Float(..) => raw.text.parse().ok().map(Value::Float),
        Accepts::Int(..)
        | Accepts::PowerOfTwo(..)
        | Accepts::ZeroOrPowerOfTwo(..)
        | Accepts::Multiple(..) => parse_int(&raw.text).map(Value::Int),
    };
    value.filter(|value| key.accepts.takes(value)).ok_or_else(|| {
        let nearest = match key.accepts {
            Accepts::Word(words) => Nearest::of(&raw.text, words.iter().copied()),
            _ => Nearest(None),
        };
        let (key, accepted) = (key.name.to_owned(), key.accepts.to_string());
        ScenarioError::Value { place: raw.place.clone(), key, found: shorten(&raw.text), accepted, nearest }
    })
}

/// Entries as they stand in the file, so that the first error is reported first.
fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

struct Reader<'a> {
    source: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count();
        // A scenario is at most MAX_FILE_BYTES long.
        Place { source: self.source.into(), line: Some(before as u32 + 1) }
    }

    fn raw(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Raw, ScenarioError> {
        let place = self.place(value.span());
        let (text, is_text) = match value.get_ref() {
            DeValue::String(text) => (text.to_string(), true),
            DeValue::Integer(n) => (decimal(n.as_str(), n.radix()), false),
            DeValue::Float(x) => (x.as_str().to_owned(), false),
            DeValue::Boolean(b) => (b.to_string(), false),
            other => (format!("({})", other.type_str()), false),
        };
        if matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_)) {
            let raw = Raw { text, place, is_text };
            return Err(refused(key, &raw, "a value, or a list of values".to_owned()));
        }
        Ok(Raw { text, place, is_text })
    }

    /// A value, or a list of at least one.
    fn list(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<Raw>, ScenarioError> {
        let DeValue::Array(items) = value.get_ref() else { return Ok(vec![self.raw(key, value)?]) };
        if items.is_empty() || items.len() > MAX_VALUES {
            let raw = Raw {
                text: format!("{} values", items.len()),
                place: self.place(value.span()),
                is_text: false,
            };
            return Err(refused(key, &raw, format!("1 to {MAX_VALUES} values")));
        }
        items.iter().map(|item| self.raw(key, item)).collect()
    }

    /// `[params]`, and within it `[params.TEST]`.
    fn params(&self, scenario: &mut Scenario, value: &Spanned<DeValue<'_>>) -> Result<(), ScenarioError> {
        for (key, value) in in_order(self.table("params", value)?) {
            let name = key.get_ref().as_ref();
            if let Some(test) = Test::ALL.into_iter().find(|test| test.name() == name) {
                for (key, value) in in_order(self.table(name, value)?) {
                    self.param(scenario, Some(test), key, value)?;
                }
            } else {
                self.param(scenario, None, key, value)?;
            }
        }
        Ok(())
    }

    fn param(
        &self,
        scenario: &mut Scenario,
        test: Option<Test>,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ScenarioError> {
        let (name, place) = (key.get_ref().as_ref(), self.place(key.span()));
        if find(name).is_none() {
            let known: Vec<&str> = KEYS.iter().map(|key| key.name).chain(Test::ALL.map(Test::name)).collect();
            return Err(unknown_key(place, name, &known));
        }
        axis(scenario, test, name, &place, &self.list(name, value)?)
    }

    fn table<'t, 'i>(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Result<&'t DeTable<'i>, ScenarioError> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            other => {
                let raw = Raw {
                    text: format!("({})", other.type_str()),
                    place: self.place(value.span()),
                    is_text: false,
                };
                Err(refused(key, &raw, "a table".to_owned()))
            }
        }
    }
}

/// An integer as written in hexadecimal, octal or binary, in decimal; as written when it does not fit.
fn decimal(digits: &str, radix: u32) -> String {
    let unprefixed = digits.trim_start_matches('+');
    u64::from_str_radix(unprefixed, radix).map_or_else(|_| digits.to_owned(), |value| value.to_string())
}
