//! The proleptic Gregorian calendar in Postgres's units: days and microseconds since 2000-01-01. Never knows of time zones; `zone` does.

use super::{Unsupported, ValueError};

pub(crate) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(crate) const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
pub(crate) const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;
pub(crate) const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// Days from 1970-01-01 to 2000-01-01.
const UNIX_EPOCH_DAYS: i64 = 10_957;
/// Microseconds from 1970-01-01 to 2000-01-01.
pub(crate) const UNIX_EPOCH_MICROS: i64 = UNIX_EPOCH_DAYS * MICROS_PER_DAY;

/// First valid timestamp (4713-11-24 BC), and the first one after the last (year 294277).
pub(crate) const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
pub(crate) const TIMESTAMP_END: i64 = 9_223_371_331_200_000_000;
/// First valid date, and the first one after the last (5874898-01-01).
pub(crate) const DATE_MIN: i32 = -2_451_545;
pub(crate) const DATE_END: i32 = 2_147_483_494 - 2_451_545;

/// A calendar day; year 0 is 1 BC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Day {
    pub year: i64,
    pub month: u8,
    pub day: u8,
}

impl Day {
    /// The day that many days after 2000-01-01.
    pub fn from_days(days: i64) -> Day {
        // Years are counted from March, so that the leap day is the last; eras have 400 years.
        let days = days + UNIX_EPOCH_DAYS + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        Day {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (of_year - (153 * march_month + 2) / 5 + 1) as u8,
        }
    }

    /// Days since 2000-01-01.
    pub fn days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let march_month = (i64::from(self.month) + 9) % 12;
        let of_year = (153 * march_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        era * 146_097 + day_of_era - 719_468 - UNIX_EPOCH_DAYS
    }

    /// Adds months, and falls back to the month's last day where needed.
    pub fn plus_months(self, months: i64) -> Day {
        let month = self.year * 12 + i64::from(self.month) - 1 + months;
        let (year, month) = (month.div_euclid(12), month.rem_euclid(12) as u8 + 1);
        Day {
            year,
            month,
            day: self.day.min(days_in_month(year, month)),
        }
    }

    /// 0 = Sunday.
    pub fn weekday(self) -> usize {
        (self.days() + 6).rem_euclid(7) as usize
    }
}

/// Length of a month.
pub(crate) fn days_in_month(year: i64, month: u8) -> u8 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Whole days and the microseconds into the day.
pub(crate) fn split_days(micros: i64) -> (i64, i64) {
    (
        micros.div_euclid(MICROS_PER_DAY),
        micros.rem_euclid(MICROS_PER_DAY),
    )
}

/// A timestamp within Postgres's range, or its error.
pub(crate) fn timestamp_in_range(micros: Option<i64>) -> Result<i64, ValueError> {
    micros
        .filter(|micros| (TIMESTAMP_MIN..TIMESTAMP_END).contains(micros))
        .ok_or_else(|| ValueError::new("22008", "timestamp out of range"))
}

/// Refuses the two infinities.
pub(crate) fn finite(micros: i64) -> Result<i64, Unsupported> {
    match micros {
        i64::MIN | i64::MAX => Err(Unsupported),
        _ => Ok(micros),
    }
}
