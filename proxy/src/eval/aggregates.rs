//! What is made of all rows together: `count`, `sum`, `avg`, `min`, `max`. Never yields what another order of the rows could change: then Postgres is to say it.

use super::EvalError;
use super::expr::{Env, Expr, REFUSED, Scalar, order};
use super::row::Row;
use ripen_pg::ids::TypeOid;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::ops::{self, Arithmetic};
use ripen_pg::value::{Numeric, Settings, Value, oid};
use std::cmp::Ordering;

/// What an aggregate does with the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `count`
    Count,
    /// `sum`
    Sum,
    /// `avg`
    Average,
    /// `min`
    Least,
    /// `max`
    Greatest,
}

/// One call of an aggregate.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// See [`Kind`].
    pub kind: Kind,
    /// What is aggregated; NULLs are left out. `None`: the rows themselves are counted.
    pub of: Option<Expr>,
    /// The type of the result.
    pub type_oid: TypeOid,
}

impl Kind {
    /// The aggregate of that name.
    pub fn of_name(name: &str) -> Option<Kind> {
        Some(match name {
            "count" => Kind::Count,
            "sum" => Kind::Sum,
            "avg" => Kind::Average,
            "min" => Kind::Least,
            "max" => Kind::Greatest,
            _ => return None,
        })
    }
}

/// One row of the results, in the order of the aggregates. Of no rows all are NULL, but for counts.
pub(super) fn of_rows<'a>(
    aggregates: &'a [Aggregate],
    rows: &[Row<'a>],
    env: Env<'a>,
) -> Result<Tuple, EvalError> {
    let mut results = Vec::with_capacity(aggregates.len());
    for aggregate in aggregates {
        results.push(aggregate.of_rows(rows, env)?);
    }
    let results = results.iter().map(Option::as_deref);
    let data = results.map(|result| result.map_or(Datum::Null, Datum::Value));
    Ok(data.collect())
}

impl Aggregate {
    fn of_rows<'a>(&'a self, rows: &[Row<'a>], env: Env<'a>) -> Result<Option<Vec<u8>>, EvalError> {
        let Some(of) = &self.of else {
            return Ok(Some(number(rows.len())));
        };
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            let row = Some(*row);
            values.extend(of.eval(&Env { row, ..env })?);
        }
        match self.kind {
            Kind::Count => Ok(Some(number(values.len()))),
            Kind::Sum | Kind::Average => self.summed(&values),
            Kind::Least => extreme(of, &values, Ordering::Less),
            Kind::Greatest => extreme(of, &values, Ordering::Greater),
        }
    }

    /// Sums of integers and numerics are exact, so their order does not matter; the scale is the largest, as in Postgres.
    fn summed(&self, values: &[Scalar<'_>]) -> Result<Option<Vec<u8>>, EvalError> {
        let mut sum: Option<Numeric> = None;
        for value in values {
            let value = as_numeric(value.value()?)?;
            sum = Some(match sum {
                None => value,
                Some(sum) => sum.plus(&value)?,
            });
        }
        let Some(sum) = sum.map(Value::Numeric) else {
            return Ok(None);
        };
        // No setting counts for numbers.
        let settings = Settings::default();
        let result = match self.kind {
            // What Postgres does in the end: one division of the sum.
            Kind::Average => {
                let count = Value::Numeric(Numeric::from(values.len() as i64));
                ops::arithmetic(Arithmetic::Div, &sum, &count, &settings)?
            }
            _ if self.type_oid == oid::INT8 => {
                let kind = ops::CastKind::Assignment;
                ops::cast(&sum, oid::INT8, -1, kind, &settings)?
            }
            _ => sum,
        };
        match result.type_oid() == self.type_oid {
            true => Ok(Some(result.to_binary())),
            false => Err(REFUSED),
        }
    }
}

fn number(rows: usize) -> Vec<u8> {
    Value::Int8(rows as i64).to_binary()
}

/// Floats are left out: their sum depends on the order. So are infinite numerics: adding them is Postgres's.
fn as_numeric(value: &Value<'_>) -> Result<Numeric, EvalError> {
    match value {
        Value::Int2(number) => Ok(Numeric::from(i64::from(*number))),
        Value::Int4(number) => Ok(Numeric::from(i64::from(*number))),
        Value::Int8(number) => Ok(Numeric::from(*number)),
        Value::Numeric(number) => Ok(number.clone()),
        _ => Err(REFUSED),
    }
}

/// The least or the greatest. Of several that are equal and do not look alike (`1.0` and `1.00`) Postgres tells one or the other.
fn extreme(
    of: &Expr,
    values: &[Scalar<'_>],
    better: Ordering,
) -> Result<Option<Vec<u8>>, EvalError> {
    let mut best: Option<(&Scalar<'_>, Vec<u8>)> = None;
    let mut alike = true;
    for value in values {
        let ordering = match &best {
            None => better,
            Some((best, _)) => order(of, value, best, of.order)?,
        };
        match (ordering, &best) {
            (Ordering::Equal, Some((_, bytes))) => alike &= value.to_binary() == *bytes,
            (ordering, _) if ordering == better => {
                best = Some((value, value.to_binary()));
                alike = true;
            }
            _ => {}
        }
    }
    match alike {
        true => Ok(best.map(|(_, bytes)| bytes)),
        false => Err(EvalError::PassThrough(
            "values are equal and do not look alike",
        )),
    }
}
