//! `interval`: months, days and microseconds that never become each other by themselves.

mod text;

use super::calendar::MICROS_PER_DAY;
use super::data::array;
use super::{Failure, Unsupported, ValueError};
use std::cmp::Ordering;

/// An interval; finite (Postgres 17's infinite ones are refused). Equality of the Rust values is sameness; `=` of SQL is [`super::ops::equal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Months, years included.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Time, in microseconds.
    pub micros: i64,
}

impl Interval {
    /// Reads the binary form.
    pub fn decode(bytes: &[u8]) -> Result<Interval, Unsupported> {
        let bytes: [u8; 16] = array(bytes)?;
        let interval = Interval {
            micros: i64::from_be_bytes(array(&bytes[..8])?),
            days: i32::from_be_bytes(array(&bytes[8..12])?),
            months: i32::from_be_bytes(array(&bytes[12..])?),
        };
        // From Postgres 17 all three at an extreme mean infinity.
        if matches!(interval.months, i32::MIN | i32::MAX) {
            return Err(Unsupported);
        }
        Ok(interval)
    }

    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.micros.to_be_bytes());
        out.extend_from_slice(&self.days.to_be_bytes());
        out.extend_from_slice(&self.months.to_be_bytes());
    }

    /// SQL's order: a day has 24 hours, a month 30 days.
    pub fn order(&self, other: &Interval) -> Ordering {
        self.estimate().cmp(&other.estimate())
    }

    fn estimate(&self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        days * i128::from(MICROS_PER_DAY) + i128::from(self.micros)
    }

    /// `self + other`, field by field.
    pub fn plus(&self, other: &Interval) -> Result<Interval, Failure> {
        let sum = || {
            Some(Interval {
                months: self.months.checked_add(other.months)?,
                days: self.days.checked_add(other.days)?,
                micros: self.micros.checked_add(other.micros)?,
            })
        };
        Ok(sum().ok_or_else(out_of_range)?)
    }

    /// `- self`
    pub fn negated(&self) -> Result<Interval, Failure> {
        let opposite = || {
            Some(Interval {
                months: self.months.checked_neg()?,
                days: self.days.checked_neg()?,
                micros: self.micros.checked_neg()?,
            })
        };
        Ok(opposite().ok_or_else(out_of_range)?)
    }

    /// `self - other`, field by field.
    pub fn minus(&self, other: &Interval) -> Result<Interval, Failure> {
        let difference = || {
            Some(Interval {
                months: self.months.checked_sub(other.months)?,
                days: self.days.checked_sub(other.days)?,
                micros: self.micros.checked_sub(other.micros)?,
            })
        };
        Ok(difference().ok_or_else(out_of_range)?)
    }

    /// The difference of two timestamps: whole days, and the time that is left.
    pub(crate) fn between(micros: i64) -> Interval {
        Interval {
            months: 0,
            days: (micros / MICROS_PER_DAY) as i32,
            micros: micros % MICROS_PER_DAY,
        }
    }
}

fn out_of_range() -> ValueError {
    ValueError::new("22008", "interval out of range")
}
