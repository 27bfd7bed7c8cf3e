//! Floating-point numbers as text. Never prints a decimal that lies exactly between two floats, even where it would read back: Postgres's
//! shortest form avoids them, unlike Ryu's.

use crate::value::{Settings, Unsupported};
use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;
use std::fmt::Write;

/// Significant digits and the decimal exponent of the first one.
struct Scientific {
    digits: SmallVec<[u8; 24]>,
    exponent: i32,
}

/// Appends `float8out`.
pub(crate) fn put_float8(
    out: &mut BytesMut,
    number: f64,
    settings: &Settings,
) -> Result<(), Unsupported> {
    if put_special(out, number) {
        return Ok(());
    }
    match settings.extra_float_digits.ok_or(Unsupported)? {
        1.. => put_scientific(out, number.is_sign_negative(), &shortest8(number.abs()), 15),
        extra => float8_digits(out, number, (15 + extra).max(1)),
    }
    Ok(())
}

/// Appends `float4out`.
pub(crate) fn put_float4(
    out: &mut BytesMut,
    number: f32,
    settings: &Settings,
) -> Result<(), Unsupported> {
    if put_special(out, f64::from(number)) {
        return Ok(());
    }
    match settings.extra_float_digits.ok_or(Unsupported)? {
        1.. => put_scientific(out, number.is_sign_negative(), &shortest4(number.abs()), 6),
        extra => float4_digits(out, number, (6 + extra).max(1)),
    }
    Ok(())
}

/// Appends a finite number as C's `%.*g` does.
pub(crate) fn float8_digits(out: &mut BytesMut, number: f64, precision: i32) {
    let rounded = with_digits(number.abs(), precision as usize);
    put_scientific(out, number.is_sign_negative(), &rounded, precision);
}

/// The same of a `real`.
pub(crate) fn float4_digits(out: &mut BytesMut, number: f32, precision: i32) {
    float8_digits(out, f64::from(number), precision);
}

fn put_special(out: &mut BytesMut, number: f64) -> bool {
    let text = match number {
        _ if number.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => return false,
    };
    out.put_slice(text.as_bytes());
    true
}

/// `%g`: an exponent when it is below -4 or not below `limit`.
fn put_scientific(out: &mut BytesMut, negative: bool, number: &Scientific, limit: i32) {
    let (digits, exponent) = (&number.digits[..], number.exponent);
    if negative {
        out.put_u8(b'-');
    }
    if exponent < -4 || exponent >= limit {
        out.put_u8(digits[0]);
        if digits.len() > 1 {
            out.put_u8(b'.');
            out.put_slice(&digits[1..]);
        }
        write!(
            out,
            "e{}{:02}",
            if exponent < 0 { '-' } else { '+' },
            exponent.abs()
        )
        .expect("the buffer grows");
        return;
    }
    if exponent < 0 {
        out.put_slice(b"0.");
        out.put_bytes(b'0', (-exponent - 1) as usize);
        out.put_slice(digits);
        return;
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        out.put_slice(digits);
        out.put_bytes(b'0', whole - digits.len());
    } else {
        out.put_slice(&digits[..whole]);
        out.put_u8(b'.');
        out.put_slice(&digits[whole..]);
    }
}

fn shortest8(number: f64) -> Scientific {
    let shortest = Scientific::read(ryu::Buffer::new().format_finite(number));
    let (fraction, raw_exponent) = (number.to_bits() & ((1 << 52) - 1), number.to_bits() >> 52);
    let (mantissa, exponent) = match raw_exponent {
        0 => (fraction, -1074),
        raw => (fraction | 1 << 52, raw as i32 - 1075),
    };
    if !shortest.is_midpoint(mantissa, exponent) {
        return shortest;
    }
    let longer = (shortest.digits.len()..17).map(|digits| with_digits(number, digits + 1));
    let mut inside = longer.filter(|candidate| {
        candidate.value() == Some(number) && !candidate.is_midpoint(mantissa, exponent)
    });
    inside.next().unwrap_or(shortest)
}

fn shortest4(number: f32) -> Scientific {
    let shortest = Scientific::read(ryu::Buffer::new().format_finite(number));
    let (fraction, raw_exponent) = (number.to_bits() & ((1 << 23) - 1), number.to_bits() >> 23);
    let (mantissa, exponent) = match raw_exponent {
        0 => (fraction, -149),
        raw => (fraction | 1 << 23, raw as i32 - 150),
    };
    if !shortest.is_midpoint(u64::from(mantissa), exponent) {
        return shortest;
    }
    let longer =
        (shortest.digits.len()..9).map(|digits| with_digits(f64::from(number), digits + 1));
    let mut inside = longer.filter(|candidate| {
        candidate.value() == Some(number) && !candidate.is_midpoint(u64::from(mantissa), exponent)
    });
    inside.next().unwrap_or(shortest)
}

/// Rounded to that many significant digits (half to even of the exact value), trailing zeros dropped.
fn with_digits(number: f64, digits: usize) -> Scientific {
    let mut text = SmallText::default();
    write!(text, "{:.*e}", digits - 1, number).expect("the buffer grows");
    Scientific::read(std::str::from_utf8(&text.0).expect("digits are ASCII"))
}

#[derive(Default)]
struct SmallText(SmallVec<[u8; 40]>);

impl Write for SmallText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Scientific {
    /// Reads `12.5`, `1.25e1`, `0.00125`.
    fn read(text: &str) -> Scientific {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let exponent: i32 = exponent.parse().expect("an exponent is a small integer");
        let whole = mantissa.find('.').unwrap_or(mantissa.len());
        let figures = mantissa.bytes().filter(|byte| *byte != b'.');
        let leading = figures.clone().take_while(|byte| *byte == b'0').count();
        let mut digits: SmallVec<[u8; 24]> = figures.skip(leading).collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            digits.push(b'0');
            return Scientific {
                digits,
                exponent: 0,
            };
        }
        Scientific {
            digits,
            exponent: exponent + whole as i32 - 1 - leading as i32,
        }
    }

    /// Whether the decimal is exactly half-way between `mantissa * 2^exponent` and a neighbour.
    fn is_midpoint(&self, mantissa: u64, exponent: i32) -> bool {
        let figures = self
            .digits
            .iter()
            .fold(0u128, |n, digit| n * 10 + u128::from(digit - b'0'));
        let tens = self.exponent + 1 - self.digits.len() as i32;
        // figures * 10^tens = middle * 2^halves. Below a power of two the neighbour is at half the distance.
        let double = 2 * u128::from(mantissa);
        let below = match mantissa.is_power_of_two() {
            true => (2 * double - 1, exponent - 2),
            false => (double.saturating_sub(1), exponent - 1),
        };
        let above = (double + 1, exponent - 1);
        same(figures, tens, above) || same(figures, tens, below)
    }

    /// The nearest float.
    fn value<F: std::str::FromStr>(&self) -> Option<F> {
        let digits = std::str::from_utf8(&self.digits).expect("digits are ASCII");
        let tens = self.exponent + 1 - self.digits.len() as i32;
        format!("{digits}e{tens}").parse().ok()
    }
}

/// Whether `figures * 10^tens = number * 2^twos`.
fn same(figures: u128, tens: i32, (number, twos): (u128, i32)) -> bool {
    if figures == 0 || number == 0 || tens.abs() > 27 {
        return false;
    }
    let fives = 5u128.pow(tens.unsigned_abs());
    let (left, right) = if tens >= 0 {
        (figures.checked_mul(fives), Some(number))
    } else {
        (Some(figures), number.checked_mul(fives))
    };
    let (Some(left), Some(right)) = (left, right) else {
        return false;
    };
    let (left_twos, right_twos) = (left.trailing_zeros() as i32, right.trailing_zeros() as i32);
    left >> left_twos == right >> right_twos && left_twos + tens == right_twos + twos
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown8(number: f64, extra_float_digits: i32) -> String {
        let settings = Settings {
            extra_float_digits: Some(extra_float_digits),
            ..Settings::default()
        };
        let mut out = BytesMut::new();
        put_float8(&mut out, number, &settings).unwrap();
        String::from_utf8(out.into()).unwrap()
    }

    #[test]
    fn shortest_form_is_written_as_postgres_does() {
        let facts = [
            (1e15, "1e+15"),
            (123456789012345.0, "123456789012345"),
            (0.0001, "0.0001"),
            (1e-5, "1e-05"),
            (-0.0, "-0"),
            (5e-324, "5e-324"),
            (1e300, "1e+300"),
            (0.1, "0.1"),
        ];
        for (number, text) in facts {
            assert_eq!(shown8(number, 1), text);
        }
    }

    #[test]
    fn decimal_between_two_floats_is_not_printed() {
        assert_eq!(shown8(1e23, 1), "9.999999999999999e+22");
    }

    #[test]
    fn few_digits_are_rounded() {
        assert_eq!(shown8(0.1 + 0.2, 0), "0.3");
        assert_eq!(shown8(123456.0, -12), "1.23e+05");
        assert_eq!(shown8(2.5, -14), "2");
    }
}
