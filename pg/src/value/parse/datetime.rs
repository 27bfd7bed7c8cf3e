//! Dates, times and intervals from text. Never reads more than the ISO forms that mean the same under every `DateStyle`.

use super::Failure;
use crate::value::calendar::{
    Day, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, days_in_month,
};
use crate::value::{Interval, IntervalStyle, Settings};

/// Largest count of one unit in an interval's text; keeps every sum in range.
const UNIT_COUNT_MAX: i64 = 1_000_000;
/// Offsets in text are below this many hours in Postgres.
const ZONE_HOURS_MAX: i64 = 15;

type Read<T> = Result<T, Failure>;

/// Reads `YYYY-MM-DD`; an offset behind a blank, as JDBC sends it, means nothing.
pub(crate) fn date(text: &str) -> Read<i32> {
    match text {
        "infinity" => return Ok(i32::MAX),
        "-infinity" => return Ok(i32::MIN),
        _ => {}
    }
    let (days, rest) = take_date(text)?;
    if let Some(offset) = rest.strip_prefix(' ') {
        zone_offset(offset)?;
    } else if !rest.is_empty() {
        return Err(Failure::Refused);
    }
    Ok(days as i32)
}

/// Reads `HH:MM[:SS[.ffffff]]`.
pub(crate) fn time(text: &str) -> Read<i64> {
    match take_clock(text)? {
        (micros, "") => Ok(micros),
        _ => Err(Failure::Refused),
    }
}

/// Reads a time with an offset.
pub(crate) fn timetz(text: &str) -> Read<Vec<u8>> {
    let (micros, offset) = take_clock(text)?;
    let west = -(zone_offset(offset)? as i32);
    let mut bytes = micros.to_be_bytes().to_vec();
    bytes.extend_from_slice(&west.to_be_bytes());
    Ok(bytes)
}

/// Reads a date, then a blank or `T` and a time, or the date alone. An offset behind a time, as JDBC sends it, means nothing.
pub(crate) fn timestamp(text: &str) -> Read<i64> {
    let (micros, rest) = take_timestamp(text)?;
    if !rest.is_empty() {
        offset_of(text, rest)?;
    }
    Ok(micros)
}

/// Reads the same with an offset, or without one in the session's zone.
pub(crate) fn timestamptz(text: &str, settings: &Settings) -> Read<i64> {
    let (micros, rest) = take_timestamp(text)?;
    match (micros, rest) {
        (i64::MIN | i64::MAX, _) => Ok(micros),
        (_, "") => {
            let zone = settings.zone.as_ref().ok_or(Failure::Refused)?;
            Ok(zone.to_instant(micros)?)
        }
        (_, rest) => Ok(micros - offset_of(text, rest)? * MICROS_PER_SECOND),
    }
}

/// The offset at the end of a timestamp's text, in seconds east of UTC.
fn offset_of(text: &str, rest: &str) -> Read<i64> {
    match rest {
        // A date directly followed by an offset is read differently.
        _ if text.len() - rest.len() == 10 => Err(Failure::Refused),
        "Z" => Ok(0),
        offset => zone_offset(offset),
    }
}

/// Reads `<n> <unit> …`, `[±]HH:MM:SS[.ffffff]`, or both.
pub(crate) fn interval(text: &str, settings: &Settings) -> Read<Vec<u8>> {
    // There, the first sign counts for all fields.
    let signs_differ = !matches!(
        settings.interval_style,
        Some(IntervalStyle::Postgres | IntervalStyle::PostgresVerbose | IntervalStyle::Iso8601)
    );
    if signs_differ && text.contains('-') {
        return Err(Failure::Refused);
    }
    let mut interval = Interval::default();
    let mut seen = Vec::new();
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let unit = if word.contains(':') {
            interval.micros += signed_clock(word)?;
            if words.next().is_some() {
                return Err(Failure::Refused);
            }
            Unit::Clock
        } else {
            let count = signed_count(word)?;
            let unit = Unit::named(words.next().ok_or(Failure::Refused)?)?;
            unit.add(count, &mut interval)?;
            unit
        };
        let clock_twice = unit == Unit::Clock && seen.iter().any(|seen: &Unit| seen.is_time());
        if clock_twice || seen.contains(&unit) {
            return Err(Failure::Refused);
        }
        seen.push(unit);
    }
    if seen.is_empty() {
        return Err(Failure::Refused);
    }
    let mut bytes = Vec::with_capacity(16);
    interval.encode(&mut bytes);
    Ok(bytes)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Year,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    Clock,
}

impl Unit {
    fn named(name: &str) -> Read<Unit> {
        Ok(match name {
            "year" | "years" => Unit::Year,
            "month" | "months" | "mon" | "mons" => Unit::Month,
            "week" | "weeks" => Unit::Week,
            "day" | "days" => Unit::Day,
            "hour" | "hours" => Unit::Hour,
            "minute" | "minutes" | "min" | "mins" => Unit::Minute,
            "second" | "seconds" | "sec" | "secs" => Unit::Second,
            _ => return Err(Failure::Refused),
        })
    }

    fn is_time(self) -> bool {
        matches!(self, Unit::Hour | Unit::Minute | Unit::Second)
    }

    fn add(self, count: i64, interval: &mut Interval) -> Read<()> {
        let small = |count: i64| i32::try_from(count).map_err(|_| Failure::Refused);
        match self {
            Unit::Year => interval.months += small(count * 12)?,
            Unit::Month => interval.months += small(count)?,
            Unit::Week => interval.days += small(count * 7)?,
            Unit::Day => interval.days += small(count)?,
            Unit::Hour => interval.micros += count * MICROS_PER_HOUR,
            Unit::Minute => interval.micros += count * MICROS_PER_MINUTE,
            Unit::Second => interval.micros += count * MICROS_PER_SECOND,
            Unit::Clock => return Err(Failure::Refused),
        }
        Ok(())
    }
}

fn signed_count(word: &str) -> Read<i64> {
    let unsigned = word.strip_prefix(['-', '+']).unwrap_or(word);
    let digits = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
    let count = word
        .parse()
        .ok()
        .filter(|count: &i64| digits && count.abs() <= UNIT_COUNT_MAX);
    count.ok_or(Failure::Refused)
}

fn signed_clock(word: &str) -> Read<i64> {
    let (sign, unsigned) = match word.split_at_checked(1) {
        Some(("-", rest)) => (-1, rest),
        Some(("+", rest)) => (1, rest),
        _ => (1, word),
    };
    match take_clock(unsigned)? {
        // Without seconds it would be minutes and seconds in some contexts.
        (micros, "") if unsigned.len() >= 8 => Ok(sign * micros),
        _ => Err(Failure::Refused),
    }
}

fn take_timestamp(text: &str) -> Read<(i64, &str)> {
    match text {
        "infinity" => return Ok((i64::MAX, "")),
        "-infinity" => return Ok((i64::MIN, "")),
        _ => {}
    }
    let (days, rest) = take_date(text)?;
    let midnight = days * MICROS_PER_DAY;
    match rest.strip_prefix([' ', 'T']) {
        Some(clock) => take_clock(clock).map(|(micros, rest)| (midnight + micros, rest)),
        None => Ok((midnight, rest)),
    }
}

fn take_date(text: &str) -> Read<(i64, &str)> {
    let (year, rest) = take_number(text, 4)?;
    let (month, rest) = take_number(after(rest, '-')?, 2)?;
    let (day, rest) = take_number(after(rest, '-')?, 2)?;
    let real = year > 0
        && (1..=12).contains(&month)
        && (1..=i64::from(days_in_month(year, month as u8))).contains(&day);
    if !real {
        return Err(Failure::Refused);
    }
    let day = Day {
        year,
        month: month as u8,
        day: day as u8,
    };
    Ok((day.days(), rest))
}

fn take_clock(text: &str) -> Read<(i64, &str)> {
    let (hour, rest) = take_number(text, 2)?;
    let (minute, rest) = take_number(after(rest, ':')?, 2)?;
    let (second, rest) = match rest.strip_prefix(':') {
        Some(rest) => take_number(rest, 2)?,
        None => (0, rest),
    };
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => take_fraction(rest)?,
        None => (0, rest),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return Err(Failure::Refused);
    }
    let seconds = (hour * 60 + minute) * 60 + second;
    Ok((seconds * MICROS_PER_SECOND + fraction, rest))
}

/// One to six decimals, as microseconds.
fn take_fraction(text: &str) -> Read<(i64, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = take_number(text, length)?;
    match length {
        1..=6 => Ok((number * 10i64.pow(6 - length as u32), rest)),
        _ => Err(Failure::Refused),
    }
}

/// Exactly that many digits.
fn take_number(text: &str, length: usize) -> Read<(i64, &str)> {
    let (digits, rest) = text.split_at_checked(length).ok_or(Failure::Refused)?;
    let next = rest.as_bytes().first().is_some_and(u8::is_ascii_digit);
    if next || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Failure::Refused);
    }
    let number = digits.parse().map_err(|_| Failure::Refused)?;
    Ok((number, rest))
}

fn after(text: &str, separator: char) -> Read<&str> {
    text.strip_prefix(separator).ok_or(Failure::Refused)
}

/// `±hh` or `±hh:mm`, in seconds east of UTC.
fn zone_offset(text: &str) -> Read<i64> {
    let (sign, text) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(Failure::Refused),
    };
    let (hours, rest) = take_number(text, 2)?;
    let (minutes, rest) = match rest.strip_prefix(':') {
        Some(rest) => take_number(rest, 2)?,
        None => (0, rest),
    };
    match rest.is_empty() && hours <= ZONE_HOURS_MAX && minutes <= 59 {
        true => Ok(sign * (hours * 3600 + minutes * 60)),
        false => Err(Failure::Refused),
    }
}
