//! Dates, timestamps and intervals plus and minus each other. Never computes with counts so large that versions of Postgres differ.

use super::arithmetic::Arithmetic;
use super::cast::date_to_timestamp;
use crate::value::calendar::{
    DATE_END, DATE_MIN, Day, MICROS_PER_DAY, finite, split_days, timestamp_in_range,
};
use crate::value::zone::Zone;
use crate::value::{Failure, Interval, Settings, Unsupported, Value, ValueError};

/// Above these, older versions overflow silently.
const MONTHS_MAX: i32 = 10_000_000;
const DAYS_MAX: i32 = 200_000_000;

type Computed = Result<Value<'static>, Failure>;

/// The operators on dates and times; everything else is refused.
pub(super) fn arithmetic(
    op: Arithmetic,
    left: &Value<'_>,
    right: &Value<'_>,
    settings: &Settings,
) -> Computed {
    match op {
        Arithmetic::Add => match plus(left, right, settings) {
            Err(Failure::Refused) => plus(right, left, settings),
            sum => sum,
        },
        Arithmetic::Sub => minus(left, right, settings),
        _ => Err(Failure::Refused),
    }
}

fn plus(left: &Value<'_>, right: &Value<'_>, settings: &Settings) -> Computed {
    match (left, right) {
        (Value::Date(days), Value::Int4(count)) => shift_date(*days, i64::from(*count)),
        (Value::Date(days), Value::Int2(count)) => shift_date(*days, i64::from(*count)),
        (Value::Date(days), Value::Time(micros)) => {
            let midnight = finite(date_to_timestamp(*days)?)?;
            let sum = timestamp_in_range(midnight.checked_add(*micros))?;
            Ok(Value::Timestamp(sum))
        }
        (Value::Interval(left), Value::Interval(right)) => Ok(Value::Interval(left.plus(right)?)),
        (_, Value::Interval(interval)) => shift(left, interval, settings),
        _ => Err(Failure::Refused),
    }
}

fn minus(left: &Value<'_>, right: &Value<'_>, settings: &Settings) -> Computed {
    match (left, right) {
        (Value::Date(days), Value::Int4(count)) => shift_date(*days, -i64::from(*count)),
        (Value::Date(days), Value::Int2(count)) => shift_date(*days, -i64::from(*count)),
        (Value::Date(left), Value::Date(right)) => {
            let infinite = |days: i32| matches!(days, i32::MIN | i32::MAX);
            let days = left.checked_sub(*right).ok_or(Unsupported)?;
            match infinite(*left) || infinite(*right) {
                true => Err(Failure::Refused),
                false => Ok(Value::Int4(days)),
            }
        }
        (Value::Timestamp(left), Value::Timestamp(right))
        | (Value::Timestamptz(left), Value::Timestamptz(right)) => {
            let micros = finite(*left)?
                .checked_sub(finite(*right)?)
                .ok_or(Unsupported)?;
            Ok(Value::Interval(Interval::between(micros)))
        }
        (Value::Time(left), Value::Time(right)) => Ok(Value::Interval(Interval {
            micros: left - right,
            ..Interval::default()
        })),
        (Value::Interval(left), Value::Interval(right)) => Ok(Value::Interval(left.minus(right)?)),
        (_, Value::Interval(interval)) => {
            let opposite = interval.negated().map_err(|_| Failure::Refused)?;
            shift(left, &opposite, settings)
        }
        _ => Err(Failure::Refused),
    }
}

fn shift_date(days: i32, count: i64) -> Computed {
    if matches!(days, i32::MIN | i32::MAX) {
        return Ok(Value::Date(days));
    }
    let sum = i32::try_from(i64::from(days) + count).ok();
    match sum.filter(|days| (DATE_MIN..DATE_END).contains(days)) {
        Some(days) => Ok(Value::Date(days)),
        None => Err(ValueError::new("22008", "date out of range").into()),
    }
}

/// `value + interval`
fn shift(value: &Value<'_>, interval: &Interval, settings: &Settings) -> Computed {
    if interval.months.abs() > MONTHS_MAX || interval.days.unsigned_abs() > DAYS_MAX as u32 {
        return Err(Failure::Refused);
    }
    match value {
        Value::Date(days) => shift_local(date_to_timestamp(*days)?, interval).map(Value::Timestamp),
        Value::Timestamp(micros) => shift_local(*micros, interval).map(Value::Timestamp),
        Value::Timestamptz(micros) => {
            let zone = settings.zone.as_ref();
            shift_instant(*micros, interval, zone).map(Value::Timestamptz)
        }
        Value::Time(micros) => {
            let sum = micros.checked_add(interval.micros).ok_or(Unsupported)?;
            Ok(Value::Time(sum.rem_euclid(MICROS_PER_DAY)))
        }
        _ => Err(Failure::Refused),
    }
}

fn shift_local(micros: i64, interval: &Interval) -> Result<i64, Failure> {
    if finite(micros).is_err() {
        return Ok(micros);
    }
    let micros = shift_months(micros, interval.months)?;
    let micros = shift_days(micros, interval.days)?;
    Ok(timestamp_in_range(micros.checked_add(interval.micros))?)
}

/// Months and days are counted on the local calendar, one after the other; the time is not.
fn shift_instant(instant: i64, interval: &Interval, zone: Option<&Zone>) -> Result<i64, Failure> {
    if finite(instant).is_err() {
        return Ok(instant);
    }
    let mut instant = instant;
    if interval.months != 0 {
        let zone = zone.ok_or(Unsupported)?;
        instant = zone.to_instant(shift_months(zone.to_local(instant)?, interval.months)?)?;
    }
    if interval.days != 0 {
        let zone = zone.ok_or(Unsupported)?;
        instant = zone.to_instant(shift_days(zone.to_local(instant)?, interval.days)?)?;
    }
    Ok(timestamp_in_range(instant.checked_add(interval.micros))?)
}

fn shift_months(micros: i64, months: i32) -> Result<i64, ValueError> {
    if months == 0 {
        return Ok(micros);
    }
    let (days, clock) = split_days(micros);
    let day = Day::from_days(days).plus_months(i64::from(months));
    timestamp_in_range(
        day.days()
            .checked_mul(MICROS_PER_DAY)
            .and_then(|m| m.checked_add(clock)),
    )
}

fn shift_days(micros: i64, days: i32) -> Result<i64, ValueError> {
    if days == 0 {
        return Ok(micros);
    }
    timestamp_in_range(micros.checked_add(i64::from(days) * MICROS_PER_DAY))
}
