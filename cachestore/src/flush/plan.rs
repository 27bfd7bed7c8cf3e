//! Decides how a batch of commit groups is written: which statements, in which order, with which parameters. Never talks to Postgres.
//!
//! Order: groups are cut into segments in which no row appears twice; segments follow each other. In a segment first inserts and updates, parents before
//! children, then deletes, children before parents; rows of a statement in the order of their keys, so two flushes never lock in opposite orders.

use super::text;
use super::written::Written;
use crate::catalog::{Catalog, Relation};
use crate::change::{Change, CommitGroup, RowChange, RowId};
use crate::limits::{STATEMENT_BYTES, STATEMENT_ROWS};
use crate::raw::RawParam;
use ripen_pg::ids::TableOid;
use ripen_pg::tuple::{Datum, Tuple};
use std::collections::{BTreeMap, HashSet};

/// A statement with everything to carry it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The text; the same for the same table, kind and masks.
    pub sql: String,
    /// Parameters of each execution: one for arrays, one per row where arrays cannot carry the types.
    pub calls: Vec<Vec<RawParam>>,
    /// The table.
    pub table: TableOid,
    /// Rows given.
    pub rows: u64,
    /// What the row count must be.
    pub expect: Expect,
}

/// What a statement's row count says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Every row given must be found.
    All,
    /// Rows not found are gone already, which is what was wanted.
    Gone,
    /// The count says nothing.
    Any,
}

/// A group that cannot be written under this catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its place among the groups given.
    pub group: usize,
    /// Why, as Postgres would class it.
    pub sqlstate: &'static str,
    /// See `sqlstate`.
    pub message: String,
}

/// What is done to rows of one table; changes of equal kind go into one statement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// With the positions that the images have.
    Insert(Vec<u16>),
    /// See `Insert`.
    Put(Vec<u16>),
    /// Positions assigned and incremented.
    Update(Vec<u16>, Vec<u16>),
    Delete,
}

/// Makes the statements for the groups, in order.
pub fn plan(written: Written<'_>, groups: &[&CommitGroup]) -> Result<Vec<Step>, Misfit> {
    for (index, group) in groups.iter().enumerate() {
        for row in &group.rows {
            written.fit(row).map_err(|(sqlstate, message)| Misfit {
                group: index,
                sqlstate,
                message,
            })?;
        }
    }
    let mut ranks = Ranks::default();
    let mut steps = Vec::new();
    for segment in segments(groups) {
        plan_segment(written, &mut ranks, &segment, &mut steps);
    }
    Ok(steps)
}

/// Runs of groups in which no row appears twice, so that statements may be reordered inside.
fn segments<'a>(groups: &[&'a CommitGroup]) -> Vec<Vec<&'a RowChange>> {
    let (mut segments, mut seen) = (vec![Vec::new()], HashSet::<&RowId>::new());
    for group in groups {
        if group.rows.iter().any(|row| seen.contains(&row.row)) {
            segments.push(Vec::new());
            seen.clear();
        }
        seen.extend(group.rows.iter().map(|row| &row.row));
        let last = segments.last_mut().expect("never empty");
        last.extend(&group.rows);
    }
    segments
}

fn plan_segment(
    written: Written<'_>,
    ranks: &mut Ranks,
    rows: &[&RowChange],
    steps: &mut Vec<Step>,
) {
    let catalog = written.catalog;
    let (mut writes, mut deletes) = (BTreeMap::new(), BTreeMap::new());
    for row in rows {
        let table = row.row.table;
        let (rank, kind) = (ranks.of(catalog, table), kind(catalog, row));
        let (phase, rank) = match kind {
            Kind::Delete => (&mut deletes, -rank),
            _ => (&mut writes, rank),
        };
        let same: &mut Vec<&RowChange> = phase.entry((rank, table, kind)).or_default();
        same.push(row);
    }
    for ((_, table, kind), mut rows) in writes.into_iter().chain(deletes) {
        rows.sort_unstable_by(|left, right| left.row.key.cmp(&right.row.key));
        let relation = &catalog.relations[&table];
        for chunk in chunks(&rows) {
            write(written, relation, &kind, chunk, steps);
        }
    }
}

/// Pieces within the bounds of one statement.
fn chunks<'a, 'b>(mut rows: &'b [&'a RowChange]) -> Vec<&'b [&'a RowChange]> {
    let mut chunks = Vec::new();
    while !rows.is_empty() {
        let mut bytes = 0;
        let weight = |row: &&RowChange| row.change.image().map_or(32, Tuple::weight);
        let fits = rows.iter().take(STATEMENT_ROWS).take_while(|row| {
            bytes += weight(row);
            bytes <= STATEMENT_BYTES
        });
        let (chunk, rest) = rows.split_at(fits.count().max(1));
        chunks.push(chunk);
        rows = rest;
    }
    chunks
}

/// The statements for rows of one table and kind.
fn write(
    written: Written<'_>,
    relation: &Relation,
    kind: &Kind,
    rows: &[&RowChange],
    steps: &mut Vec<Step>,
) {
    let table = text::Table { written, relation };
    let step = |(sql, calls), expect| Step {
        sql,
        calls,
        table: relation.oid,
        rows: rows.len() as u64,
        expect,
    };
    match kind {
        Kind::Insert(mask) => steps.push(step(table.insert(mask, rows), Expect::All)),
        // Only columns that are gone were assigned.
        Kind::Update(set, add) if set.is_empty() && add.is_empty() => {}
        Kind::Update(set, add) => steps.push(step(table.update(set, add, rows), Expect::All)),
        Kind::Delete => steps.push(step(table.delete(rows), Expect::Gone)),
        Kind::Put(mask) if table.upserts(mask) => {
            steps.push(step(table.upsert(mask, rows), Expect::Any));
        }
        // GENERATED ALWAYS AS IDENTITY outside the key: only an INSERT can give it a value.
        Kind::Put(mask) => {
            steps.push(step(table.delete(rows), Expect::Any));
            steps.push(step(table.insert(mask, rows), Expect::All));
        }
    }
}

fn kind(catalog: &Catalog, row: &RowChange) -> Kind {
    let relation = &catalog.relations[&row.row.table];
    match &row.change {
        Change::Insert { image } => Kind::Insert(mask(relation, image)),
        Change::Put { image } => Kind::Put(mask(relation, image)),
        Change::Update { set, add, .. } => {
            let live = |position: &u16| relation.column(usize::from(*position)).is_some();
            let add = add.iter().map(|increment| increment.position);
            Kind::Update(
                set.iter().copied().filter(live).collect(),
                add.filter(live).collect(),
            )
        }
        Change::Delete => Kind::Delete,
    }
}

/// Positions of an image that an INSERT gives: live columns with a value. Columns added since take their default; of columns dropped since nothing is left to write.
fn mask(relation: &Relation, image: &Tuple) -> Vec<u16> {
    let given = relation
        .columns
        .iter()
        .filter(|column| column.generated == '\0' && image.get(column.position) != Datum::Missing);
    given.map(|column| column.position as u16).collect()
}

/// How deep a table stands below the tables that its foreign keys refer to.
#[derive(Default)]
struct Ranks(BTreeMap<TableOid, i32>);

impl Ranks {
    fn of(&mut self, catalog: &Catalog, table: TableOid) -> i32 {
        if let Some(rank) = self.0.get(&table) {
            return *rank;
        }
        // Stands until the parents are known, which ends cycles; those need deferrable constraints anyway.
        self.0.insert(table, 0);
        let parents = catalog
            .relations
            .get(&table)
            .map(|found| found.parents.clone());
        let parents = parents
            .into_iter()
            .flatten()
            .filter(|parent| *parent != table);
        let above = parents.map(|parent| self.of(catalog, parent) + 1).max();
        let rank = above.unwrap_or(0);
        self.0.insert(table, rank);
        rank
    }
}

#[cfg(test)]
mod tests;
