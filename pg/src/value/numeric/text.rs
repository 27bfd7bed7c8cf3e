//! Text forms of numerics. Never accepts more than decimal notation: what newer versions of Postgres added is refused.

use super::{DECIMALS, Decimal, Digits, Kind, Numeric};
use crate::value::parse::is_blank;
use crate::value::{Failure, ValueError};
use bytes::{BufMut, BytesMut};

/// Longest text and largest exponent read here.
const TEXT_MAX: usize = 2000;
const EXPONENT_MAX: i32 = 1000;

impl Numeric {
    /// Appends the text form, as `numeric_out`.
    pub fn render(&self, out: &mut BytesMut) {
        match &self.0 {
            Kind::NotANumber => out.put_slice(b"NaN"),
            Kind::Infinity { negative: false } => out.put_slice(b"Infinity"),
            Kind::Infinity { negative: true } => out.put_slice(b"-Infinity"),
            Kind::Finite(number) => number.render(out),
        }
    }

    /// The text form.
    pub fn to_text(&self) -> String {
        let mut out = BytesMut::new();
        self.render(&mut out);
        String::from_utf8(out.into()).expect("digits are ASCII")
    }

    /// Reads a text form, blanks around it allowed, without regard to any modifier.
    pub fn parse(text: &str) -> Result<Numeric, Failure> {
        let body = text.trim_matches(is_blank);
        if body.eq_ignore_ascii_case("nan") {
            return Ok(Numeric(Kind::NotANumber));
        }
        let decimal = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        if body.len() > TEXT_MAX || (!body.chars().all(decimal) && maybe_other_notation(body)) {
            return Err(Failure::Refused);
        }
        Decimal::parse(body)?.map(Numeric::from).ok_or_else(|| {
            let message = format!("invalid input syntax for type numeric: \"{text}\"");
            ValueError::new("22P02", message).into()
        })
    }
}

/// Infinities (from Postgres 14), hexadecimal and so on, and underscores (from 16): their errors differ between versions.
fn maybe_other_notation(body: &str) -> bool {
    let unsigned = body.trim_start_matches(['+', '-']).to_ascii_lowercase();
    body.contains('_')
        || ["i", "n", "0x", "0o", "0b"]
            .iter()
            .any(|start| unsigned.starts_with(start))
}

impl Decimal {
    fn render(&self, out: &mut BytesMut) {
        if self.negative {
            out.put_u8(b'-');
        }
        let digit_at = |place: i32| {
            let index = usize::try_from(self.weight - place).ok();
            index
                .and_then(|index| self.digits.get(index))
                .copied()
                .unwrap_or(0)
        };
        if self.weight < 0 || self.digits.is_empty() {
            out.put_u8(b'0');
        } else {
            super::super::render::put_integer(out, digit_at(self.weight));
            for place in (0..self.weight).rev() {
                out.put_slice(&decimals(digit_at(place)));
            }
        }
        let mut left = usize::from(self.scale);
        if left > 0 {
            out.put_u8(b'.');
        }
        let mut place = -1;
        while left > 0 {
            let shown = left.min(DECIMALS as usize);
            out.put_slice(&decimals(digit_at(place))[..shown]);
            left -= shown;
            place -= 1;
        }
    }

    /// Reads decimal notation; `None` when it is not that.
    fn parse(text: &str) -> Result<Option<Decimal>, Failure> {
        let (negative, unsigned) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            all => (false, all),
        };
        let end = unsigned.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (mantissa, exponent) = unsigned.split_at(end.unwrap_or(unsigned.len()));
        let exponent = match exponent {
            [] => 0,
            [_, rest @ ..] => match read_exponent(rest) {
                Some(exponent) if exponent.abs() > EXPONENT_MAX => return Err(Failure::Refused),
                Some(exponent) => exponent,
                None => return Ok(None),
            },
        };
        let point = mantissa.iter().position(|byte| *byte == b'.');
        let whole = point.unwrap_or(mantissa.len());
        let fraction = mantissa.get(whole + 1..).unwrap_or_default();
        let mut figures = mantissa[..whole].to_vec();
        figures.extend_from_slice(fraction);
        if figures.is_empty() || !figures.iter().all(u8::is_ascii_digit) {
            return Ok(None);
        }
        let scale = (fraction.len() as i32 - exponent).max(0);
        let number = Decimal::from_figures(negative, &figures, whole as i32 + exponent, scale)?;
        Ok(Some(number))
    }

    /// From decimal figures (ASCII), `point` of which stand before the point.
    fn from_figures(
        negative: bool,
        figures: &[u8],
        point: i32,
        scale: i32,
    ) -> Result<Decimal, Failure> {
        let pad = (-point).rem_euclid(DECIMALS);
        let zeros = std::iter::repeat_n(b'0', pad as usize);
        let aligned: Vec<u8> = zeros.chain(figures.iter().copied()).collect();
        let digit = |chunk: &[u8]| {
            let place = |index: usize| i16::from(chunk.get(index).map_or(0, |byte| byte - b'0'));
            place(0) * 1000 + place(1) * 100 + place(2) * 10 + place(3)
        };
        let digits: Digits = aligned.chunks(DECIMALS as usize).map(digit).collect();
        Ok(Decimal::new(
            negative,
            (point + pad) / DECIMALS - 1,
            scale,
            digits,
        )?)
    }
}

fn read_exponent(text: &[u8]) -> Option<i32> {
    let (negative, figures) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if figures.is_empty() || !figures.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let figures = std::str::from_utf8(figures).expect("digits are ASCII");
    // Too long for an i32 is far above the bound, and refused there.
    let number = figures.parse().unwrap_or(EXPONENT_MAX + 1);
    Some(if negative { -number } else { number })
}

fn decimals(digit: i16) -> [u8; 4] {
    [1000, 100, 10, 1].map(|unit| b'0' + (digit / unit % 10) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Numeric {
        Numeric::parse(text).unwrap()
    }

    #[test]
    fn scale_is_kept() {
        for text in ["0", "0.00", "-1.50", "10000", "99999999.0001", "0.00012300"] {
            assert_eq!(number(text).to_text(), text);
        }
        assert_eq!(number("1.5e3").to_text(), "1500");
        assert_eq!(number("15e-3").to_text(), "0.015");
        assert_eq!(number(" .5 ").to_text(), "0.5");
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        for text in ["", ".", "abc", "1e", "1.2.3", "--1"] {
            assert!(
                matches!(Numeric::parse(text), Err(Failure::Sql(_))),
                "{text}"
            );
        }
        assert_eq!(Numeric::parse("0x10"), Err(Failure::Refused));
        assert_eq!(Numeric::parse("1e5000"), Err(Failure::Refused));
    }

    #[test]
    fn quotients_have_postgres_scale() {
        let over =
            |left: &str, right: &str| number(left).divided_by(&number(right)).unwrap().to_text();
        assert_eq!(over("1", "3"), "0.33333333333333333333");
        assert_eq!(over("10", "4"), "2.5000000000000000");
        assert_eq!(over("-7", "2.00"), "-3.5000000000000000");
        assert_eq!(over("2", "3"), "0.66666666666666666667");
        let whole = number("1").divided_by(&number("0.0"));
        assert_eq!(whole.unwrap_err().to_string(), "division by zero");
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        let round = |text: &str, scale| number(text).rounded(scale).unwrap().to_text();
        assert_eq!(round("2.5", 0), "3");
        assert_eq!(round("-2.5", 0), "-3");
        assert_eq!(round("9999.995", 2), "10000.00");
        assert_eq!(round("149", -2), "100");
        assert_eq!(round("150", -2), "200");
        assert_eq!(round("49", -2), "0");
        assert_eq!(round("50", -2), "100");
        assert_eq!(round("1.5", 4), "1.5000");
    }

    #[test]
    fn equal_numbers_have_one_canonical_form() {
        let canonical = |text: &str| number(text).canonical();
        assert_eq!(canonical("1.0"), canonical("1.00"));
        assert_eq!(canonical("100"), canonical("1e2"));
        assert_eq!(canonical("-0.0"), canonical("0"));
        assert_ne!(canonical("1.0"), canonical("1.01"));
    }
}
