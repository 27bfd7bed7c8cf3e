//! Exact arithmetic of numerics, with the result scales that Postgres chooses. Never computes with the infinities: they are refused.

use super::{BASE, DECIMALS, DIGITS_MAX, Decimal, Digits, Kind, Numeric};
use crate::value::{Failure, Unsupported, ValueError};
use smallvec::SmallVec;
use std::cmp::Ordering;

/// Significant decimal digits that a quotient has at least (`NUMERIC_MIN_SIG_DIGITS`).
const QUOTIENT_DIGITS_MIN: i32 = 16;
/// Largest scale that Postgres chooses for a quotient (`NUMERIC_MAX_DISPLAY_SCALE`).
const QUOTIENT_SCALE_MAX: i32 = 1000;

type Exact = Result<Decimal, Unsupported>;

impl Numeric {
    /// `self + other`
    pub fn plus(&self, other: &Numeric) -> Result<Numeric, Failure> {
        self.with(other, |left, right| Ok(left.plus(right)?))
    }

    /// `self - other`
    pub fn minus(&self, other: &Numeric) -> Result<Numeric, Failure> {
        self.with(other, |left, right| Ok(left.plus(&right.negated())?))
    }

    /// `self * other`
    pub fn times(&self, other: &Numeric) -> Result<Numeric, Failure> {
        self.with(other, |left, right| Ok(left.times(right)?))
    }

    /// `self / other`
    pub fn divided_by(&self, other: &Numeric) -> Result<Numeric, Failure> {
        self.with(other, |left, right| {
            let divisor = right.nonzero()?;
            let scale = quotient_scale(left, divisor);
            Ok(left.quotient(divisor, scale, true)?)
        })
    }

    /// `self % other`
    pub fn modulo(&self, other: &Numeric) -> Result<Numeric, Failure> {
        self.with(other, |left, right| {
            let divisor = right.nonzero()?;
            let whole = left.quotient(divisor, 0, false)?;
            Ok(left.plus(&whole.times(divisor)?.negated())?)
        })
    }

    /// `- self`
    pub fn negated(&self) -> Numeric {
        Numeric(match &self.0 {
            Kind::NotANumber => Kind::NotANumber,
            Kind::Infinity { negative } => Kind::Infinity {
                negative: !negative,
            },
            Kind::Finite(number) => Kind::Finite(number.negated()),
        })
    }

    /// `abs(self)`
    pub fn absolute(&self) -> Numeric {
        if self.is_negative() {
            self.negated()
        } else {
            self.clone()
        }
    }

    /// Less than zero.
    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Kind::NotANumber => false,
            Kind::Infinity { negative } => *negative,
            Kind::Finite(number) => number.negative,
        }
    }

    /// `round(self, scale)`: half away from zero.
    pub fn rounded(&self, scale: i32) -> Result<Numeric, Unsupported> {
        self.map(|number| number.rounded(scale))
    }

    /// `trunc(self, scale)`
    pub fn truncated(&self, scale: i32) -> Result<Numeric, Unsupported> {
        self.map(|number| number.truncated(scale))
    }

    /// `floor(self)`
    pub fn floor(&self) -> Result<Numeric, Unsupported> {
        self.map(|number| {
            let whole = number.truncated(0)?;
            match number.negative && number.order(&whole) != Ordering::Equal {
                true => whole.plus(&Decimal::one(true)),
                false => Ok(whole),
            }
        })
    }

    /// `ceil(self)`
    pub fn ceil(&self) -> Result<Numeric, Unsupported> {
        Ok(self.negated().floor()?.negated())
    }

    /// `sign(self)`
    pub fn sign(&self) -> Result<Numeric, Unsupported> {
        self.map(|number| match number.digits.is_empty() {
            true => Ok(Decimal::default()),
            false => Ok(Decimal::one(number.negative)),
        })
    }

    /// SQL's order: NaN equals itself and is above everything.
    pub fn order(&self, other: &Numeric) -> Ordering {
        match (&self.0, &other.0) {
            (Kind::Finite(left), Kind::Finite(right)) => left.order(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    /// The integer nearest, half away from zero; `None` when an `i64` does not hold it.
    pub(crate) fn to_i64(&self) -> Result<Option<i64>, Unsupported> {
        let whole = self.finite().ok_or(Unsupported)?.rounded(0)?;
        let mut number = 0i128;
        if whole.weight > 8 {
            return Ok(None);
        }
        for place in 0..=whole.weight {
            let digit = whole.digits.get(place as usize).copied().unwrap_or(0);
            number = number * i128::from(BASE) + i128::from(digit);
        }
        let signed = if whole.negative { -number } else { number };
        Ok(i64::try_from(signed).ok())
    }

    /// Decimal figures before the point (negative: zeros after it); `None` of zero and of NaN.
    pub(crate) fn whole_figures(&self) -> Option<i32> {
        let number = self.finite()?;
        let first = number.digits.first()?.ilog10() as i32 + 1;
        Some(number.weight * DECIMALS + first)
    }

    fn rank(&self) -> i32 {
        match self.0 {
            Kind::NotANumber => 2,
            Kind::Infinity { negative: false } => 1,
            Kind::Finite(_) => 0,
            Kind::Infinity { negative: true } => -1,
        }
    }

    /// NaN stays NaN, the infinities are refused.
    fn map(&self, f: impl Fn(&Decimal) -> Exact) -> Result<Numeric, Unsupported> {
        match &self.0 {
            Kind::NotANumber => Ok(self.clone()),
            Kind::Infinity { .. } => Err(Unsupported),
            Kind::Finite(number) => f(number).map(Numeric::from),
        }
    }

    fn with(
        &self,
        other: &Numeric,
        f: impl Fn(&Decimal, &Decimal) -> Result<Decimal, Failure>,
    ) -> Result<Numeric, Failure> {
        match (&self.0, &other.0) {
            (Kind::Finite(left), Kind::Finite(right)) => f(left, right).map(Numeric::from),
            (Kind::NotANumber, _) | (_, Kind::NotANumber) => Ok(Numeric(Kind::NotANumber)),
            _ => Err(Failure::Refused),
        }
    }
}

/// The scale of a quotient, as `select_div_scale` estimates it from the first digits.
fn quotient_scale(dividend: &Decimal, divisor: &Decimal) -> i32 {
    let first = |number: &Decimal| number.digits.first().copied().unwrap_or(0);
    let mut weight = dividend.weight - divisor.weight;
    if first(dividend) <= first(divisor) {
        weight -= 1;
    }
    (QUOTIENT_DIGITS_MIN - weight * DECIMALS)
        .max(i32::from(dividend.scale))
        .max(i32::from(divisor.scale))
        .clamp(0, QUOTIENT_SCALE_MAX)
}

impl Decimal {
    fn one(negative: bool) -> Decimal {
        Decimal {
            negative,
            weight: 0,
            scale: 0,
            digits: SmallVec::from_slice(&[1]),
        }
    }

    fn nonzero(&self) -> Result<&Decimal, ValueError> {
        match self.digits.is_empty() {
            true => Err(ValueError::new("22012", "division by zero")),
            false => Ok(self),
        }
    }

    fn negated(&self) -> Decimal {
        Decimal {
            negative: !self.negative && !self.digits.is_empty(),
            ..self.clone()
        }
    }

    fn order(&self, other: &Decimal) -> Ordering {
        match (self.negative, other.negative) {
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.order_absolute(other),
            (true, true) => other.order_absolute(self),
        }
    }

    fn order_absolute(&self, other: &Decimal) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (false, false) => {}
            (left, right) => return right.cmp(&left),
        }
        self.weight
            .cmp(&other.weight)
            .then_with(|| self.digits.cmp(&other.digits))
    }

    /// Weight of the last digit.
    fn lowest(&self) -> i32 {
        self.weight - self.digits.len() as i32 + 1
    }

    /// The digit at a weight, 0 outside.
    fn digit_at(&self, weight: i32) -> i32 {
        let index = usize::try_from(self.weight - weight).ok();
        index
            .and_then(|index| self.digits.get(index))
            .map_or(0, |digit| i32::from(*digit))
    }

    fn plus(&self, other: &Decimal) -> Exact {
        let scale = i32::from(self.scale.max(other.scale));
        let (big, small) = match self.order_absolute(other) {
            Ordering::Less => (other, self),
            _ => (self, other),
        };
        let (top, bottom) = (big.weight + 1, self.lowest().min(other.lowest()));
        if (top - bottom) as usize > 2 * DIGITS_MAX {
            return Err(Unsupported);
        }
        let sign = if self.negative == other.negative {
            1
        } else {
            -1
        };
        let mut digits = Digits::new();
        let mut carry = 0;
        for weight in bottom..=top {
            let sum = big.digit_at(weight) + sign * small.digit_at(weight) + carry;
            digits.push(sum.rem_euclid(BASE) as i16);
            carry = sum.div_euclid(BASE);
        }
        assert_eq!(carry, 0, "the larger magnitude comes first");
        digits.reverse();
        Decimal::new(big.negative, top, scale, digits)
    }

    fn times(&self, other: &Decimal) -> Exact {
        let scale = i32::from(self.scale) + i32::from(other.scale);
        let mut product = vec![0u64; self.digits.len() + other.digits.len()];
        for (i, left) in self.digits.iter().enumerate() {
            for (j, right) in other.digits.iter().enumerate() {
                product[i + j + 1] += *left as u64 * *right as u64;
            }
        }
        let mut carry = 0;
        for digit in product.iter_mut().rev() {
            let sum = *digit + carry;
            *digit = sum % BASE as u64;
            carry = sum / BASE as u64;
        }
        let digits = product.iter().map(|digit| *digit as i16).collect();
        let negative = self.negative != other.negative;
        Decimal::new(negative, self.weight + other.weight + 1, scale, digits)
    }

    /// The quotient rounded (half away from zero) or cut at a scale.
    fn quotient(&self, divisor: &Decimal, scale: i32, round: bool) -> Exact {
        // One digit more than the scale shows decides the rounding; what is cut below it cannot change it.
        let wanted = (scale + DECIMALS - 1) / DECIMALS + 1;
        let shift = (wanted + self.lowest() - divisor.lowest()).max(0);
        if shift as usize > 3 * DIGITS_MAX {
            return Err(Unsupported);
        }
        let mut dividend: Vec<i64> = self.digits.iter().map(|digit| i64::from(*digit)).collect();
        dividend.resize(dividend.len() + shift as usize, 0);
        let divisor_digits: Vec<i64> = divisor
            .digits
            .iter()
            .map(|digit| i64::from(*digit))
            .collect();
        let digits = divide(dividend, &divisor_digits);
        let lowest = self.lowest() - divisor.lowest() - shift;
        let weight = lowest + digits.len() as i32 - 1;
        let negative = self.negative != divisor.negative;
        let exact = Long {
            negative,
            weight,
            digits,
        };
        exact.cut(scale, round)
    }

    fn rounded(&self, scale: i32) -> Exact {
        self.long().cut(scale, true)
    }

    fn truncated(&self, scale: i32) -> Exact {
        self.long().cut(scale, false)
    }

    fn long(&self) -> Long {
        Long {
            negative: self.negative,
            weight: self.weight,
            digits: self.digits.iter().copied().collect(),
        }
    }
}

/// A number of any length, zeros at the ends included, on its way to be cut to a scale.
struct Long {
    negative: bool,
    weight: i32,
    digits: Vec<i16>,
}

impl Long {
    fn cut(mut self, scale: i32, round: bool) -> Exact {
        let shown = scale.max(0);
        let places = (self.weight + 1) * DECIMALS + scale;
        if places < 0 {
            return Decimal::new(false, 0, shown, Digits::new());
        }
        let (whole, part) = ((places / DECIMALS) as usize, places % DECIMALS);
        // The digit in which the cut falls, its part below the cut, and the half and whole of the last kept place.
        let unit = 10i16.pow((DECIMALS - part) as u32);
        let Some(split) = self.digits.get(whole).copied() else {
            return Decimal::new(self.negative, self.weight, shown, self.digits.into());
        };
        let below = split % unit;
        self.digits.truncate(whole);
        let mut kept = split - below;
        let mut carry = round && below >= unit / 2;
        if part != 0 {
            kept += if carry { unit } else { 0 };
            carry = kept >= BASE as i16;
            self.digits.push(kept % BASE as i16);
        }
        let last = self.digits.len() - usize::from(part != 0);
        for digit in self.digits[..last].iter_mut().rev() {
            if !carry {
                break;
            }
            *digit += 1;
            carry = *digit == BASE as i16;
            *digit %= BASE as i16;
        }
        if carry {
            self.digits.insert(0, 1);
            self.weight += 1;
        }
        Decimal::new(self.negative, self.weight, shown, self.digits.into())
    }
}

/// Long division of whole numbers in base 10000 (Knuth, The Art of Computer Programming 4.3.1, algorithm D); the remainder is dropped.
fn divide(mut dividend: Vec<i64>, divisor: &[i64]) -> Vec<i16> {
    let base = i64::from(BASE);
    if let [divisor] = divisor {
        let mut rest = 0;
        let step = |digit: i64| {
            let value = rest * base + digit;
            rest = value % divisor;
            (value / divisor) as i16
        };
        return dividend.into_iter().map(step).collect();
    }
    // Scaled so that the divisor's first digit is at least half the base: then an estimate from two digits is at most two too large.
    let factor = base / (divisor[0] + 1);
    dividend.insert(0, 0);
    scale_up(&mut dividend, factor);
    let mut divisor = divisor.to_vec();
    scale_up(&mut divisor, factor);
    let length = divisor.len();
    let mut quotient = Vec::new();
    for at in 0..dividend.len().saturating_sub(length) {
        let top = dividend[at] * base + dividend[at + 1];
        let mut guess = (top / divisor[0]).min(base - 1);
        let third = dividend[at + 2];
        while guess * divisor[1] > (top - guess * divisor[0]) * base + third {
            guess -= 1;
        }
        if !subtract(&mut dividend[at..=at + length], &divisor, guess) {
            guess -= 1;
            let back = subtract(&mut dividend[at..=at + length], &divisor, -1);
            assert!(!back, "adding the divisor back carries out of the borrow");
        }
        quotient.push(guess as i16);
    }
    quotient
}

fn scale_up(digits: &mut [i64], factor: i64) {
    let base = i64::from(BASE);
    let mut carry = 0;
    for digit in digits.iter_mut().rev() {
        let value = *digit * factor + carry;
        *digit = value % base;
        carry = value / base;
    }
    assert_eq!(carry, 0, "room was made for the carry");
}

/// `window -= times * divisor`, modulo the window's size; whether nothing was borrowed or carried beyond it.
fn subtract(window: &mut [i64], divisor: &[i64], times: i64) -> bool {
    let base = i64::from(BASE);
    let mut carry = 0;
    for (digit, part) in window[1..].iter_mut().zip(divisor).rev() {
        let value = *digit - times * part + carry;
        *digit = value.rem_euclid(base);
        carry = value.div_euclid(base);
    }
    let value = window[0] + carry;
    window[0] = value.rem_euclid(base);
    value.div_euclid(base) == 0
}
