//! Sizes as people write and read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `200MB`, `1.5 GiB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A text that is no size.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a size; write 4096, 64KiB, 200MB or 1.5GiB")]
pub(crate) struct InvalidSize(String);

/// A limit: bytes a second, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) Option<u64>);

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSize(text.into());
        let compact = text.trim();
        let split = compact
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(compact.len());
        let (number, unit) = compact.split_at(split);
        let unit = unit.trim().to_ascii_lowercase();
        let unit = unit.strip_suffix("/s").unwrap_or(&unit);
        let factor = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(invalid)?
            .1;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Self).ok_or_else(invalid);
        }
        let number: f64 = number.parse().map_err(|_| invalid())?;
        #[allow(clippy::cast_precision_loss, reason = "a fraction is not exact anyway")]
        let bytes = number * factor as f64;
        if !bytes.is_finite() || bytes >= 9e18 {
            return Err(invalid());
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "digits and a dot are never negative, and the bound is checked above"
        )]
        Ok(Self(bytes as u64))
    }
}

impl FromStr for Rate {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "none" | "unlimited" => Ok(Self(None)),
            size => size.parse().map(|Size(bytes)| Self(Some(bytes))),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.pad("unlimited"),
            Some(bytes) => f.pad(&format!("{}/s", Size(bytes))),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(&str, u64); 4] = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        let Some((unit, step)) = STEPS.iter().find(|(_, step)| self.0 >= *step) else {
            return f.pad(&format!("{} B", self.0));
        };
        let tenths = u128::from(self.0) * 10 / u128::from(*step);
        f.pad(&format!("{}.{} {unit}", tenths / 10, tenths % 10))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const EXACT: [(&str, u64); 4] = [
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("", 1),
        ];
        let whole = EXACT.iter().find(|(_, step)| self.0.is_multiple_of(*step));
        let (unit, step) = whole.expect("one divides everything");
        serializer.collect_str(&format_args!("{}{unit}", self.0 / step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64KiB", 65_536),
            ("200MB", 200_000_000),
            ("1.5 GiB", 1_610_612_736),
            ("10 MB/s", 10_000_000),
            ("2g", 2 << 30),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        for text in ["", "-1", "ten", "1.2.3MB", "99999999999TiB", "5 parsecs"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_sizes_or_none() {
        for (text, rate) in [("none", None), ("10MB", Some(10_000_000)), ("0", Some(0))] {
            assert_eq!(text.parse::<Rate>().unwrap(), Rate(rate), "{text}");
        }
        assert!("some".parse::<Rate>().is_err());
        assert_eq!(Rate(None).to_string(), "unlimited");
        assert_eq!(Rate(Some(2 << 20)).to_string(), "2.0 MiB/s");
    }

    #[test]
    fn sizes_print_short() {
        assert_eq!(Size(812).to_string(), "812 B");
        assert_eq!(Size(1 << 20).to_string(), "1.0 MiB");
        assert_eq!(Size(1_610_612_736).to_string(), "1.5 GiB");
    }
}
