//! Gives tables to logs, and moves them from one to another. Does; where a table belongs, `assignment` decides.
//!
//! ```text
//!  belongs to a ── fence ── all of it is in Postgres ── snapshot of a ── "left" in a, synced ── belongs to b ── no fence
//! ```
//! Invariants: a log that knows a table's shape is the only one with changes of it, on their way or in what a start would read again. So it does not matter in
//! which order logs are read at a start, and a flush's number means one flush to each row.

use super::{Grid, GridError};
use crate::hashing::Seeded;
use crate::log::{Command, LogError};
use crate::queue::{LogNumber, Queue};
use crate::scope::Scope;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Where tables belong. Lock order: the wanted, then leaders.
#[derive(Default)]
pub(crate) struct Tables {
    now: ArcSwap<HashMap<TableOid, LogNumber, Seeded>>,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    logs: BTreeMap<TableOid, LogNumber>,
    /// On their way from one to another.
    moving: BTreeSet<TableOid>,
}

impl Grid {
    /// The log that a table's changes go into. `None`: they go into none for now, and pass through.
    pub fn log_of(&self, table: TableOid) -> Option<LogNumber> {
        match &self.queues[..] {
            [only] => Some(only.number),
            _ => self.tables.now.load().get(&table).copied(),
        }
    }

    /// Where tables are to belong from now on. Those that have to leave another log pass through until they have: the answer sees to that. Call it before anything is decided by the catalog
    /// that this was made of. Not cancel safe: those tables would pass through for ever.
    pub fn assign(
        self: &Arc<Self>,
        logs: BTreeMap<TableOid, LogNumber>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        if self.queues.len() == 1 {
            return None;
        }
        let mut wanted = self.tables.wanted.lock();
        wanted.logs = logs;
        let leaving = self.place(&mut wanted);
        drop(wanted);
        let grid = self.clone();
        leaving.map(|leaving| grid.move_all(leaving))
    }

    /// Puts tables where they are wanted, as far as no other log has anything of them. Answers the others, fenced.
    fn place(&self, wanted: &mut Wanted) -> Option<BTreeSet<TableOid>> {
        let leaders = self.leaders();
        let mut now = HashMap::clone(&self.tables.now.load());
        let mut leaving = BTreeSet::new();
        for (table, log) in &wanted.logs {
            let mut others = self.queues.iter().zip(&leaders);
            let elsewhere =
                others.any(|(queue, leader)| queue.number != *log && queue.has(leader, *table));
            match elsewhere {
                true => {
                    now.remove(table);
                    leaving.insert(*table);
                }
                false => drop(now.insert(*table, *log)),
            }
        }
        leaving.retain(|table| !wanted.moving.contains(table));
        self.tables.now.store(Arc::new(now));
        if leaving.is_empty() {
            return None;
        }
        wanted.moving.extend(&leaving);
        // While nobody decides: whoever did before is waited for.
        self.fences.raise(&Scope::Tables(leaving.clone()));
        Some(leaving)
    }

    async fn move_all(self: Arc<Self>, leaving: BTreeSet<TableOid>) {
        self.rows.pass_through_shards();
        let mut next = Some(leaving);
        while let Some(leaving) = next {
            tracing::info!(tables = leaving.len(), "tables go from one log to another");
            if let Err(error) = self.leave(&leaving).await {
                // The process ends with its log, and the next start begins again.
                tracing::debug!(%error, "tables could not be moved to another log");
                return;
            }
            let mut wanted = self.tables.wanted.lock();
            wanted.moving.retain(|table| !leaving.contains(table));
            // More may be wanted by now.
            next = self.place(&mut wanted);
            drop(wanted);
            self.fences.lower(&Scope::Tables(leaving));
        }
    }

    /// Also what open transactions have of these tables.
    async fn drained(&self, scope: &Scope) -> Result<(), GridError> {
        self.until_unlocked(scope).await?;
        self.barrier(scope).await
    }

    /// When this returns, no log has anything of these tables. They are fenced.
    async fn leave(&self, tables: &BTreeSet<TableOid>) -> Result<(), LogError> {
        let scope = Scope::Tables(tables.clone());
        while let Err(error) = self.drained(&scope).await {
            if let GridError::Log(error) = error {
                return Err(error);
            }
        }
        for queue in &self.queues {
            let known = queue.schedule.shapes();
            let left: Vec<TableOid> = known
                .into_keys()
                .filter(|table| tables.contains(table))
                .collect();
            if left.is_empty() {
                continue;
            }
            queue.log.save().await?;
            queue.log.propose(Command::Left(left)).await?;
            let mut leader = queue.leader.lock();
            tables.iter().for_each(|table| leader.forget(*table));
        }
        // What had been flushed and not confirmed is forgotten with the rest.
        tables.iter().for_each(|table| self.rows.drop_table(*table));
        Ok(())
    }
}

impl Queue {
    /// Whether anything of the table is in the log, or on its way there.
    fn has(&self, leader: &crate::leader::Leader, table: TableOid) -> bool {
        leader.told().has(table) || self.schedule.has_shape(table)
    }
}
