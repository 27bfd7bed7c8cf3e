//! Dates and times as text, in the four styles. Never prints a zone whose rules are unknown.

use super::put_integer;
use crate::value::calendar::{
    DATE_END, DATE_MIN, Day, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
    TIMESTAMP_END, TIMESTAMP_MIN, split_days,
};
use crate::value::data::array;
use crate::value::zone::Offset;
use crate::value::{DateOrder, DateStyle, Settings, Unsupported};
use bytes::{BufMut, BytesMut};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
/// Longest zone abbreviation that Postgres prints whole.
const ABBREVIATION_MAX: usize = 10;

/// Appends `date_out`.
pub(crate) fn put_date(
    out: &mut BytesMut,
    days: i32,
    settings: &Settings,
) -> Result<(), Unsupported> {
    if put_infinity(out, days == i32::MIN, days == i32::MAX) {
        return Ok(());
    }
    if !(DATE_MIN..DATE_END).contains(&days) {
        return Err(Unsupported);
    }
    let day = Day::from_days(i64::from(days));
    match settings.date_style.ok_or(Unsupported)? {
        (DateStyle::Postgres, DateOrder::Dmy) => put_parts(out, '-', [d(day), m(day), y(day)]),
        (DateStyle::Postgres, _) => put_parts(out, '-', [m(day), d(day), y(day)]),
        (style, order) => put_day(out, day, style, order),
    }
    put_era(out, day);
    Ok(())
}

/// Appends `time_out`.
pub(crate) fn put_time(out: &mut BytesMut, micros: i64) -> Result<(), Unsupported> {
    if !(0..=MICROS_PER_DAY).contains(&micros) {
        return Err(Unsupported);
    }
    put_clock(out, micros);
    Ok(())
}

/// Appends `timetz_out`.
pub(crate) fn put_timetz(out: &mut BytesMut, bytes: [u8; 12]) -> Result<(), Unsupported> {
    put_time(out, i64::from_be_bytes(array(&bytes[..8])?))?;
    let seconds_west = i32::from_be_bytes(array(&bytes[8..])?);
    if seconds_west.abs() >= 16 * 3600 {
        return Err(Unsupported);
    }
    put_offset(out, -seconds_west);
    Ok(())
}

/// Appends `timestamp_out`.
pub(crate) fn put_timestamp(
    out: &mut BytesMut,
    local: i64,
    settings: &Settings,
) -> Result<(), Unsupported> {
    put_moment(out, local, None, settings)
}

/// Appends `timestamptz_out`.
pub(crate) fn put_timestamptz(
    out: &mut BytesMut,
    instant: i64,
    settings: &Settings,
) -> Result<(), Unsupported> {
    if matches!(instant, i64::MIN | i64::MAX) {
        return put_moment(out, instant, None, settings);
    }
    let zone = settings.zone.as_ref().ok_or(Unsupported)?;
    let offset = zone.offset_at(instant)?;
    let shift = i64::from(offset.seconds) * MICROS_PER_SECOND;
    let local = instant.checked_add(shift).ok_or(Unsupported)?;
    put_moment(out, local, Some(&offset), settings)
}

fn put_moment(
    out: &mut BytesMut,
    local: i64,
    offset: Option<&Offset>,
    settings: &Settings,
) -> Result<(), Unsupported> {
    if put_infinity(out, local == i64::MIN, local == i64::MAX) {
        return Ok(());
    }
    if !(TIMESTAMP_MIN..TIMESTAMP_END).contains(&local) {
        return Err(Unsupported);
    }
    let (days, clock) = split_days(local);
    let day = Day::from_days(days);
    let (style, order) = settings.date_style.ok_or(Unsupported)?;
    if style == DateStyle::Postgres {
        put_words(out, day, order);
    } else {
        put_day(out, day, style, order);
    }
    out.put_u8(b' ');
    put_clock(out, clock);
    if style == DateStyle::Postgres {
        out.put_u8(b' ');
        put_padded(out, y(day).0, 4);
    }
    match offset {
        None => {}
        Some(offset) if style == DateStyle::Iso => put_offset(out, offset.seconds),
        Some(offset) if offset.abbreviation.len() <= ABBREVIATION_MAX => {
            out.put_u8(b' ');
            out.put_slice(&offset.abbreviation);
        }
        Some(_) => return Err(Unsupported),
    }
    put_era(out, day);
    Ok(())
}

fn put_infinity(out: &mut BytesMut, lowest: bool, highest: bool) -> bool {
    match (lowest, highest) {
        (true, _) => out.put_slice(b"-infinity"),
        (_, true) => out.put_slice(b"infinity"),
        _ => return false,
    }
    true
}

fn put_day(out: &mut BytesMut, day: Day, style: DateStyle, order: DateOrder) {
    match (style, order) {
        (DateStyle::Iso, _) => put_parts(out, '-', [y(day), m(day), d(day)]),
        (DateStyle::German, _) => put_parts(out, '.', [d(day), m(day), y(day)]),
        (_, DateOrder::Dmy) => put_parts(out, '/', [d(day), m(day), y(day)]),
        _ => put_parts(out, '/', [m(day), d(day), y(day)]),
    }
}

/// `Wed Dec 17`, or `Wed 17 Dec`.
fn put_words(out: &mut BytesMut, day: Day, order: DateOrder) {
    let month = MONTHS[usize::from(day.month) - 1];
    out.put_slice(WEEKDAYS[day.weekday()].as_bytes());
    out.put_u8(b' ');
    if order != DateOrder::Dmy {
        out.put_slice(month.as_bytes());
        out.put_u8(b' ');
    }
    put_padded(out, i64::from(day.day), 2);
    if order == DateOrder::Dmy {
        out.put_u8(b' ');
        out.put_slice(month.as_bytes());
    }
}

/// A part of a date with its least width.
type Part = (i64, usize);

fn y(day: Day) -> Part {
    (if day.year > 0 { day.year } else { 1 - day.year }, 4)
}

fn m(day: Day) -> Part {
    (i64::from(day.month), 2)
}

fn d(day: Day) -> Part {
    (i64::from(day.day), 2)
}

fn put_parts(out: &mut BytesMut, separator: char, parts: [Part; 3]) {
    for (index, (number, width)) in parts.into_iter().enumerate() {
        if index > 0 {
            out.put_u8(separator as u8);
        }
        put_padded(out, number, width);
    }
}

fn put_era(out: &mut BytesMut, day: Day) {
    if day.year <= 0 {
        out.put_slice(b" BC");
    }
}

fn put_clock(out: &mut BytesMut, micros: i64) {
    put_padded(out, micros / MICROS_PER_HOUR, 2);
    out.put_u8(b':');
    put_padded(out, micros / MICROS_PER_MINUTE % 60, 2);
    out.put_u8(b':');
    put_seconds(out, micros % MICROS_PER_MINUTE, 2);
}

/// Seconds with as many decimals as they have.
pub(crate) fn put_seconds(out: &mut BytesMut, micros: i64, width: usize) {
    put_padded(out, micros / MICROS_PER_SECOND, width);
    let mut fraction = micros % MICROS_PER_SECOND;
    if fraction == 0 {
        return;
    }
    let mut decimals = 6;
    while fraction % 10 == 0 {
        fraction /= 10;
        decimals -= 1;
    }
    out.put_u8(b'.');
    put_padded(out, fraction, decimals);
}

/// `+01`, `-03:30`, `+00:53:28`.
fn put_offset(out: &mut BytesMut, seconds_east: i32) {
    let seconds = i64::from(seconds_east.abs());
    out.put_u8(if seconds_east >= 0 { b'+' } else { b'-' });
    put_padded(out, seconds / 3600, 2);
    if seconds % 3600 != 0 {
        out.put_u8(b':');
        put_padded(out, seconds / 60 % 60, 2);
    }
    if seconds % 60 != 0 {
        out.put_u8(b':');
        put_padded(out, seconds % 60, 2);
    }
}

/// A number that is not negative, with leading zeros.
pub(crate) fn put_padded(out: &mut BytesMut, number: i64, width: usize) {
    let mut limit = 10;
    for _ in 1..width {
        if number < limit {
            out.put_u8(b'0');
        }
        limit *= 10;
    }
    put_integer(out, number);
}
