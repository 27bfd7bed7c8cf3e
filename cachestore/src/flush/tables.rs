//! Whether the tables that a flush has written are the ones of its catalog, asked in the same transaction after the statements: these hold locks that no DDL gets
//! past. Decides only.

use crate::catalog::{Catalog, Column, Relation};
use crate::change::{Change, RowChange};
use crate::error::StoreError;
use crate::sql::qualified;
use std::collections::BTreeSet;
use tokio_postgres::Row;

/// Of each name, in order: what it stands for; its columns, each as [`described`]; whether triggers or rules, or foreign keys, may write more.
/// Foreign keys are found by their triggers: what refers to a table has no index of its own, and a key that is not enforced has no trigger.
pub const SQL: &str = "SELECT c.oid, ARRAY(SELECT concat_ws(' ', a.attnum, a.atttypid, a.attname) FROM pg_attribute a \
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
     EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled <> 'D') \
     OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid AND ev_type <> '1' AND ev_enabled <> 'D'), \
     EXISTS (SELECT FROM pg_trigger g JOIN pg_constraint k ON k.oid = g.tgconstraint WHERE g.tgrelid = c.oid AND k.contype = 'f' AND k.confrelid = c.oid \
         AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))) \
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
        let hooks = row.try_get(2)? && !table.opaque_write;
        let cascades = row.try_get(3)? && !cascades_known(table);
        if !table.columns.iter().all(known) || hooks || cascades {
            // No change's fault, however often that happens.
            return Err(StoreError::CatalogUnsteady);
        }
    }
    Ok(())
}

/// Whether changes of these rows may change others, or come out otherwise than they say.
pub fn reach_further<'a>(catalog: &Catalog, mut rows: impl Iterator<Item = &'a RowChange>) -> bool {
    rows.any(|change| {
        let relation = catalog.relations.get(&change.row.table);
        let removes = matches!(change.change, Change::Delete | Change::Put { .. });
        relation
            .is_some_and(|relation| relation.opaque_write || (removes && cascades_known(relation)))
    })
}

/// Whether the catalog knows of rows that may go with the table's; closures leave out the table itself.
fn cascades_known(table: &Relation) -> bool {
    !table.write_closure.is_empty() || table.children.contains(&table.oid)
}

fn described(column: &Column) -> String {
    let (number, type_oid) = (column.position + 1, column.type_oid.0);
    format!("{number} {type_oid} {}", column.name)
}
