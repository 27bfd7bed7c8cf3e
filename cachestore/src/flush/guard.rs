//! `conflict = "database"`: which groups change a row that is not any more what they were decided on. Reads and locks the rows; writes nothing.
//!
//! The rows stay locked until the flush commits, so nobody comes in between. Compared are values: whoever writes what was there already is no conflict.

use super::written::Written;
use super::{Run, is_denied};
use crate::catalog::{Column, Relation};
use crate::change::RowId;
use crate::error::StoreError;
use crate::limits::LOAD_KEYS;
use crate::load::lock_rows;
use crate::sql::qualified;
use bytes::BytesMut;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::{self, Settings};
use std::collections::{BTreeMap, HashMap};

/// What was found in Postgres: rows, and tables whose rows cannot be looked at any more, with the reason.
#[derive(Default)]
struct Looked {
    rows: HashMap<RowId, Tuple>,
    refused: BTreeMap<TableOid, (&'static str, String)>,
}

/// Groups that somebody was faster than, with the reason for the dead letter. The locks on the rows outlive every roll back to the savepoint.
pub async fn beaten(run: &Run<'_>) -> Result<BTreeMap<usize, StoreError>, StoreError> {
    let (written, batch) = (run.write.written, run.batch);
    let mut beaten = BTreeMap::new();
    if batch.guards.is_empty() {
        return Ok(beaten);
    }
    let looked = lock_all(run).await?;
    for (index, group) in batch.groups.iter().enumerate() {
        let first = group.rows.iter().find_map(|change| {
            let before = batch.guards.get(&change.row)?;
            if let Some((sqlstate, message)) = looked.refused.get(&change.row.table) {
                return Some((*sqlstate, message.clone()));
            }
            // A table that is gone is the plan's to refuse.
            let relation = written.catalog.relations.get(&change.row.table)?;
            let now = looked.rows.get(&change.row);
            let conflict = conflict(written, relation, before.as_ref(), now)?;
            Some(("40001", conflict))
        });
        if let Some((sqlstate, message)) = first {
            beaten.insert(index, StoreError::Change { sqlstate, message });
        }
    }
    Ok(beaten)
}

/// In the order of tables and keys, so that two who lock so do not wait for each other in a circle.
async fn lock_all(run: &Run<'_>) -> Result<Looked, StoreError> {
    let mut keys: BTreeMap<TableOid, Vec<Key>> = BTreeMap::new();
    for row in run.batch.guards.keys() {
        keys.entry(row.table).or_default().push(row.key.clone());
    }
    let mut looked = Looked::default();
    for (table, keys) in keys {
        let Some(relation) = run.write.written.catalog.relations.get(&table) else {
            continue;
        };
        if !run.write.written.same_key(relation) {
            let name = qualified(relation);
            let message = format!("the primary key of {name} is not what it was");
            looked.refused.insert(table, ("42P10", message));
            continue;
        }
        match lock_table(run, relation, &keys).await {
            Ok(rows) => {
                let rows = rows.into_iter();
                looked
                    .rows
                    .extend(rows.map(|(key, row)| (RowId { table, key }, row)));
                run.keep().await?;
            }
            Err(error) if run.blames(&error) => {
                run.roll_back().await?;
                let sqlstate = match &error {
                    StoreError::Change { sqlstate, .. } => sqlstate,
                    _ => "0A000",
                };
                looked.refused.insert(table, (sqlstate, error.to_string()));
            }
            Err(error) if is_denied(&error) => {
                return Err(run.hold_up(run.groups_with(|row| row.table == table), error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(looked)
}

async fn lock_table(
    run: &Run<'_>,
    relation: &Relation,
    keys: &[Key],
) -> Result<Vec<(Key, Tuple)>, StoreError> {
    let mut rows = Vec::with_capacity(keys.len());
    for keys in keys.chunks(LOAD_KEYS) {
        rows.extend(lock_rows(run.client, run.write.written.catalog, relation, keys).await?);
    }
    Ok(rows)
}

/// What is different, in words; `None`: nothing.
fn conflict(
    written: Written<'_>,
    relation: &Relation,
    before: Option<&Tuple>,
    now: Option<&Tuple>,
) -> Option<String> {
    let table = qualified(relation);
    match (before, now) {
        (None, None) => None,
        (None, Some(_)) => Some(format!("a row of {table} was inserted outside")),
        (Some(_), None) => Some(format!("a row of {table} was deleted outside")),
        (Some(before), Some(now)) => {
            let other = |column: &&Column| {
                let (was, is) = (
                    written.value_type(relation, column),
                    written.catalog.value_type(column.type_oid),
                );
                let at = column.position;
                !same((was, before.get(at)), (is, now.get(at)))
            };
            let column = relation.columns.iter().find(other)?;
            let name = &column.name;
            Some(format!(
                "column \"{name}\" of a row of {table} was changed outside"
            ))
        }
    }
}

/// Equal for whoever reads them. Bytes may differ where the text does not (a numeric with needless zeros). What one side does not know counts as equal.
fn same((was, before): (TypeOid, Datum<'_>), (is, now): (TypeOid, Datum<'_>)) -> bool {
    match (before, now) {
        (Datum::Missing, _) | (_, Datum::Missing) => true,
        (Datum::Value(before), Datum::Value(now)) if was != is || before != now => {
            let text = |type_oid, bytes: &[u8]| {
                let mut out = BytesMut::new();
                let rendered = value::render_text(type_oid, bytes, &Settings::default(), &mut out);
                rendered.ok().map(|()| out)
            };
            let (before, now) = (text(was, before), text(is, now));
            before.is_some() && before == now
        }
        (before, now) => before == now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_pg::value::oid;

    #[test]
    fn values_are_compared_as_readers_see_them() {
        let one = 1i32.to_be_bytes();
        let two = 2i32.to_be_bytes();
        let int4 = |before, now| same((oid::INT4, before), (oid::INT4, now));
        assert!(int4(Datum::Value(&one), Datum::Value(&one)));
        assert!(!int4(Datum::Value(&one), Datum::Value(&two)));
        assert!(!int4(Datum::Null, Datum::Value(&two)));
        assert!(int4(Datum::Null, Datum::Null));
        assert!(int4(Datum::Missing, Datum::Value(&two)));
        // numeric 1 as one digit, and with a digit of zeros behind it that nobody sees.
        let (short, long) = (
            [0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
            [0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        );
        let numeric = |bytes| (oid::NUMERIC, bytes);
        assert!(same(
            numeric(Datum::Value(&short)),
            numeric(Datum::Value(&long))
        ));
        // One as an integer, and the real number with the same bits.
        assert!(!same(
            (oid::INT4, Datum::Value(&one)),
            (oid::FLOAT4, Datum::Value(&one))
        ));
    }
}
