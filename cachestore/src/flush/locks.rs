//! Looks which rows and tables of a flush others have locked in Postgres. Locks nothing beyond its own look; what to do about it, `flush.rs` decides.

use super::Run;
use crate::catalog::Relation;
use crate::change::{Change, RowId};
use crate::error::{Class, StoreError};
use crate::limits::LOAD_KEYS;
use crate::load::locked_rows;
use crate::sql::qualified;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What was found.
#[derive(Default)]
pub struct Locked {
    tables: HashSet<TableOid>,
    rows: HashSet<RowId>,
}

impl Locked {
    /// Whether a change of the row would wait.
    pub fn has(&self, row: &RowId) -> bool {
        self.tables.contains(&row.table) || self.rows.contains(row)
    }
}

/// Ends at the savepoint, as it began. A table that cannot be looked at counts as not locked.
pub async fn find(run: &Run<'_>) -> Result<Locked, StoreError> {
    let mut locked = Locked::default();
    for ((table, lock), keys) in by_lock(run) {
        let relation = run.write.written.catalog.relations.get(&table);
        let Some(relation) = relation.filter(|relation| run.write.written.same_key(relation))
        else {
            continue;
        };
        let looked = look(run, relation, &keys, lock).await;
        match looked {
            Ok(keys) => {
                let rows = keys.into_iter().map(|key| RowId { table, key });
                locked.rows.extend(rows);
            }
            Err(error) if error.class() == Class::Lock => {
                locked.tables.insert(table);
            }
            Err(error) if error.class() == Class::Connection => return Err(error),
            Err(_) => {}
        }
        run.roll_back().await?;
    }
    Ok(locked)
}

/// An UPDATE of a column that a foreign key may refer to locks more than is looked for here: then nothing is found.
fn by_lock(run: &Run<'_>) -> BTreeMap<(TableOid, &'static str), BTreeSet<Key>> {
    let mut keys: BTreeMap<_, BTreeSet<Key>> = BTreeMap::new();
    for change in run.batch.groups.iter().flat_map(|group| &group.rows) {
        let lock = match change.change {
            Change::Delete => "FOR UPDATE",
            Change::Insert { .. } | Change::Put { .. } | Change::Update { .. } => {
                "FOR NO KEY UPDATE"
            }
        };
        let row = &change.row;
        keys.entry((row.table, lock))
            .or_default()
            .insert(row.key.clone());
    }
    keys
}

/// Not the table's partitions: a flush need not touch them all.
async fn look(
    run: &Run<'_>,
    relation: &Relation,
    keys: &BTreeSet<Key>,
    lock: &str,
) -> Result<Vec<Key>, StoreError> {
    let table = qualified(relation);
    let sql = format!("LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE NOWAIT");
    run.client.batch_execute(&sql).await?;
    let keys: Vec<Key> = keys.iter().cloned().collect();
    let mut locked = Vec::new();
    for keys in keys.chunks(LOAD_KEYS) {
        locked.extend(
            locked_rows(run.client, run.write.written.catalog, relation, keys, lock).await?,
        );
    }
    Ok(locked)
}
