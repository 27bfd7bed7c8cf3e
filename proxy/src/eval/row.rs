//! A row as expressions see it: a table's, or those of several tables side by side. Copies no value.

use super::EvalError;
use super::expr::REFUSED;
use crate::plan::ReadPlan;
use ripen_grid::change::RowId;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value;

/// Positions from one table's first column to the next table's, in a joined row. Postgres's tables have fewer columns (1600, dropped ones included).
pub const STRIDE: usize = 2048;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    first: &'a Tuple,
    /// Of the tables that are joined to it; `None`: there is none, and all its columns are NULL.
    beside: &'a [Option<&'a Tuple>],
}

impl<'a> From<&'a Tuple> for Row<'a> {
    fn from(first: &'a Tuple) -> Row<'a> {
        Row { first, beside: &[] }
    }
}

impl<'a> Row<'a> {
    /// A row and what stands beside it.
    pub fn joined(first: &'a Tuple, beside: &'a [Option<&'a Tuple>]) -> Row<'a> {
        Row { first, beside }
    }

    /// The column at a position, see [`STRIDE`].
    pub fn get(self, position: usize) -> Datum<'a> {
        let Some(beyond) = position.checked_sub(STRIDE) else {
            return self.first.get(position);
        };
        match self.beside.get(beyond / STRIDE) {
            Some(Some(tuple)) => tuple.get(beyond % STRIDE),
            Some(None) => Datum::Null,
            None => Datum::Missing,
        }
    }
}

impl ReadPlan {
    /// Which row of the table joined at that step the row refers to. `None`: a column is NULL, which equals nothing.
    pub fn referred(&self, step: usize, row: Row<'_>) -> Result<Option<RowId>, EvalError> {
        let join = self.joined.get(step).ok_or(REFUSED)?;
        let mut key = Key::new();
        for (position, type_oid) in &join.key {
            match row.get(*position) {
                Datum::Null => return Ok(None),
                Datum::Missing => {
                    return Err(EvalError::PassThrough("a column is not held in memory"));
                }
                Datum::Value(bytes) => {
                    value::key::append(*type_oid, bytes, &mut key).map_err(|_| REFUSED)?;
                }
            }
        }
        let table = join.table.oid;
        Ok(Some(RowId { table, key }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_on_from_table_to_table() {
        let tuple = |bytes: &'static [u8]| Tuple::from_iter([Datum::Value(bytes)]);
        let (first, third) = (tuple(b"a"), tuple(b"c"));
        let beside = [None, Some(&third)];
        let row = Row::joined(&first, &beside);
        assert_eq!(row.get(0), Datum::Value(b"a"));
        assert_eq!(row.get(1), Datum::Missing);
        assert_eq!(row.get(STRIDE), Datum::Null);
        assert_eq!(row.get(STRIDE + 1599), Datum::Null);
        assert_eq!(row.get(2 * STRIDE), Datum::Value(b"c"));
        assert_eq!(row.get(3 * STRIDE), Datum::Missing);
        assert_eq!(Row::from(&first).get(STRIDE), Datum::Missing);
    }
}
