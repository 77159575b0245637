//! Latency histograms at full resolution, and the summaries that `run.json` carries.

use std::io::Read;

use flate2::read::ZlibDecoder;
use hdrhistogram::serialization::{DeserializeError, Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// The largest value that is kept apart: two hours in nanoseconds. Anything above is recorded as this.
pub const HIGHEST_NS: u64 = 2 * 3600 * 1_000_000_000;

/// Why bytes are no histogram, or a histogram could not be turned into bytes.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// Not an HdrHistogram V2 payload, or cut off.
    #[error("not a readable HdrHistogram: {0:?}")]
    Decode(hdrhistogram::serialization::DeserializeError),
    /// It claims more than is read.
    #[error("not a readable HdrHistogram: its header claims more {what} than {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// As much as is accepted, in the same unit.
        limit: u64,
    },
    /// Compression failed.
    #[error("the histogram cannot be written: {0}")]
    Encode(hdrhistogram::serialization::V2DeflateSerializeError),
}

/// Values in nanoseconds, three significant digits, from 1 ns to [`HIGHEST_NS`].
///
/// A recording is an index computation and an addition. Merging is lossless, so each thread or slice may have its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        // The constructor refuses only a highest value below twice the lowest or more than five digits: constants here.
        #[allow(clippy::expect_used, reason = "constant arguments, checked by a test")]
        let inner =
            hdrhistogram::Histogram::new_with_bounds(1, HIGHEST_NS, 3).expect("constant bounds are valid");
        Self(inner)
    }

    /// Records one value in nanoseconds; above [`HIGHEST_NS`] it saturates.
    pub fn record(&mut self, value_ns: u64) {
        self.0.saturating_record(value_ns);
    }

    /// Records `count` operations that took `value_ns` each.
    pub fn record_n(&mut self, value_ns: u64, count: u64) {
        self.0.saturating_record_n(value_ns, count);
    }

    /// Adds every value of `other`.
    pub fn merge(&mut self, other: &Self) {
        for value in other.0.iter_recorded() {
            self.0.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
    }

    /// Forgets every value, keeps the memory.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// No value was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value in nanoseconds at or below which `quantile` (0 to 1) of the values lie; `None` when empty.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        (!self.is_empty()).then(|| self.0.value_at_quantile(quantile.clamp(0.0, 1.0)))
    }

    /// Every recorded value in nanoseconds, ascending, with how often it was recorded. Values within one step of the
    /// histogram are all given as the step's upper end.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }

    /// The figures for `run.json`, or `None` when nothing was recorded: a latency that does not exist is not 0.
    pub fn summary(&self) -> Option<HistogramSummary> {
        if self.is_empty() {
            return None;
        }
        let at = |quantile| self.0.value_at_quantile(quantile);
        Some(HistogramSummary {
            unit: crate::names::NANOSECONDS.to_owned(),
            count: self.0.len(),
            min: self.0.min(),
            mean: self.0.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: self.0.max(),
        })
    }

    /// HdrHistogram's V2 encoding, deflated: what other HdrHistogram tools read.
    ///
    /// # Errors
    /// [`HistogramError::Encode`] when the compressor fails.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HistogramError> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).map_err(HistogramError::Encode)?;
        Ok(bytes)
    }

    /// Reads V2 or deflated V2.
    ///
    /// # Errors
    /// [`HistogramError::Decode`] when the bytes are neither, or are cut off.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HistogramError> {
        let inflated = inflate(bytes)?;
        let mut bytes = inflated.as_deref().unwrap_or(bytes);
        check_claims(bytes)?;
        Deserializer::new().deserialize(&mut bytes).map(Self).map_err(HistogramError::Decode)
    }
}

/// Bytes before the payload of a V2 histogram: cookie, payload length, offset, digits, lowest, highest, ratio.
const V2_HEADER_BYTES: usize = 40;
/// The payload of a deflated one follows its cookie and length.
const DEFLATED_HEADER_BYTES: usize = 8;
const V2_COOKIE: u32 = 0x1c84_9303 | 0x10;
const V2_DEFLATED_COOKIE: u32 = 0x1c84_9304 | 0x10;
/// Significant digits of a histogram that is read. Five would take 100 MB of counters.
const MAX_DIGITS: u32 = 4;
/// The largest histogram that is read, inflated: each of its counters as the nine bytes that its encoding can take.
const MAX_INFLATED_BYTES: u64 = V2_HEADER_BYTES as u64 + 9 * (1 << 20);

/// A big-endian number at `at`; `None` where the bytes end before it.
fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The V2 histogram within a deflated one, `None` if the bytes are something else.
fn inflate(bytes: &[u8]) -> Result<Option<Vec<u8>>, HistogramError> {
    if be_u32(bytes, 0) != Some(V2_DEFLATED_COOKIE) {
        return Ok(None);
    }
    let deflated = bytes.get(DEFLATED_HEADER_BYTES..).unwrap_or_default();
    let len = be_u32(bytes, 4).unwrap_or(0) as usize;
    let deflated = &deflated[..deflated.len().min(len)];
    let mut inflated = Vec::new();
    ZlibDecoder::new(deflated)
        .take(MAX_INFLATED_BYTES + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| HistogramError::Decode(DeserializeError::IoError(error)))?;
    if inflated.len() as u64 > MAX_INFLATED_BYTES {
        return Err(HistogramError::TooLarge { what: "bytes", limit: MAX_INFLATED_BYTES });
    }
    Ok(Some(inflated))
}

/// Refuses a header that would make the decoder allocate for what is not there: it believes the length it is told, and
/// makes room for all counters between the bounds.
fn check_claims(bytes: &[u8]) -> Result<(), HistogramError> {
    if be_u32(bytes, 0) != Some(V2_COOKIE) {
        return Ok(());
    }
    let (payload, digits) = (be_u32(bytes, 4).unwrap_or(0), be_u32(bytes, 12).unwrap_or(0));
    let present = bytes.len().saturating_sub(V2_HEADER_BYTES);
    if payload as usize > present {
        return Err(HistogramError::TooLarge { what: "bytes of counters", limit: present as u64 });
    }
    if digits > MAX_DIGITS {
        return Err(HistogramError::TooLarge { what: "significant digits", limit: u64::from(MAX_DIGITS) });
    }
    check_runs(&bytes[V2_HEADER_BYTES.min(bytes.len())..][..payload as usize])
}

/// Refuses the one number that the decoder cannot negate: numbers below zero are runs of empty counters, and nine bytes
/// of ones are the lowest of 64 bits.
fn check_runs(mut payload: &[u8]) -> Result<(), HistogramError> {
    const LONGEST: usize = 9;
    while !payload.is_empty() {
        let more = payload.iter().take(LONGEST - 1).take_while(|byte| **byte >= 0x80).count();
        let (number, rest) = payload.split_at((more + 1).min(payload.len()));
        if number == [0xff; LONGEST] {
            return Err(HistogramError::Decode(DeserializeError::UsizeTypeTooSmall));
        }
        payload = rest;
    }
    Ok(())
}

/// The figures of one histogram, in `unit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistogramSummary {
    /// Always `ns` today.
    pub unit: String,
    /// How many values were recorded.
    pub count: u64,
    /// Smallest value.
    pub min: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// 99.99th percentile.
    pub p9999: u64,
    /// Largest value.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A V2 histogram with this payload.
    fn with_payload(payload: &[u8]) -> Vec<u8> {
        let mut bytes = V2_COOKIE.to_be_bytes().to_vec();
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend([0, 3_u32].iter().flat_map(|word| word.to_be_bytes()));
        bytes.extend([1, 1_000_000_u64].iter().flat_map(|word| word.to_be_bytes()));
        bytes.extend(1.0_f64.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_run_of_counters_that_cannot_be_negated_is_refused() {
        let lowest = [0xff; 9];
        // Read by the decoder's fast loop and by its last one, at the start and after other numbers.
        for before in [&[][..], &[2, 1], &[0x82, 0x01, 4]] {
            for after in [&[][..], &[2], &[0; 20]] {
                let bytes = with_payload(&[before, &lowest, after].concat());
                assert!(
                    matches!(Histogram::from_bytes(&bytes), Err(HistogramError::Decode(_))),
                    "{bytes:x?}"
                );
            }
        }
        // The lowest number but one is a run past the end, in which nothing is counted.
        let long = with_payload(&[&[0xfd][..], &[0xff; 8]].concat());
        assert!(Histogram::from_bytes(&long).unwrap().summary().is_none());
        assert_eq!(Histogram::from_bytes(&with_payload(&[2, 1, 4])).unwrap().summary().unwrap().count, 3);
    }

    #[test]
    fn summary_of_one_to_ten_thousand() {
        let mut histogram = Histogram::new();
        (1..=10_000).for_each(|value| histogram.record(value));
        let summary = histogram.summary().unwrap();
        assert_eq!((summary.count, summary.min), (10_000, 1));
        // Three significant digits: within 0.1 % of the exact order statistic.
        for (found, exact) in [
            (summary.p50, 5_000.0),
            (summary.p90, 9_000.0),
            (summary.p99, 9_900.0),
            (summary.p999, 9_990.0),
            (summary.p9999, 9_999.0),
            (summary.max, 10_000.0),
        ] {
            assert!((found as f64 / exact - 1.0).abs() <= 1e-3, "{found} vs {exact}");
        }
        assert!((summary.mean - 5_000.5).abs() < 5.0);
    }

    #[test]
    fn empty_has_no_summary() {
        assert_eq!(Histogram::new().summary(), None);
        assert_eq!(Histogram::new().quantile(0.5), None);
    }

    #[test]
    fn saturates_instead_of_losing() {
        let mut histogram = Histogram::new();
        histogram.record(u64::MAX);
        histogram.record(0);
        assert_eq!(histogram.count(), 2);
        assert!(histogram.quantile(1.0).unwrap() >= HIGHEST_NS);
        assert_eq!(histogram.quantile(0.0), Some(0));
    }

    #[test]
    fn merge_is_recording_both() {
        let (mut both, mut left, mut right) = (Histogram::new(), Histogram::new(), Histogram::new());
        for value in [3, 700, 70_000, 1 << 40] {
            left.record_n(value, 3);
            right.record(value + 11);
            both.record_n(value, 3);
            both.record(value + 11);
        }
        left.merge(&right);
        assert_eq!(left.summary().unwrap(), both.summary().unwrap());
    }

    #[test]
    fn bytes_round_trip_and_damage_is_refused() {
        let mut histogram = Histogram::new();
        (0..2_000_u64).for_each(|i| histogram.record(i * i));
        let bytes = histogram.to_bytes().unwrap();
        assert_eq!(Histogram::from_bytes(&bytes).unwrap().summary(), histogram.summary());
        assert!(Histogram::from_bytes(&bytes[..bytes.len() / 2]).is_err());
        assert!(Histogram::from_bytes(b"not a histogram").is_err());
        assert!(Histogram::from_bytes(&[]).is_err());
    }

    /// A V2 header with these claims and `payload` behind it.
    fn claiming(len: u32, digits: u32, high: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [V2_COOKIE, len, 0, digits] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(1u64.to_be_bytes());
        bytes.extend(high.to_be_bytes());
        bytes.extend(1f64.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn deflated(inner: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, inner).unwrap();
        let inner = encoder.finish().unwrap();
        [&V2_DEFLATED_COOKIE.to_be_bytes()[..], &(inner.len() as u32).to_be_bytes(), &inner].concat()
    }

    #[test]
    fn a_header_that_claims_more_than_there_is_is_refused_before_room_is_made() {
        for len in [1, 4096, 1 << 30, u32::MAX] {
            let plain = claiming(len, 3, HIGHEST_NS, &[]);
            assert_eq!(plain.len(), V2_HEADER_BYTES);
            for bytes in [plain.clone(), deflated(&plain)] {
                let error = Histogram::from_bytes(&bytes).unwrap_err();
                assert!(matches!(error, HistogramError::TooLarge { limit: 0, .. }), "{len}: {error}");
            }
        }
        for digits in [5, 6, u32::MAX] {
            let error = Histogram::from_bytes(&claiming(0, digits, u64::MAX, &[])).unwrap_err();
            assert!(matches!(error, HistogramError::TooLarge { limit: 4, .. }), "{digits}: {error}");
        }
        assert!(Histogram::from_bytes(&claiming(0, 4, u64::MAX, &[])).unwrap().is_empty());
    }

    #[test]
    fn a_histogram_that_inflates_without_end_is_refused() {
        let bomb = deflated(&claiming(1 << 26, 3, HIGHEST_NS, &vec![0; 1 << 26]));
        assert!(bomb.len() < 1 << 17, "{}", bomb.len());
        let error = Histogram::from_bytes(&bomb).unwrap_err();
        assert!(matches!(error, HistogramError::TooLarge { limit: MAX_INFLATED_BYTES, .. }), "{error}");
    }

    #[test]
    fn plain_and_deflated_encodings_are_read() {
        let mut histogram = Histogram::new();
        (0..2000).for_each(|n| histogram.record(n * n));
        let mut plain = Vec::new();
        hdrhistogram::serialization::V2Serializer::new().serialize(&histogram.0, &mut plain).unwrap();
        for bytes in [plain.clone(), deflated(&plain), histogram.to_bytes().unwrap()] {
            assert_eq!(Histogram::from_bytes(&bytes).unwrap().summary(), histogram.summary());
        }
    }
}
