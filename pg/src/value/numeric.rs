//! `numeric` as Postgres keeps it: digits in base 10000 and a display scale. Never loses a trailing zero that Postgres would show.

use super::Unsupported;
use super::data::array;
use smallvec::SmallVec;

mod arithmetic;
mod text;

/// Decimal digits per digit of the representation.
pub(crate) const DECIMALS: i32 = 4;
/// The base.
pub(crate) const BASE: i32 = 10_000;
/// Largest number of digits (base 10000) computed with here; larger ones are refused. Far above what a price or a sensor needs, far below what
/// would hold up a session.
const DIGITS_MAX: usize = 1024;

/// Base-10000 digits, most significant first.
pub(crate) type Digits = SmallVec<[i16; 8]>;

/// A `numeric`. Equality of the Rust values is sameness (scale included); `=` of SQL is [`super::ops::equal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numeric(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    NotANumber,
    Infinity { negative: bool },
    Finite(Decimal),
}

/// A finite number: ± digits[0].digits[1]… × 10000^weight. Invariant: neither first nor last digit is 0; zero has no digits, weight 0 and no sign.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Decimal {
    pub negative: bool,
    pub weight: i32,
    pub scale: u16,
    pub digits: Digits,
}

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NOT_A_NUMBER: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

impl Numeric {
    /// Reads a binary form; refuses very long numbers.
    pub fn decode(bytes: &[u8]) -> Result<Numeric, Unsupported> {
        let (head, body) = bytes.split_first_chunk::<8>().ok_or(Unsupported)?;
        let field = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let count = usize::from(field(0));
        if body.len() != count * 2 || count > DIGITS_MAX {
            return Err(Unsupported);
        }
        let negative = match field(4) {
            NOT_A_NUMBER => return Ok(Numeric(Kind::NotANumber)),
            sign @ (INFINITY | NEGATIVE_INFINITY) => {
                let negative = sign == NEGATIVE_INFINITY;
                return Ok(Numeric(Kind::Infinity { negative }));
            }
            POSITIVE => false,
            NEGATIVE => true,
            _ => return Err(Unsupported),
        };
        let digits = body
            .chunks_exact(2)
            .map(|pair| array(pair).map(i16::from_be_bytes))
            .collect::<Result<Digits, _>>()?;
        if digits.iter().any(|digit| !(0..BASE as i16).contains(digit)) {
            return Err(Unsupported);
        }
        let weight = i32::from(field(2) as i16);
        Decimal::new(negative, weight, i32::from(field(6)), digits).map(Numeric::from)
    }

    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |field: u16| out.extend_from_slice(&field.to_be_bytes());
        let (sign, scale) = match &self.0 {
            Kind::NotANumber => (NOT_A_NUMBER, 0),
            // Postgres sends the infinities with the scale of their storage form, which is 32.
            Kind::Infinity { negative: false } => (INFINITY, 32),
            Kind::Infinity { negative: true } => (NEGATIVE_INFINITY, 32),
            Kind::Finite(number) => {
                put(number.digits.len() as u16);
                put(number.weight as i16 as u16);
                put(if number.negative { NEGATIVE } else { POSITIVE });
                put(number.scale);
                number.digits.iter().for_each(|digit| put(*digit as u16));
                return;
            }
        };
        [0, 0, sign, scale].into_iter().for_each(put);
    }

    /// The equal number without trailing zeros after the point: one form for all equal numbers.
    pub fn canonical(&self) -> Numeric {
        match &self.0 {
            Kind::Finite(number) => {
                let mut number = number.clone();
                number.scale = number.needed_scale();
                Numeric::from(number)
            }
            _ => self.clone(),
        }
    }

    /// Neither NaN nor infinite.
    pub fn is_finite(&self) -> bool {
        matches!(self.0, Kind::Finite(_))
    }

    /// Digits shown after the point; 0 for NaN and the infinities.
    pub fn scale(&self) -> u16 {
        self.finite().map_or(0, |number| number.scale)
    }

    pub(crate) fn finite(&self) -> Option<&Decimal> {
        match &self.0 {
            Kind::Finite(number) => Some(number),
            _ => None,
        }
    }
}

impl From<Decimal> for Numeric {
    fn from(number: Decimal) -> Numeric {
        Numeric(Kind::Finite(number))
    }
}

impl From<i64> for Numeric {
    fn from(number: i64) -> Numeric {
        let mut rest = number.unsigned_abs();
        let mut digits = Digits::new();
        while rest > 0 {
            digits.insert(0, (rest % BASE as u64) as i16);
            rest /= BASE as u64;
        }
        let weight = digits.len() as i32 - 1;
        Decimal::new(number < 0, weight, 0, digits)
            .expect("an i64 is a short numeric")
            .into()
    }
}

impl Decimal {
    /// Strips zeros and checks the bounds.
    pub fn new(
        negative: bool,
        weight: i32,
        scale: i32,
        mut digits: Digits,
    ) -> Result<Decimal, Unsupported> {
        let leading = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..leading);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        let zero = digits.is_empty();
        let weight = if zero { 0 } else { weight - leading as i32 };
        let within = digits.len() <= DIGITS_MAX && weight.unsigned_abs() as usize <= DIGITS_MAX;
        let scale = u16::try_from(scale)
            .ok()
            .filter(|scale| usize::from(*scale) <= DIGITS_MAX * 4);
        match scale {
            Some(scale) if within => Ok(Decimal {
                negative: negative && !zero,
                weight,
                scale,
                digits,
            }),
            _ => Err(Unsupported),
        }
    }

    /// The smallest scale that shows every digit.
    fn needed_scale(&self) -> u16 {
        let Some(last) = self.digits.last() else {
            return 0;
        };
        let mut scale = (self.digits.len() as i32 - 1 - self.weight) * DECIMALS;
        let mut last = *last;
        while last % 10 == 0 {
            last /= 10;
            scale -= 1;
        }
        scale.max(0) as u16
    }
}
