//! `+ - * / %` and the numeric functions of one argument. Never rounds other than Postgres does.

use super::cast::to_float8;
use super::time;
use crate::value::{Failure, Numeric, Settings, Unsupported, Value, ValueError};

/// A binary operator on numbers, and on dates and times where Postgres has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
}

type Computed = Result<Value<'static>, Failure>;

/// `left op right`. Numbers of different types meet as Postgres's operator resolution makes them; the result's variant is the result type.
/// The settings' time zone counts for `timestamptz` only.
pub fn arithmetic(
    op: Arithmetic,
    left: &Value<'_>,
    right: &Value<'_>,
    settings: &Settings,
) -> Computed {
    if let (Some(left), Some(right)) = (Integer::of(left), Integer::of(right)) {
        return left.with(op, right);
    }
    match (left, right) {
        (Value::Float4(left), Value::Float4(right)) => floats(op, *left, *right).map(Value::Float4),
        _ if is_number(left) && is_number(right) => match (exact(left), exact(right)) {
            (Some(left), Some(right)) => numerics(op, &left, &right).map(Value::Numeric),
            _ => floats(op, to_float8(left)?, to_float8(right)?).map(Value::Float8),
        },
        _ => time::arithmetic(op, left, right, settings),
    }
}

/// `- value`
pub fn negate(value: &Value<'_>) -> Computed {
    Ok(match value {
        Value::Float4(number) => Value::Float4(-number),
        Value::Float8(number) => Value::Float8(-number),
        Value::Numeric(number) => Value::Numeric(number.negated()),
        Value::Interval(interval) => Value::Interval(interval.negated()?),
        _ => {
            let Integer { number, bytes } = Integer::of(value).ok_or(Unsupported)?;
            integer(-number, bytes)?
        }
    })
}

/// `abs(value)`
pub fn abs(value: &Value<'_>) -> Computed {
    Ok(match value {
        Value::Float4(number) => Value::Float4(number.abs()),
        Value::Float8(number) => Value::Float8(number.abs()),
        Value::Numeric(number) => Value::Numeric(number.absolute()),
        _ => {
            let Integer { number, bytes } = Integer::of(value).ok_or(Unsupported)?;
            integer(number.abs(), bytes)?
        }
    })
}

/// `round(value)` (`None`), or `round(value, scale)` of a numeric or an integer.
pub fn round(value: &Value<'_>, scale: Option<i32>) -> Computed {
    scaled(value, scale, Numeric::rounded, f64::round_ties_even)
}

/// `trunc(value)` (`None`), or `trunc(value, scale)` of a numeric or an integer.
pub fn trunc(value: &Value<'_>, scale: Option<i32>) -> Computed {
    scaled(value, scale, Numeric::truncated, f64::trunc)
}

/// `sign(value)`
pub fn sign(value: &Value<'_>) -> Computed {
    let sign = |number: f64| match number {
        _ if number > 0.0 => 1.0,
        _ if number < 0.0 => -1.0,
        _ => 0.0,
    };
    whole(value, Numeric::sign, sign)
}

/// `ceil(value)`
pub fn ceil(value: &Value<'_>) -> Computed {
    whole(value, Numeric::ceil, f64::ceil)
}

/// `floor(value)`
pub fn floor(value: &Value<'_>) -> Computed {
    whole(value, Numeric::floor, f64::floor)
}

fn whole(
    value: &Value<'_>,
    of_numeric: impl Fn(&Numeric) -> Result<Numeric, Unsupported>,
    of_float: impl Fn(f64) -> f64,
) -> Computed {
    match value {
        Value::Numeric(number) => Ok(Value::Numeric(of_numeric(number)?)),
        // Integers too become float8: its functions are the preferred ones.
        _ if !is_number(value) => Err(Failure::Refused),
        _ => match to_float8(value)? {
            number if number.is_nan() => Err(Failure::Refused),
            number => Ok(Value::Float8(of_float(number))),
        },
    }
}

fn scaled(
    value: &Value<'_>,
    scale: Option<i32>,
    of_numeric: impl Fn(&Numeric, i32) -> Result<Numeric, Unsupported>,
    of_float: impl Fn(f64) -> f64,
) -> Computed {
    let Some(scale) = scale else {
        return whole(value, |number| of_numeric(number, 0), of_float);
    };
    // Beyond that the scale is clamped, differently between versions.
    if !(-1000..=1000).contains(&scale) {
        return Err(Failure::Refused);
    }
    let number = exact(value).ok_or(Unsupported)?;
    Ok(Value::Numeric(of_numeric(&number, scale)?))
}

/// An integer of any of the three types, in a type where nothing overflows.
#[derive(Clone, Copy)]
pub(super) struct Integer {
    pub number: i128,
    /// Size of its type.
    pub bytes: usize,
}

impl Integer {
    pub fn of(value: &Value<'_>) -> Option<Integer> {
        let (number, bytes) = match value {
            Value::Int2(number) => (i128::from(*number), 2),
            Value::Int4(number) => (i128::from(*number), 4),
            Value::Int8(number) => (i128::from(*number), 8),
            _ => return None,
        };
        Some(Integer { number, bytes })
    }

    /// The larger type is the result's.
    fn with(self, op: Arithmetic, other: Integer) -> Computed {
        let (left, right) = (self.number, other.number);
        let result = match op {
            Arithmetic::Add => left + right,
            Arithmetic::Sub => left - right,
            Arithmetic::Mul => left * right,
            Arithmetic::Div | Arithmetic::Mod if right == 0 => return Err(division_by_zero()),
            Arithmetic::Div => left / right,
            Arithmetic::Mod => left % right,
        };
        integer(result, self.bytes.max(other.bytes))
    }
}

/// A number in the integer type of that size, or its error.
pub(super) fn integer(number: i128, bytes: usize) -> Computed {
    let (value, name) = match bytes {
        2 => (i16::try_from(number).ok().map(Value::Int2), "smallint"),
        4 => (i32::try_from(number).ok().map(Value::Int4), "integer"),
        _ => (i64::try_from(number).ok().map(Value::Int8), "bigint"),
    };
    value.ok_or_else(|| ValueError::new("22003", format!("{name} out of range")).into())
}

fn is_number(value: &Value<'_>) -> bool {
    let float = matches!(value, Value::Float4(_) | Value::Float8(_));
    float || exact(value).is_some()
}

/// Integers and numerics as numerics.
pub(super) fn exact(value: &Value<'_>) -> Option<Numeric> {
    match value {
        Value::Int2(number) => Some(Numeric::from(i64::from(*number))),
        Value::Int4(number) => Some(Numeric::from(i64::from(*number))),
        Value::Int8(number) => Some(Numeric::from(*number)),
        Value::Numeric(number) => Some(number.clone()),
        _ => None,
    }
}

fn numerics(op: Arithmetic, left: &Numeric, right: &Numeric) -> Result<Numeric, Failure> {
    match op {
        Arithmetic::Add => left.plus(right),
        Arithmetic::Sub => left.minus(right),
        Arithmetic::Mul => left.times(right),
        Arithmetic::Div => left.divided_by(right),
        Arithmetic::Mod => left.modulo(right),
    }
}

/// The two float types compute alike.
trait Float: Copy + PartialEq {
    const ZERO: Self;
    fn infinite(self) -> bool;
    fn nan(self) -> bool;
    fn compute(op: Arithmetic, left: Self, right: Self) -> Option<Self>;
}

macro_rules! float {
    ($float:ty) => {
        impl Float for $float {
            const ZERO: Self = 0.0;
            fn infinite(self) -> bool {
                self.is_infinite()
            }
            fn nan(self) -> bool {
                self.is_nan()
            }
            fn compute(op: Arithmetic, left: Self, right: Self) -> Option<Self> {
                match op {
                    Arithmetic::Add => Some(left + right),
                    Arithmetic::Sub => Some(left - right),
                    Arithmetic::Mul => Some(left * right),
                    Arithmetic::Div => Some(left / right),
                    Arithmetic::Mod => None,
                }
            }
        }
    };
}

float!(f32);
float!(f64);

fn floats<F: Float>(op: Arithmetic, left: F, right: F) -> Result<F, Failure> {
    let divides = op == Arithmetic::Div;
    // NaN by zero, and anything by infinity, differ between versions.
    if divides && ((left.nan() && right == F::ZERO) || right.infinite()) {
        return Err(Failure::Refused);
    }
    if divides && right == F::ZERO {
        return Err(division_by_zero());
    }
    let result = F::compute(op, left, right).ok_or(Unsupported)?;
    let multiplies = op == Arithmetic::Mul;
    if result.infinite() && !left.infinite() && (divides || !right.infinite()) {
        return Err(ValueError::new("22003", "value out of range: overflow").into());
    }
    let lost = left != F::ZERO && (divides || (multiplies && right != F::ZERO));
    if result == F::ZERO && lost {
        return Err(ValueError::new("22003", "value out of range: underflow").into());
    }
    Ok(result)
}

fn division_by_zero() -> Failure {
    ValueError::new("22012", "division by zero").into()
}
