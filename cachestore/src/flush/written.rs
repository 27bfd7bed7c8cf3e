//! What a flush's bytes were when they were written, beside what the table is now: which of them Postgres may convert, and which nobody can. Never converts.

use crate::catalog::{Catalog, Column, Relation};
use crate::change::{Change, Increment, RowChange, Shape, Shapes};
use crate::sql::{ParamType, param_type};
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::tuple::Datum;
use ripen_pg::value::{self, oid};

/// See the module.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    /// The schema now.
    pub catalog: &'a Catalog,
    /// The log's.
    pub shapes: &'a Shapes,
}

/// An SQLSTATE and a message.
pub type Refused = (&'static str, String);

/// Numbers that an assignment converts by immutable casts.
const NUMBERS: [TypeOid; 6] = [
    oid::INT2,
    oid::INT4,
    oid::INT8,
    oid::NUMERIC,
    oid::FLOAT4,
    oid::FLOAT8,
];
const INTEGERS: [TypeOid; 3] = [oid::INT2, oid::INT4, oid::INT8];
const STRINGS: [TypeOid; 3] = [oid::TEXT, oid::VARCHAR, oid::BPCHAR];

/// Whether Postgres makes the same of a value whoever asks and whenever, so that it becomes what ALTER TABLE without USING has made of the row's old one.
/// Casts that look at settings do not.
fn converts(from: TypeOid, to: TypeOid) -> bool {
    let shown = from == oid::NUMERIC || INTEGERS.contains(&from) || STRINGS.contains(&from);
    from == to
        || (NUMBERS.contains(&from) && NUMBERS.contains(&to))
        || (shown && STRINGS.contains(&to))
}

/// Whether a sum comes out the same before and after the conversion.
fn adds(from: TypeOid, to: TypeOid) -> bool {
    let exact = to == oid::NUMERIC || INTEGERS.contains(&to);
    from == to || (INTEGERS.contains(&from) && exact)
}

/// Whether values of the one are equal to values of the other whenever their conversions are: a row that is not found counts as deleted.
fn finds(from: TypeOid, to: TypeOid) -> bool {
    let text = |type_oid| type_oid == oid::TEXT || type_oid == oid::VARCHAR;
    adds(from, to) || (text(from) && text(to))
}

impl<'a> Written<'a> {
    fn shape(&self, table: TableOid) -> Option<&'a Shape> {
        self.shapes.get(&table).map(|shape| &**shape)
    }

    /// The type that a column's bytes have, below all domains.
    pub fn type_of(&self, relation: &Relation, column: &Column) -> TypeOid {
        let shape = self.shape(relation.oid);
        let known = shape.and_then(|shape| shape.types.get(&(column.position as u16)));
        known.map_or_else(|| self.catalog.base_type(column.type_oid), |known| *known)
    }

    /// The same as [`ripen_pg::value`] knows it.
    pub fn value_type(&self, relation: &Relation, column: &Column) -> TypeOid {
        self.catalog.value_type(self.type_of(relation, column))
    }

    /// As what a column's values travel: Postgres converts them when it assigns them.
    pub fn param(&self, relation: &Relation, column: &Column) -> Option<ParamType<'a>> {
        param_type(self.catalog, self.type_of(relation, column))
    }

    /// The canonical values of a row's key, each a valid binary form; `None` when the key does not fit the table.
    pub fn key_values<'b>(&self, relation: &Relation, row: &'b RowChange) -> Option<Vec<&'b [u8]>> {
        let key = crate::sql::key_columns(relation);
        let types: Vec<TypeOid> = key
            .map(|column| self.value_type(relation, column))
            .collect();
        let key = relation.primary_key.iter().map(|at| *at as u16);
        let shape = self.shape(relation.oid);
        let same = shape.is_none_or(|shape| key.eq(shape.key.iter().copied()));
        if types.is_empty() || !same {
            return None;
        }
        value::key::split(&types, &row.row.key)
    }

    /// Whether the row is one of a table that had no primary key: its key is the log's own, nothing in Postgres has it, and none is needed to insert it, even if the
    /// table has got one since.
    pub fn appends(&self, relation: &Relation, row: &RowChange) -> bool {
        let shape = self.shape(relation.oid);
        let keyless = shape.map_or(relation.primary_key.is_empty(), |shape| {
            shape.key.is_empty()
        });
        keyless && matches!(row.change, Change::Insert { .. })
    }

    /// Whether keys of the table mean what they meant, to the byte.
    pub fn same_key(&self, relation: &Relation) -> bool {
        let Some(shape) = self.shape(relation.oid) else {
            return true;
        };
        let now = Shape::of(self.catalog, relation);
        let types = |shape: &Shape| {
            shape
                .key
                .iter()
                .map(|at| shape.types.get(at).copied())
                .collect::<Vec<_>>()
        };
        shape.key == now.key && types(shape) == types(&now)
    }

    /// Whether a change can be put into statements at all.
    pub fn fit(&self, row: &RowChange) -> Result<(), Refused> {
        let table = row.row.table;
        let Some(relation) = self.catalog.relations.get(&table) else {
            let message = format!("table with OID {} does not exist", table.0);
            return Err(("42P01", message));
        };
        if !self.appends(relation, row) && self.key_values(relation, row).is_none() {
            let name = &relation.name;
            let message = format!("the primary key of table \"{name}\" is not what it was");
            return Err(("42P10", message));
        }
        let unknown = |column: &&Column| self.param(relation, column).is_none();
        if let Some(column) = relation.columns.iter().find(unknown) {
            let name = &column.name;
            return Err(("42704", format!("type of column \"{name}\" does not exist")));
        }
        for column in &relation.columns {
            self.fit_column(relation, column, &row.change)?;
        }
        Ok(())
    }

    fn fit_column(
        &self,
        relation: &Relation,
        column: &Column,
        change: &Change,
    ) -> Result<(), Refused> {
        let (was, now) = (
            self.type_of(relation, column),
            self.catalog.base_type(column.type_oid),
        );
        let at = column.position as u16;
        let in_key = relation.primary_key.contains(&column.position);
        let (assigned, added) = match change {
            Change::Insert { image } | Change::Put { image } => {
                (image.get(column.position) != Datum::Missing, false)
            }
            Change::Update { image, set, add } => {
                let set = set.contains(&at);
                if set && image.get(column.position) == Datum::Missing {
                    let message = format!("column {} is assigned without a value", at + 1);
                    return Err(("XX000", message));
                }
                let increments = |increment: &Increment| increment.position == at;
                (set, add.iter().any(increments))
            }
            Change::Delete => (false, false),
        };
        let fits = (!assigned || converts(was, now))
            && (!added || adds(was, now))
            && (!in_key || finds(was, now));
        if !fits {
            return Err(("42804", self.retyped(column, was, now)));
        }
        Ok(())
    }

    fn retyped(&self, column: &Column, was: TypeOid, now: TypeOid) -> String {
        let name = |type_oid| match self.catalog.types.get(&type_oid) {
            Some(known) => known.sql_name.clone(),
            None => format!("with OID {}", type_oid.0),
        };
        format!(
            "column \"{}\" was of type {} when it was written and is of type {} now",
            column.name,
            name(was),
            name(now),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_out_the_same_for_everybody_is_converted() {
        assert!(converts(oid::INT4, oid::FLOAT4) && converts(oid::INT4, oid::TEXT));
        assert!(converts(oid::VARCHAR, oid::TEXT) && converts(oid::DATE, oid::DATE));
        assert!(!converts(oid::TIMESTAMP, oid::TIMESTAMPTZ) && !converts(oid::TEXT, oid::INT4));
        assert!(adds(oid::INT4, oid::NUMERIC) && adds(oid::NUMERIC, oid::NUMERIC));
        assert!(!adds(oid::NUMERIC, oid::INT4) && !adds(oid::INT4, oid::DATE));
        assert!(finds(oid::INT4, oid::INT8) && finds(oid::VARCHAR, oid::TEXT));
        assert!(!finds(oid::TEXT, oid::BPCHAR) && !finds(oid::FLOAT8, oid::INT4));
    }
}
