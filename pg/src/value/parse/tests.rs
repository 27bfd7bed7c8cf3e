//! Input that is easily got wrong. The comparison with Postgres is in `tests/values`.

use super::*;
use crate::value::ops::{self, Arithmetic};
use crate::value::{Value, coerce_typmod};

fn read(type_oid: TypeOid, type_modifier: i32, text: &str) -> Result<Vec<u8>, Failure> {
    parse_text(type_oid, type_modifier, text, &Settings::default())
}

fn error(result: Result<Vec<u8>, Failure>) -> (&'static str, String) {
    match result {
        Err(Failure::Sql(error)) => (error.sqlstate, error.message.into_owned()),
        other => panic!("not an SQL error: {other:?}"),
    }
}

#[test]
fn integers_out_of_range_and_no_integers_are_different_errors() {
    let range = error(read(oid::INT2, -1, "40000"));
    assert_eq!(
        range,
        (
            "22003",
            "value \"40000\" is out of range for type smallint".into()
        )
    );
    let syntax = error(read(oid::INT4, -1, " x"));
    assert_eq!(
        syntax,
        (
            "22P02",
            "invalid input syntax for type integer: \" x\"".into()
        )
    );
    assert_eq!(read(oid::INT4, -1, "0x10"), Err(Failure::Refused));
}

#[test]
fn only_excess_blanks_are_dropped_silently() {
    assert_eq!(read(oid::VARCHAR, 7, "abc  "), Ok(b"abc".to_vec()));
    let long = error(read(oid::VARCHAR, 7, "abcd"));
    assert_eq!(
        long,
        (
            "22001",
            "value too long for type character varying(3)".into()
        )
    );
    assert_eq!(read(oid::BPCHAR, 7, "é"), Ok("é  ".into()));
    assert_eq!(
        coerce_typmod(oid::VARCHAR, 7, b"abcd", true),
        Ok(b"abc".to_vec())
    );
}

#[test]
fn numeric_overflow_tells_the_limit() {
    let modifier = (5 << 16 | 2) + 4;
    let Err(Failure::Sql(overflow)) = read(oid::NUMERIC, modifier, "999.995") else {
        panic!("1000.00 has six digits");
    };
    assert_eq!(overflow.message, "numeric field overflow");
    let limit = "A field with precision 5, scale 2 must round to an absolute value less than 10^3.";
    assert_eq!(overflow.detail.as_deref(), Some(limit));
}

#[test]
fn only_unambiguous_dates_are_read() {
    assert_eq!(
        read(oid::DATE, -1, "2000-01-02"),
        Ok(1_i32.to_be_bytes().to_vec())
    );
    for text in [
        "01/02/2000",
        "2000-1-2",
        "2000-02-30",
        "today",
        "2000-01-02 BC",
        "0000-01-01",
    ] {
        assert_eq!(read(oid::DATE, -1, text), Err(Failure::Refused), "{text}");
    }
    let utc = read(oid::TIMESTAMPTZ, -1, "2000-01-01T02:00:00+02");
    assert_eq!(utc, Ok(0_i64.to_be_bytes().to_vec()));
}

#[test]
fn integer_operators_overflow_in_the_larger_type() {
    let add = |left, right| ops::arithmetic(Arithmetic::Add, &left, &right, &Settings::default());
    assert_eq!(
        add(Value::Int2(i16::MAX), Value::Int4(1)),
        Ok(Value::Int4(32768))
    );
    let message = add(Value::Int2(i16::MAX), Value::Int2(1))
        .unwrap_err()
        .to_string();
    assert_eq!(message, "smallint out of range");
}
