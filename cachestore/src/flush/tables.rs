//! Whether the tables that a flush has written are the ones of its catalog, asked in the same transaction after the statements: these hold locks that no DDL gets
//! past. Decides only.

use crate::catalog::{Column, Relation};
use crate::error::StoreError;
use crate::sql::qualified;
use std::collections::BTreeSet;
use tokio_postgres::Row;

/// Of each name, in order: what it stands for, and its columns, each as [`described`].
pub const SQL: &str = "SELECT c.oid, ARRAY(SELECT concat_ws(' ', a.attnum, a.atttypid, a.attname) FROM pg_attribute a \
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) \
     FROM unnest($1::text[]) WITH ORDINALITY u(n, i) LEFT JOIN pg_class c ON c.oid = to_regclass(n)::oid ORDER BY i";

/// Names must mean the tables, and columns the positions and types, that the statements were made for. Columns more than these do no harm.
pub fn same(tables: &[&Relation], found: &[Row]) -> Result<(), StoreError> {
    for (table, row) in tables.iter().zip(found) {
        let oid: Option<u32> = row.try_get(0)?;
        let columns: BTreeSet<String> = row.try_get::<_, Vec<String>>(1)?.into_iter().collect();
        if oid != Some(table.oid.0) {
            let name = qualified(table);
            return Err(StoreError::Change {
                sqlstate: "42P01",
                message: format!("table {name} is another one than before"),
            });
        }
        let known = |column: &Column| columns.contains(&described(column));
        if !table.columns.iter().all(known) {
            // No change's fault, however often that happens.
            return Err(StoreError::CatalogUnsteady);
        }
    }
    Ok(())
}

fn described(column: &Column) -> String {
    let (number, type_oid) = (column.position + 1, column.type_oid.0);
    format!("{number} {type_oid} {}", column.name)
}
