//! Reads of joined tables from memory. Does; which rows belong together the plan says, and whether they can be told together, `ripen_grid::rows`.

use super::Engine;
use super::block::Block;
use super::reads::{Lacks, apart, fenced_off, named, obscure, too_large};
use super::{Refusal, passed};
use crate::eval::row::Row;
use crate::eval::{EvalError, Formats, Params};
use crate::plan::ReadPlan;
use bytes::BytesMut;
use ripen_grid::change::RowId;
use ripen_grid::rows::sets::SetIds;
use ripen_grid::rows::{Along, First, SetRead};
use ripen_pg::ids::Lsn;
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use ripen_pg::value::Settings;
use std::collections::BTreeMap;

impl Engine {
    /// Rows by key or of sets, with those that are joined to them. Answers how many were sent, and which rows that rests on.
    pub(super) fn try_joined(
        &self,
        (plan, block): (&ReadPlan, Option<&Block>),
        keys: &[Key],
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<Result<(u64, Vec<RowId>), Lacks>, Refusal> {
        let (table, start) = (plan.table.oid, out.len());
        let needed: Vec<bool> = plan.joined.iter().map(|join| join.needed).collect();
        let along = Along {
            needed: &needed,
            referred: |step: usize, row: &Tuple, beside: &[Option<&Tuple>]| {
                plan.referred(step, Row::joined(row, beside))
            },
            own: |row: &RowId| block?.image(row),
        };
        let fenced = |row: &RowId| self.grid.fences.has(row);
        let followed = || {
            let tables = plan.tables();
            let followed = tables.map(|table| self.grid.feed.followed(table.oid));
            followed.min().unwrap_or(Lsn(0))
        };
        let render = |rows: &[&Tuple], beside: &[Option<&Tuple>]| {
            plan.render_joined((rows, beside), params, formats, settings, out)
        };
        let any_fenced = || self.grid.fences.has_any_of(table);
        let (sets, own, rows);
        let first = match &plan.set {
            Some(columns) if !keys.is_empty() => {
                sets = SetIds::new(table, columns.clone(), keys.to_vec());
                own = block.map_or_else(BTreeMap::new, |block| block.written_of(table));
                First::Sets {
                    sets: &sets,
                    own: &own,
                    fenced: &any_fenced,
                }
            }
            // Of no set at all when no row can be meant.
            _ => {
                rows = named(table, keys);
                First::Rows(&rows)
            }
        };
        let read = self
            .grid
            .rows
            .read_joined(&first, &along, fenced, followed, render);
        match read {
            Ok(SetRead::Done(told)) => Ok(Ok(told)),
            Ok(SetRead::Unknown(rows)) => Ok(Err(Lacks::Rows(rows))),
            Ok(SetRead::Missing(sets)) => Ok(Err(Lacks::Sets(sets))),
            Ok(SetRead::Fenced) => Err(fenced_off()),
            Ok(SetRead::Apart) => Err(apart()),
            Ok(SetRead::TooLarge) => Err(too_large(plan)),
            Ok(SetRead::Obscure) => Err(obscure()),
            Err(EvalError::PassThrough(why)) => {
                out.truncate(start);
                Err(passed("not-computed", why))
            }
        }
    }
}
