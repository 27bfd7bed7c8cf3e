//! Reads by key, and of keyed sets, from memory: rows that are not there are loaded, and a block's own writes lie on top. Does; `rows` decides what may be told together, the plan what it means.

use super::block::Block;
use super::{Engine, passed, refused};
use crate::eval::{EvalError, Formats, Params};
use crate::plan::ReadPlan;
use crate::session::answerer::Refusal;
use bytes::BytesMut;
use ripen_grid::change::RowId;
use ripen_grid::grid::GridError;
use ripen_grid::limits::{CATCH_UP_WAIT, LOAD_ATTEMPTS_MAX};
use ripen_grid::rows::sets::{SetColumns, SetIds};
use ripen_grid::rows::{Found, Read, SetRead};
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use ripen_pg::value::Settings;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

impl Engine {
    /// Rows by key, those that a block has written as it has written them.
    pub(super) async fn read_by_key(
        &self,
        settings: &Settings,
        (plan, block): (&ReadPlan, Option<&Block>),
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<u64, Refusal> {
        if let Some(block) = block {
            plan.tables().try_for_each(|table| block.knows(table))?;
        }
        if plan.set.is_some() {
            self.keeps_sets(plan)?;
        }
        let keys = plan
            .keys(params, settings)
            .map_err(|EvalError::PassThrough(why)| passed("not-computed", why))?;
        for _ in 0..LOAD_ATTEMPTS_MAX {
            let feed = &self.grid.feed;
            if !plan.tables().all(|table| feed.serves(table.oid)) {
                self.counters.bypassed.fetch_add(1, Ordering::Relaxed);
                return Err(passed(
                    "not-followed",
                    "the table is not followed by the hot cache",
                ));
            }
            if !self.grid.is_sure() {
                if !self.grid.until_sure().await {
                    return Err(no_lease());
                }
                continue;
            }
            let told_of = || plan.tables().any(|table| !feed.is_exclusive(table.oid));
            if feed.behind() && told_of() {
                let caught_up =
                    tokio::time::timeout(CATCH_UP_WAIT, self.grid.feed.until_caught_up());
                if caught_up.await.is_err() {
                    self.counters.bypassed.fetch_add(1, Ordering::Relaxed);
                    return Err(passed(
                        "behind",
                        "the node has not heard yet what it missed",
                    ));
                }
                continue;
            }
            let mut rests_on = None;
            let tried = match &plan.set {
                _ if !plan.joined.is_empty() => {
                    let tried =
                        self.try_joined((plan, block), &keys, params, formats, settings, out)?;
                    tried.map(|(sent, rows)| {
                        rests_on = Some(rows);
                        sent
                    })
                }
                None => self.try_read((plan, block), &keys, params, formats, settings, out)?,
                Some(columns) => {
                    let sets = SetIds::new(plan.table.oid, columns.clone(), keys.to_vec());
                    let own = block.map(|block| block.written_of(plan.table.oid));
                    self.try_set(
                        (plan, own.unwrap_or_default()),
                        &sets,
                        params,
                        formats,
                        settings,
                        out,
                    )?
                }
            };
            match tried {
                Ok(rows) => {
                    if self.grid.has_peers() {
                        let settled = self.settle(plan, &keys, rests_on).await;
                        settled.map_err(|_| no_lease())?;
                    }
                    self.counters.reads.fetch_add(1, Ordering::Relaxed);
                    if !plan.joined.is_empty() {
                        self.counters.join_reads.fetch_add(1, Ordering::Relaxed);
                    }
                    if plan.set.is_some() {
                        self.counters.set_reads.fetch_add(1, Ordering::Relaxed);
                    }
                    return Ok(rows);
                }
                Err(lacks) => {
                    self.counters.misses.fetch_add(1, Ordering::Relaxed);
                    let loaded = match lacks {
                        Lacks::Rows(unknown) => self.grid.load(&unknown).await,
                        Lacks::Sets(sets) => {
                            self.counters.set_misses.fetch_add(1, Ordering::Relaxed);
                            self.grid.load_sets(&sets).await
                        }
                    };
                    loaded.map_err(refused)?;
                    if !plan.tables().all(|table| self.is_of_now(table)) {
                        return Err(passed("not-computed", "the schema has changed meanwhile"));
                    }
                }
            }
        }
        Err(passed(
            "contended",
            "the rows change faster than they can be loaded",
        ))
    }

    /// What was read may be told when this returns well: nobody in the cluster tells anything older from now on. `rests_on`: the rows that it rests on, if they are not those of the keys.
    async fn settle(
        &self,
        plan: &ReadPlan,
        keys: &[Key],
        rests_on: Option<Vec<RowId>>,
    ) -> Result<(), GridError> {
        let table = plan.table.oid;
        if plan.set.is_some() || self.grid.rows.is_resident(table) {
            // Also what has left the set, of which nothing was seen.
            self.grid.settle_table(table).await?;
            return match rests_on {
                Some(rows) => self.grid.settle_read(&rows).await,
                None => Ok(()),
            };
        }
        let rows = rests_on.unwrap_or_else(|| named(table, keys));
        self.grid.settle_read(&rows).await
    }

    fn try_read(
        &self,
        (plan, block): (&ReadPlan, Option<&Block>),
        keys: &[Key],
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<Result<u64, Lacks>, Refusal> {
        let table = plan.table.oid;
        let start = out.len();
        let rows = named(table, keys);
        let own = match block {
            Some(block) if block.has_written() => block.own(&rows),
            _ => Vec::new(),
        };
        let own = |at: usize| own.get(at).and_then(Option::as_ref);
        let fenced = || rows.iter().any(|row| self.grid.fences.has(row));
        let followed = || self.grid.feed.followed(table);
        let read = self.grid.rows.read(&rows, fenced, followed, |found| {
            let unknown: Vec<RowId> = rows
                .iter()
                .zip(found)
                .enumerate()
                .filter(|(at, (_, found))| matches!(found, Found::Unknown) && own(*at).is_none())
                .map(|(_, (row, _))| row.clone())
                .collect();
            if !unknown.is_empty() {
                return Ok(Err(Lacks::Rows(unknown)));
            }
            let tuples: Vec<Option<&Tuple>> = found
                .iter()
                .enumerate()
                .map(|(at, found)| own(at).map_or_else(|| found.tuple(), Option::as_ref))
                .collect();
            plan.render(&tuples, params, formats, settings, out).map(Ok)
        });
        match read {
            Read::Fenced => Err(fenced_off()),
            Read::Apart => Err(apart()),
            Read::Done(Ok(Err(_))) if self.is_absent(&rows) => {
                let rendered = plan.render(&[None], params, formats, settings, out);
                rendered.map(Ok).map_err(not_computed)
            }
            Read::Done(Ok(answer)) => Ok(answer),
            Read::Done(Err(EvalError::PassThrough(why))) => {
                out.truncate(start);
                Err(passed("not-computed", why))
            }
        }
    }

    /// Whether the one row that is read is known not to exist, although memory has nothing of it: its table is held whole.
    fn is_absent(&self, rows: &[RowId]) -> bool {
        let [row] = rows else { return false };
        let resident = self.grid.rows.is_resident(row.table);
        resident && {
            let followed = self.grid.feed.followed(row.table);
            self.grid.rows.is_absent(row, followed) && !self.grid.fences.has(row)
        }
    }
}

/// What is to be loaded before a read can be answered.
pub(super) enum Lacks {
    Rows(Vec<RowId>),
    Sets(SetIds),
}

/// Sets from memory.
impl Engine {
    /// Whether sets of the table are kept at all.
    fn keeps_sets(&self, plan: &ReadPlan) -> Result<(), Refusal> {
        if self.grid.rows.expires(plan.table.oid) {
            let why = "nobody tells which rows a table with an expiry has";
            return Err(passed("set-expiry", why));
        }
        Ok(())
    }

    /// Of no set at all when no row can be meant.
    fn try_set(
        &self,
        (plan, own): (&ReadPlan, BTreeMap<Key, Option<Tuple>>),
        sets: &SetIds,
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<Result<u64, Lacks>, Refusal> {
        let (table, start) = (plan.table.oid, out.len());
        let mut render =
            |rows: &[Option<&Tuple>]| plan.render(rows, params, formats, settings, out);
        let read = match sets.values.is_empty() {
            true => SetRead::Done(render(&[])),
            false => {
                let fenced = || self.grid.fences.has_any_of(table);
                let followed = || self.grid.feed.followed(table);
                self.grid
                    .rows
                    .read_sets(sets, &own, fenced, followed, |rows| {
                        let rows: Vec<Option<&Tuple>> = rows.iter().copied().map(Some).collect();
                        render(&rows)
                    })
            }
        };
        match read {
            SetRead::Done(Ok(sent)) => Ok(Ok(sent)),
            SetRead::Done(Err(EvalError::PassThrough(why))) => {
                out.truncate(start);
                Err(passed("not-computed", why))
            }
            SetRead::Unknown(rows) => Ok(Err(Lacks::Rows(rows))),
            SetRead::Missing(sets) => Ok(Err(Lacks::Sets(sets))),
            SetRead::Fenced => Err(fenced_off()),
            SetRead::Apart => Err(apart()),
            SetRead::TooLarge => Err(too_large(plan)),
            SetRead::Obscure => Err(obscure()),
        }
    }
}

pub(super) fn too_large(plan: &ReadPlan) -> Refusal {
    match plan.set.as_ref().is_some_and(SetColumns::is_none) {
        true => {
            let why = "the table has more rows than resident_rows_max";
            passed("resident-too-large", why)
        }
        false => passed("set-too-large", "too many rows have the values"),
    }
}

pub(super) fn obscure() -> Refusal {
    let why = "it cannot be told now which rows have the values";
    passed("set-obscure", why)
}

fn not_computed(EvalError::PassThrough(why): EvalError) -> Refusal {
    passed("not-computed", why)
}

pub(super) fn fenced_off() -> Refusal {
    let why = "the rows are owned by a passed-through transaction";
    passed("fenced", why)
}

pub(super) fn apart() -> Refusal {
    let why =
        "some of the rows were just loaded and the hot cache has not come as far with the others";
    passed("apart", why)
}

pub(super) fn named(table: TableOid, keys: &[Key]) -> Vec<RowId> {
    let row = |key: &Key| RowId {
        table,
        key: key.clone(),
    };
    keys.iter().map(row).collect()
}

fn no_lease() -> Refusal {
    passed(
        "no-lease",
        "this node does not know whether it has heard of all that others have written",
    )
}
