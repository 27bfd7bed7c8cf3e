//! Sets of rows on each node: loaded from Postgres, read at any time, by what each node has in memory. What a set shows of a row is as legal as what the row shows by itself; so is that it is
//! not in the set.

use crate::cluster::{Cluster, INT8, Mistake, NODES, ROWS, TABLE, position, row_id};
use crate::postgres::Row;
use ripen_grid::change::RowId;
use ripen_grid::rows::sets::{SetColumns, SetIds};
use ripen_grid::rows::{Moment, SetLoad, SetRead, SetTicket};
use ripen_pg::ids::Lsn;
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use std::collections::BTreeMap;
use std::sync::Arc;

const KINDS: u64 = 4;

/// Loads of sets under way on all nodes, and what was told.
#[derive(Default)]
pub struct Gathering {
    pub is_on: bool,
    /// Sets are loaded again and again, mostly by nodes that have no lease.
    forgets: bool,
    loads: Vec<(usize, SetTicket, Option<Seen>)>,
    /// Sets that a node could tell.
    pub told: usize,
}

type Seen = (Arc<Moment>, Vec<(Key, Tuple)>);

impl Gathering {
    pub fn new(is_on: bool, forgets: bool) -> Gathering {
        Gathering {
            is_on,
            forgets,
            ..Gathering::default()
        }
    }
}

/// Rows of a group, those of both, and the whole table.
fn sets(kind: u64) -> SetIds {
    let group = |value: u64| {
        let mut key = Key::new();
        key.push_fixed(&value.to_be_bytes());
        key
    };
    let groups = |values: &[u64]| {
        let values = values.iter().copied().map(group).collect();
        SetIds::new(TABLE, SetColumns::new([(4, INT8)]), values)
    };
    match kind % KINDS {
        0 => groups(&[0]),
        1 => groups(&[1]),
        2 => groups(&[0, 1]),
        _ => SetIds::whole(TABLE),
    }
}

fn is_in(row: &Row, sets: &SetIds) -> bool {
    matches!(sets.value_of(&row.tuple()), Ok(Some(_)))
}

impl Cluster {
    /// Something about loads of sets.
    pub fn gather(&mut self, node: usize) {
        let without = (0..NODES).find(|node| !self.nodes[*node].lease);
        let forgets = self.gathering.forgets;
        let without = without.filter(|_| forgets && self.draw(4) > 0);
        let node = without.unwrap_or(node);
        match self.draw(8) {
            0 | 1 => self.begin_set_load(node),
            2 => self.see_sets(),
            3 | 4 => self.finish_set_load(),
            // Its sets are given up, and none of its rows.
            5 if forgets => self.nodes[node].rows.drop_where(|_| false),
            _ => {}
        }
    }

    fn begin_set_load(&mut self, node: usize) {
        let sets = sets(self.draw(KINDS));
        let before = (self.mistake == Mistake::GathersBeforeItRecords).then(|| {
            let seen = self.seen_of(&sets);
            // Others have their turn.
            (0..4).for_each(|_| self.step_beside());
            seen
        });
        if let SetLoad::Mine(ticket) = self.nodes[node].rows.begin_set_load(&sets) {
            self.gathering.loads.push((node, ticket, before));
        }
    }

    fn step_beside(&mut self) {
        let was = std::mem::replace(&mut self.gathering.is_on, false);
        let _ = self.step();
        self.gathering.is_on = was;
    }

    fn seen_of(&self, sets: &SetIds) -> Seen {
        let rows = (0..ROWS).map(row_id);
        let found = rows.filter_map(|row| Some((row.key.clone(), self.pg.visible(&row)?)));
        let found = found.filter(|(_, row)| is_in(row, sets));
        let found = found.map(|(key, row)| (key, row.tuple())).collect();
        (self.pg.moment(), found)
    }

    /// Some load's statement takes its snapshot.
    fn see_sets(&mut self) {
        let mut waiting = self.gathering.loads.iter();
        let waiting = waiting.position(|(_, _, seen)| seen.is_none());
        if let Some(at) = waiting {
            let seen = self.seen_of(self.gathering.loads[at].1.sets());
            self.gathering.loads[at].2 = Some(seen);
        }
    }

    fn finish_set_load(&mut self) {
        let loads = self.gathering.loads.len() as u64;
        if loads == 0 {
            return;
        }
        let at = self.draw(loads) as usize;
        let (node, ticket, seen) = self.gathering.loads.remove(at);
        let seen = seen.unwrap_or_else(|| self.seen_of(ticket.sets()));
        self.take_set(node, ticket, seen);
    }

    fn take_set(&self, node: usize, ticket: SetTicket, (moment, found): Seen) {
        let node = &self.nodes[node];
        if node.lease || self.mistake == Mistake::GathersWithoutLease {
            node.rows
                .finish_set_load(ticket, &moment, Some(found), |_| false);
        }
    }

    fn read_sets(&self, node: usize, sets: &SetIds) -> SetRead<Vec<Row>> {
        let node = &self.nodes[node];
        let rows = |tuples: &[&Tuple]| tuples.iter().map(|tuple| Row::of(tuple)).collect();
        let followed = match self.mistake {
            Mistake::TellsSetsAheadOfTheStream => Lsn(u64::MAX),
            _ => position(node.passed),
        };
        let fenced = || node.fences.has_any_of(TABLE);
        node.rows
            .read_sets(sets, &BTreeMap::new(), fenced, || followed, rows)
    }

    /// Whatever a node may tell of sets is legal, and is told only when all know it.
    pub fn check_sets(&mut self, at: usize) -> Result<(), String> {
        if !self.nodes[at].lease {
            return Ok(());
        }
        for sets in (0..KINDS).map(sets) {
            let SetRead::Done(told) = self.read_sets(at, &sets) else {
                continue;
            };
            self.gathering.told += 1;
            let mut left = told.clone();
            for row in (0..ROWS).map(row_id) {
                self.check_in_set(at, &sets, &row, &mut left)?;
            }
            if !left.is_empty() {
                return Err(format!("node {at} has {left:?} in {sets:?}"));
            }
            self.check_settled(at, &told)?;
        }
        Ok(())
    }

    fn check_in_set(
        &mut self,
        at: usize,
        sets: &SetIds,
        row: &RowId,
        left: &mut Vec<Row>,
    ) -> Result<(), String> {
        let node = &self.nodes[at];
        let legal = self.legal(node, row);
        let legal: Vec<Option<Row>> = legal.iter().map(|row| row.as_ref().map(Row::of)).collect();
        let before = node.shown.get(row).copied();
        // The values of a row are no other row's.
        if let Some(place) = left
            .iter()
            .position(|row| legal.contains(&Some(row.clone())))
        {
            let shown = left.remove(place);
            let author = self.authors.get(&shown.a).copied();
            if author < before && author.is_some() {
                return Err(format!("node {at} goes back to {shown:?} in {sets:?}"));
            }
            if let Some(author) = author {
                self.nodes[at].shown.insert(row.clone(), author);
            }
            return Ok(());
        }
        let elsewhere = |state: &Option<Row>| match state {
            None => before.is_none(),
            Some(state) => {
                let author = self.authors.get(&state.a).copied();
                !is_in(state, sets) && (author.is_none() || author >= before)
            }
        };
        match legal.iter().any(elsewhere) {
            true => Ok(()),
            false => Err(format!(
                "node {at} lacks {row:?} in {sets:?}: it may be {legal:?}, and was shown as of {before:?}"
            )),
        }
    }

    /// If the answer need not wait, nobody with a lease lacks what this node has applied.
    fn check_settled(&self, at: usize, told: &[Row]) -> Result<(), String> {
        let node = &self.nodes[at];
        let shown = |row: &RowId| {
            let found = node
                .rows
                .read_one(row, || false, |found| found.tuple().map(Row::of));
            found.flatten().is_some_and(|row| told.contains(&row))
        };
        let settle = match self.mistake {
            Mistake::SettlesOnlyWhatIsShown => {
                let rows: Vec<RowId> = (0..ROWS).map(row_id).filter(shown).collect();
                node.rows.changed(&rows)
            }
            _ => node.rows.changed_in(TABLE),
        };
        let acknowledged = self.acknowledged;
        let lacking = |index: &usize| *index > acknowledged && *index <= node.applied;
        let mut indexes = self.changes.iter().map(|(index, ..)| index);
        match settle.0 as usize <= acknowledged && indexes.any(lacking) {
            true => Err(format!("node {at} tells {told:?} before all know it")),
            false => Ok(()),
        }
    }

    /// In the end each node can tell each set, as it is in Postgres.
    pub fn settle_sets(&mut self) -> Result<(), String> {
        self.gathering.loads.clear();
        for (node, kind) in (0..NODES).flat_map(|node| (0..KINDS).map(move |kind| (node, kind))) {
            if self.nodes[node].rows.stats().bytes_max == 0 {
                continue;
            }
            let sets = sets(kind);
            let mut told = self.tell_sets(node, &sets)?;
            told.sort();
            let rows = self.pg.rows.values();
            let mut truth: Vec<Row> = rows.filter(|row| is_in(row, &sets)).cloned().collect();
            truth.sort();
            if told != truth {
                return Err(format!(
                    "node {node} has {told:?} in {sets:?} in the end, not {truth:?}"
                ));
            }
        }
        Ok(())
    }

    fn tell_sets(&self, node: usize, sets: &SetIds) -> Result<Vec<Row>, String> {
        let mut last = SetRead::Obscure;
        for _ in 0..16 {
            last = self.read_sets(node, sets);
            let rows = &self.nodes[node].rows;
            match &last {
                SetRead::Done(told) => return Ok(told.clone()),
                SetRead::Unknown(unknown) => {
                    let (ticket, _) = rows.begin_load(unknown);
                    let moment = self.pg.moment();
                    let found = |row: &RowId| self.pg.visible(row).map(|row| row.tuple());
                    rows.finish_load(ticket, &moment, found);
                }
                SetRead::Missing(missing) => {
                    if let SetLoad::Mine(ticket) = rows.begin_set_load(missing) {
                        let seen = self.seen_of(ticket.sets());
                        self.take_set(node, ticket, seen);
                    }
                }
                _ => break,
            }
        }
        Err(format!(
            "node {node} cannot tell {sets:?} in the end: {last:?}"
        ))
    }
}
