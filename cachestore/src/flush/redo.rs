//! What a transaction of the grid has done, as statements for its client's own connection: the transaction goes on in Postgres. Makes texts and parameters; never talks to
//! Postgres, and never waits for a row: nobody else may touch these rows meanwhile.

use super::plan::{self, Expect};
use super::text::Table;
use super::written::Written;
use crate::catalog::Catalog;
use crate::change::{Change, CommitGroup, RowChange, RowId, Shapes};
use crate::raw::RawParam;
use crate::sql::quoted;
use ripen_pg::ids::TableOid;
use std::collections::BTreeMap;

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redo {
    /// Its text. Parameters have their types in it.
    pub sql: String,
    /// The parameters of each execution, in binary form; `None` is NULL.
    pub calls: Vec<Vec<Option<Vec<u8>>>>,
    /// How many rows all executions together must find; `None`: their number says nothing.
    pub rows: Option<u64>,
}

impl Redo {
    fn plain(sql: String) -> Redo {
        Redo {
            sql,
            calls: vec![Vec::new()],
            rows: None,
        }
    }
}

/// SAVEPOINT, with that name as it is.
pub fn savepoint(name: &str) -> Redo {
    Redo::plain(format!("SAVEPOINT {}", quoted(name)))
}

/// Writes the changes.
///
/// # Errors
/// In words: the tables are not what they were any more.
pub fn writing(catalog: &Catalog, group: &CommitGroup) -> Result<Vec<Redo>, String> {
    let shapes = Shapes::default();
    let written = Written {
        catalog,
        shapes: &shapes,
    };
    let (deletes, rest) = apart(group);
    let steps = plan::plan(written, &[&deletes, &rest]).map_err(|misfit| misfit.message)?;
    let redo = |step: plan::Step| Redo {
        sql: step.sql,
        calls: step.calls.into_iter().map(values).collect(),
        rows: match step.expect {
            Expect::All | Expect::Gone => Some(step.rows),
            Expect::Any => None,
        },
    };
    Ok(steps.into_iter().map(redo).collect())
}

/// Locks rows; those that are not there any more are not missed. `strength`: as after FOR.
///
/// # Errors
/// As [`writing`].
pub fn locking(
    catalog: &Catalog,
    rows: &[RowId],
    strength: &'static str,
) -> Result<Vec<Redo>, String> {
    let shapes = Shapes::default();
    let written = Written {
        catalog,
        shapes: &shapes,
    };
    let mut tables: BTreeMap<TableOid, Vec<RowChange>> = BTreeMap::new();
    for row in rows {
        let (row, change) = (row.clone(), Change::Delete);
        let named = RowChange { row, change };
        written.fit(&named).map_err(|(_, message)| message)?;
        tables.entry(named.row.table).or_default().push(named);
    }
    let lock = |(table, rows): (TableOid, Vec<RowChange>)| {
        let relation = &catalog.relations[&table];
        let rows: Vec<&RowChange> = rows.iter().collect();
        let (sql, calls) = Table { written, relation }.lock(&rows, strength);
        Redo {
            sql,
            calls: calls.into_iter().map(values).collect(),
            rows: None,
        }
    };
    Ok(tables.into_iter().map(lock).collect())
}

/// A row that was deleted and put anew is another one, to whoever waits for it: it is not replaced in one statement.
fn apart(group: &CommitGroup) -> (CommitGroup, CommitGroup) {
    let (mut deletes, mut rest) = (Vec::new(), Vec::new());
    for RowChange { row, change } in group.rows.iter().cloned() {
        let change = match change {
            Change::Put { image } => {
                let (row, change) = (row.clone(), Change::Delete);
                deletes.push(RowChange { row, change });
                Change::Insert { image }
            }
            other => other,
        };
        rest.push(RowChange { row, change });
    }
    (CommitGroup { rows: deletes }, CommitGroup { rows: rest })
}

fn values(call: Vec<RawParam>) -> Vec<Option<Vec<u8>>> {
    call.into_iter().map(|RawParam(value)| value).collect()
}
