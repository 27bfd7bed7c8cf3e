//! Increments (`x = x ± n`) on binary forms of `smallint`, `integer`, `bigint` and `numeric`. Never changes the type of what it adds.

use super::ops::{self, Arithmetic};
use super::{Failure, Settings, Value, oid};
use crate::ids::TypeOid;

/// `base + amount`, both in the column's type. For a `numeric` column apply [`super::coerce_typmod`] afterwards.
pub fn add(type_oid: TypeOid, base: &[u8], amount: &[u8]) -> Result<Vec<u8>, Failure> {
    let (base, amount) = (operand(type_oid, base)?, operand(type_oid, amount)?);
    let sum = ops::arithmetic(Arithmetic::Add, &base, &amount, &Settings::default())?;
    Ok(sum.to_binary())
}

/// The amount that stands for `- amount`; fails for the lowest integer of a type, whose opposite is out of range.
pub fn negate(type_oid: TypeOid, amount: &[u8]) -> Result<Vec<u8>, Failure> {
    Ok(ops::negate(&operand(type_oid, amount)?)?.to_binary())
}

/// One amount that stands for two. Out of range means only that the two cannot be made one.
pub fn sum(type_oid: TypeOid, first: &[u8], second: &[u8]) -> Result<Vec<u8>, Failure> {
    add(type_oid, first, second)
}

/// Whether adding this amount can be repeated on another base, and summed with others, without changing the outcome: true of integers, and of
/// finite numerics whose scale is not above the column's (else each addition would round).
pub fn additive(type_oid: TypeOid, type_modifier: i32, amount: &[u8]) -> bool {
    match operand(type_oid, amount) {
        Ok(Value::Numeric(number)) => {
            let scale = super::typmod::numeric_limits(type_modifier).map(|(_, scale)| scale);
            number.is_finite() && scale.is_none_or(|scale| i32::from(number.scale()) <= scale)
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

fn operand(type_oid: TypeOid, bytes: &[u8]) -> Result<Value<'_>, Failure> {
    match type_oid {
        oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC => Ok(Value::decode(type_oid, bytes)?),
        _ => Err(Failure::Refused),
    }
}
