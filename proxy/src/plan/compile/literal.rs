//! Constants of the grammar, and quoted literals once their type is known. Never reads a literal whose meaning depends on a setting.

use super::{Compiled, Compiler, Piece, plain, refuse};
use crate::eval::bind::{ParamType, parse};
use crate::eval::expr::{Expr, Node, Repr};
use crate::plan::parse::pb;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::{Settings, Value, oid};

/// A constant as the grammar gives it.
pub fn constant(constant: &pb::AConst) -> Compiled<Piece> {
    use pb::a_const::Val;
    if constant.isnull {
        return Ok(Piece::Literal(None));
    }
    match &constant.val {
        Some(Val::Ival(number)) => Ok(Piece::Typed(known(&Value::Int4(number.ival)))),
        Some(Val::Fval(number)) => number_constant(&number.fval),
        Some(Val::Boolval(truth)) => Ok(Piece::Typed(known(&Value::Bool(truth.boolval)))),
        Some(Val::Sval(text)) => Ok(Piece::Literal(Some(text.sval.clone()))),
        // The decoder leaves out a value that is all zero.
        None => Ok(Piece::Typed(known(&Value::Int4(0)))),
        Some(Val::Bsval(_)) => refuse("literal", "holds a bit string"),
    }
}

/// Digits, perhaps with point and exponent: integer if it fits, else bigint, else numeric.
fn number_constant(text: &str) -> Compiled<Piece> {
    let integer = text.parse::<i64>().ok();
    if let Some(small) = integer.and_then(|number| i32::try_from(number).ok()) {
        return Ok(Piece::Typed(known(&Value::Int4(small))));
    }
    if let Some(number) = integer {
        return Ok(Piece::Typed(known(&Value::Int8(number))));
    }
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
    {
        return refuse("literal", "holds a number in an unusual form");
    }
    let kind = ParamType {
        type_oid: oid::NUMERIC,
        repr: Repr::Typed,
    };
    match parse(&kind, text, &Settings::default()) {
        Ok(number) => Ok(Piece::Typed(Expr {
            node: Node::Const(Some(number.to_binary())),
            ..plain(oid::NUMERIC)
        })),
        Err(_) => refuse("literal", "holds a number that is not read here"),
    }
}

fn known(value: &Value<'_>) -> Expr {
    Expr {
        node: Node::Const(Some(value.to_binary())),
        ..plain(value.type_oid())
    }
}

impl Compiler<'_> {
    /// A quoted literal, or NULL, of that type.
    pub(super) fn literal(&self, text: Option<&str>, type_oid: TypeOid) -> Compiled<Expr> {
        let info = self.type_info(type_oid)?;
        let binary = match text {
            None => None,
            Some(text) => {
                if !is_settled(info.type_oid, text) {
                    return refuse("literal", "the meaning of a literal depends on settings");
                }
                let kind = ParamType {
                    type_oid: info.type_oid,
                    repr: info.repr.clone(),
                };
                match parse(&kind, text, &Settings::default()) {
                    Ok(scalar) => Some(scalar.to_binary()),
                    Err(_) => return refuse("literal", "a literal is not read here"),
                }
            }
        };
        Ok(Expr {
            type_oid: info.type_oid,
            type_modifier: -1,
            repr: info.repr,
            order: None,
            node: Node::Const(binary),
        })
    }
}

/// Whether a literal means the same under all settings and at all times.
fn is_settled(type_oid: TypeOid, text: &str) -> bool {
    match oid::array_element(type_oid).unwrap_or(type_oid) {
        oid::DATE => is_iso_date(text),
        oid::TIMESTAMP => text
            .split_once([' ', 'T'])
            .is_some_and(|(date, time)| is_iso_date(date) && is_clock(time)),
        oid::TIMESTAMPTZ => text.split_once([' ', 'T']).is_some_and(|(date, time)| {
            let at = time.find(['+', '-', 'Z']);
            is_iso_date(date) && at.is_some_and(|at| is_clock(&time[..at]) && is_zone(&time[at..]))
        }),
        oid::TIME => is_clock(text),
        // A sign means other things under IntervalStyle sql_standard.
        oid::INTERVAL => text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b" :.".contains(&byte)),
        oid::TIMETZ => false,
        _ => true,
    }
}

fn digits(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_iso_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts[..], [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2))
}

fn is_clock(text: &str) -> bool {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let parts: Vec<&str> = clock.split(':').collect();
    let whole = (2..=3).contains(&parts.len()) && parts.iter().all(|part| digits(part, 2));
    whole && !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_zone(text: &str) -> bool {
    match text.strip_prefix(['+', '-']) {
        Some(offset) => {
            digits(offset, 2)
                || offset
                    .split_once(':')
                    .is_some_and(|(hours, minutes)| digits(hours, 2) && digits(minutes, 2))
        }
        None => text == "Z",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_that_depend_on_settings_are_not_settled() {
        for text in ["01/02/2003", "now", "today", "2003-1-2", "Jan 2 2003"] {
            assert!(!is_settled(oid::DATE, text), "{text}");
        }
        assert!(is_settled(oid::DATE, "2003-01-02"));
        assert!(is_settled(oid::TIMESTAMP, "2003-01-02 03:04:05.678"));
        assert!(!is_settled(oid::TIMESTAMPTZ, "2003-01-02 03:04:05"));
        assert!(is_settled(oid::TIMESTAMPTZ, "2003-01-02 03:04:05+02"));
        assert!(is_settled(oid::TIMESTAMPTZ, "2003-01-02T03:04:05.1Z"));
        assert!(!is_settled(oid::TIMESTAMPTZ, "2003-01-02 03:04:05 CET"));
        assert!(!is_settled(oid::INTERVAL, "-1 2:03"));
        assert!(is_settled(oid::INTERVAL, "1 day 2:03"));
    }
}
