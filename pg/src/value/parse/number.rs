//! Integers and floats from text. Never reads the notations that Postgres 16 added: older versions call them errors.

use super::{Failure, invalid_syntax, is_blank};
use crate::value::ValueError;
use std::str::FromStr;

/// Longest text for which an error is worded here.
const ERROR_TEXT_MAX: usize = 200;

/// Reads a signed integer; `name` is the type's, for the errors.
pub(crate) fn integer<T: FromStr>(text: &str, name: &str) -> Result<T, Failure> {
    let body = text.trim_matches(is_blank);
    let unsigned = body.strip_prefix(['+', '-']).unwrap_or(body);
    let figures = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let in_range = body[..body.len() - unsigned.len() + figures].parse().ok();
    match in_range {
        Some(number) if figures == unsigned.len() => Ok(number),
        _ if text.len() > ERROR_TEXT_MAX || newer_notation(unsigned) => Err(Failure::Refused),
        None if figures > 0 && figures == unsigned.len() => Err(out_of_range(text, name).into()),
        // Which of two errors comes first is not worth knowing.
        None if figures > 0 => Err(Failure::Refused),
        _ => Err(invalid_syntax(name, text)),
    }
}

/// Reads an `oid`: plain digits only.
pub(crate) fn oid(text: &str) -> Result<u32, Failure> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_| Failure::Refused),
        false => Err(Failure::Refused),
    }
}

/// Reads a `double precision`.
pub(crate) fn float8(text: &str) -> Result<f64, Failure> {
    let number: f64 = float(text, "double precision")?;
    match number {
        _ if number.is_nan() => Ok(f64::from_bits(0x7ff8_0000_0000_0000)),
        _ => within(
            text,
            number,
            number.is_infinite(),
            number == 0.0,
            "double precision",
        ),
    }
}

/// Reads a `real`.
pub(crate) fn float4(text: &str) -> Result<f32, Failure> {
    let number: f32 = float(text, "real")?;
    match number {
        _ if number.is_nan() => Ok(f32::from_bits(0x7fc0_0000)),
        _ => within(text, number, number.is_infinite(), number == 0.0, "real"),
    }
}

fn out_of_range(text: &str, name: &str) -> ValueError {
    let message = format!("value \"{text}\" is out of range for type {name}");
    ValueError::new("22003", message)
}

fn newer_notation(unsigned: &str) -> bool {
    let start = unsigned.as_bytes();
    let radix = matches!(start, [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..]);
    radix || unsigned.contains('_')
}

fn float<T: FromStr>(text: &str, name: &str) -> Result<T, Failure> {
    let body = text.trim_matches(is_blank);
    let unsigned = body.strip_prefix(['+', '-']).unwrap_or(body);
    let word = unsigned.to_ascii_lowercase();
    let is_word = matches!(word.as_str(), "infinity" | "inf") || body.eq_ignore_ascii_case("nan");
    if is_word || is_decimal(unsigned) {
        return body.parse().map_err(|_| Failure::Refused);
    }
    // Words, hexadecimal, and what may be out of range before it is junk, are left to Postgres.
    match text.len() > ERROR_TEXT_MAX || text.contains(['x', 'X', 'i', 'I', 'n', 'N', 'e', 'E']) {
        true => Err(Failure::Refused),
        false => Err(invalid_syntax(name, text)),
    }
}

fn within<T>(text: &str, number: T, infinite: bool, zero: bool, name: &str) -> Result<T, Failure> {
    let body = text.trim_matches(is_blank);
    let mantissa = body.split(['e', 'E']).next().unwrap_or(body);
    let overflow = infinite && body.contains(|c: char| c.is_ascii_digit());
    let underflow = zero && mantissa.contains(|c: char| matches!(c, '1'..='9'));
    match overflow || underflow {
        false => Ok(number),
        // Whether the blanks are shown depends on type and version.
        true if text.len() > ERROR_TEXT_MAX || body != text => Err(Failure::Refused),
        true => {
            let message = format!("\"{body}\" is out of range for type {name}");
            Err(ValueError::new("22003", message).into())
        }
    }
}

/// `digits[.digits][e±digits]`, with a digit on at least one side of the point.
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_valid = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    exponent_is_valid && digits(whole) && digits(fraction) && whole.len() + fraction.len() > 0
}
