//! What a parameter can be set to.

use std::fmt;

use serde::Serialize;

/// One value of one parameter.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A whole number.
    Int(u64),
    /// A fraction.
    Float(f64),
    /// One of a set of words.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}

/// A whole number as people write it: digits, `_` between them, and `K` or `M` for 2^10 or 2^20.
pub fn parse_int(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => text.strip_suffix(['M', 'm']).map_or((text, 0), |digits| (digits, 20)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('_') {
        return None;
    }
    digits.replace('_', "").parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_with_suffix() {
        assert_eq!(parse_int("64K"), Some(65536));
        assert_eq!(parse_int("1M"), Some(1 << 20));
        assert_eq!(parse_int("1_448"), Some(1448));
        for bad in ["", "K", "-1", "+1", "1.5", "1_", "64KB", "99999999999999999999", "18446744073709551615M"]
        {
            assert_eq!(parse_int(bad), None, "{bad:?}");
        }
    }
}
