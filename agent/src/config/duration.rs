//! How a duration is written: a number of the flag's own unit, or numbers with units, such as `20`, `20s`, `2m`, `1h30m`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Unit of a plain number, range, and how the flag's help and its errors name both.
pub(super) struct DurationKind {
    pub(super) unit: Duration,
    pub(super) range: RangeInclusive<Duration>,
    /// Whether fractions of the unit are refused: a lease is granted in whole seconds.
    pub(super) whole: bool,
    pub(super) example: &'static str,
}

impl DurationKind {
    pub(super) const fn seconds(range: RangeInclusive<u64>, example: &'static str) -> Self {
        let range = Duration::from_secs(*range.start())..=Duration::from_secs(*range.end());
        Self { unit: Duration::from_secs(1), range, whole: false, example }
    }

    pub(super) const fn whole(self) -> Self {
        Self { whole: true, ..self }
    }

    /// # Errors
    /// What is expected instead, with the range and an example.
    pub(super) fn parse(&self, text: &str) -> Result<Duration, String> {
        let read = read(text, self.unit).filter(|read| self.range.contains(read));
        match read {
            Some(read) if !self.whole || read.subsec_nanos() == 0 => Ok(read),
            _ => Err(self.expected()),
        }
    }

    fn expected(&self) -> String {
        let (unit, per) =
            if self.unit == Duration::from_secs(1) { ("seconds", 1000) } else { ("milliseconds", 1) };
        let [min, max] = [self.range.start(), self.range.end()].map(|bound| bound.as_millis() / per);
        let whole = if self.whole { "whole " } else { "" };
        format!("expected {whole}{unit} from {min} to {max}, or a time with a unit, such as {}", self.example)
    }
}

/// A plain number counts in `unit`; anything else as jiff's friendly format reads it. `None`: neither, or negative.
fn read(text: &str, unit: Duration) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return unit.checked_mul(text.parse().ok()?);
    }
    // It also reads ISO 8601, days of 24 hours not: those are refused as what they are, unknown.
    let read: jiff::SignedDuration = text.parse().ok()?;
    Duration::try_from(read).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    proptest! {
        #[test]
        fn a_number_means_the_same_with_and_without_its_unit(n in 0_u64..1_000_000) {
            prop_assert_eq!(read(&n.to_string(), SECOND), Some(Duration::from_secs(n)));
            prop_assert_eq!(read(&format!("{n}s"), SECOND), Some(Duration::from_secs(n)));
            prop_assert_eq!(read(&format!("{n}m"), SECOND), Some(Duration::from_secs(60 * n)));
            prop_assert_eq!(read(&format!("{n}ms"), SECOND), Some(Duration::from_millis(n)));
            prop_assert_eq!(read(&n.to_string(), Duration::from_millis(1)), Some(Duration::from_millis(n)));
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,40}") {
            _ = read(&text, SECOND);
        }
    }

    #[test]
    fn what_is_out_of_range_or_no_time_is_told_what_is_expected() {
        let kind = DurationKind::seconds(2..=60, "5s or 1m").whole();
        assert_eq!(kind.parse("1m"), Ok(Duration::from_secs(60)));
        for text in
            ["", "1", "61", "-5", "-5s", "1500ms", "2.5", "5 apples", "five", "99999999999999999999999", "1h"]
        {
            assert_eq!(
                kind.parse(text),
                Err("expected whole seconds from 2 to 60, or a time with a unit, such as 5s or 1m".into()),
                "{text:?}"
            );
        }
    }
}
