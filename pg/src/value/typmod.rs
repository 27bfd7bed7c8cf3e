//! Type modifiers: `varchar(n)`, `char(n)`, `numeric(p,s)`, `timestamp(p)`. Never shortens silently where Postgres raises an error.

use super::calendar::{MICROS_PER_DAY, TIMESTAMP_END, TIMESTAMP_MIN};
use super::data::{array, text};
use super::{Failure, Numeric, ValueError, oid};
use crate::ids::TypeOid;

/// What storing a binary form in a column with that modifier makes of it. `explicit` is a cast written out (`x::varchar(3)` cuts), else an
/// assignment or a literal (error unless only blanks are lost).
pub fn coerce_typmod(
    type_oid: TypeOid,
    type_modifier: i32,
    bytes: &[u8],
    explicit: bool,
) -> Result<Vec<u8>, Failure> {
    if type_modifier < 0 {
        return Ok(bytes.to_vec());
    }
    match type_oid {
        oid::VARCHAR | oid::BPCHAR => {
            let characters = usize::try_from(type_modifier - 4).map_err(|_| Failure::Refused)?;
            coerce_text(type_oid, &text(bytes)?, characters, explicit)
        }
        oid::NUMERIC => {
            let number = coerce_numeric(&Numeric::decode(bytes)?, type_modifier)?;
            let mut out = Vec::new();
            number.encode(&mut out);
            Ok(out)
        }
        oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            let micros = i64::from_be_bytes(array(bytes)?);
            let rounded = round_micros(micros, type_modifier).ok_or(Failure::Refused)?;
            let infinite = matches!(micros, i64::MIN | i64::MAX);
            match infinite || (TIMESTAMP_MIN..TIMESTAMP_END).contains(&rounded) {
                true => Ok(if infinite { micros } else { rounded }.to_be_bytes().into()),
                false => Err(Failure::Refused),
            }
        }
        oid::TIME => {
            let micros = i64::from_be_bytes(array(bytes)?);
            let rounded = round_micros(micros, type_modifier).ok_or(Failure::Refused)?;
            match (0..=MICROS_PER_DAY).contains(&rounded) {
                true => Ok(rounded.to_be_bytes().into()),
                false => Err(Failure::Refused),
            }
        }
        _ => Err(Failure::Refused),
    }
}

/// Precision and scale of `numeric(p,s)`; `None` without modifier.
pub(crate) fn numeric_limits(type_modifier: i32) -> Option<(i32, i32)> {
    let packed = type_modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    // The scale has 11 bits and a sign since Postgres 15; before it was never negative.
    Some(((packed >> 16) & 0xffff, ((packed & 0x7ff) ^ 1024) - 1024))
}

/// A numeric as `numeric(p,s)` holds it.
pub(crate) fn coerce_numeric(number: &Numeric, type_modifier: i32) -> Result<Numeric, Failure> {
    let Some((precision, scale)) = numeric_limits(type_modifier) else {
        return Ok(number.clone());
    };
    let rounded = number.rounded(scale)?;
    let whole_max = precision - scale;
    if rounded
        .whole_figures()
        .is_none_or(|whole| whole <= whole_max)
    {
        return Ok(rounded);
    }
    let limit = match whole_max {
        0 => "1".to_owned(),
        _ => format!("10^{whole_max}"),
    };
    let error = ValueError::new("22003", "numeric field overflow");
    Err(error
        .with_detail(format!(
            "A field with precision {precision}, scale {scale} must round to an absolute value less than {limit}."
        ))
        .into())
}

fn coerce_text(
    type_oid: TypeOid,
    text: &str,
    characters: usize,
    explicit: bool,
) -> Result<Vec<u8>, Failure> {
    let padded = type_oid == oid::BPCHAR;
    let Some((end, _)) = text.char_indices().nth(characters) else {
        let missing = if padded {
            characters - text.chars().count()
        } else {
            0
        };
        let blanks = std::iter::repeat_n(b' ', missing);
        return Ok(text.bytes().chain(blanks).collect());
    };
    let (kept, excess) = text.split_at(end);
    if explicit || excess.bytes().all(|byte| byte == b' ') {
        return Ok(kept.into());
    }
    let name = if padded {
        "character"
    } else {
        "character varying"
    };
    let message = format!("value too long for type {name}({characters})");
    Err(ValueError::new("22001", message).into())
}

/// Rounds to a precision of 0 to 6 decimals, half away from zero.
fn round_micros(micros: i64, precision: i32) -> Option<i64> {
    let unit = 10i64.pow(
        u32::try_from(precision)
            .ok()
            .filter(|p| *p <= 6)
            .map(|p| 6 - p)?,
    );
    let magnitude = micros.checked_abs()?.checked_add(unit / 2)? / unit * unit;
    Some(magnitude * micros.signum())
}
