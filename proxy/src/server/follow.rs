//! From the hot cache to the grid: what an event in Postgres's WAL means for memory. Applies in order; waits only for the log of other nodes.

use crate::engine::keeper::Keeper;
use crate::engine::publisher::Publisher;
use crate::server::LOG_NUMBER;
use ripen_grid::change::RowId;
use ripen_grid::grid::Grid;
use ripen_grid::limits::LOG_POLL;
use ripen_grid::rows::WalChange;
use ripen_grid::schedule::Schedule;
use ripen_grid::scope::Scope;
use ripen_hotcache::event::RowOutcome;
use ripen_hotcache::{Event, Outcome, OwnFlush, Sink, Transaction};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What followed, for status.
#[derive(Debug, Default)]
pub struct FollowStats {
    /// Transactions seen.
    pub transactions: AtomicU64,
    /// Of these, our own flushes.
    pub echoes: AtomicU64,
    /// Row changes applied.
    pub changes: AtomicU64,
    /// Rows or tables dropped because the WAL did not say what they are now.
    pub invalidations: AtomicU64,
    /// Times the stream stood up.
    pub connects: AtomicU64,
    /// Of these, those that could not go on where it was.
    pub resyncs: AtomicU64,
    /// Why the stream is not up, and what to do; empty while it is.
    pub obstacle: parking_lot::Mutex<String>,
    /// Recent times from commit to memory, in microseconds.
    pub staleness_us: parking_lot::Mutex<Recent>,
}

/// The last values of something, for percentiles.
#[derive(Debug, Default)]
pub struct Recent {
    values: Vec<u64>,
    next: usize,
}

impl Recent {
    fn push(&mut self, value: u64) {
        if self.values.len() < crate::limits::STALENESS_SAMPLES {
            self.values.push(value);
        } else {
            self.values[self.next] = value;
            self.next = (self.next + 1) % self.values.len();
        }
    }

    /// The value below which so many (0..=1) of the values lie; 0 without values.
    pub fn percentile(&self, part: f64) -> u64 {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        let at = (part * sorted.len() as f64) as usize;
        sorted
            .get(at.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }
}

/// Applies events to the grid.
#[derive(Clone)]
pub struct Follower {
    /// The rows.
    pub grid: Arc<Grid>,
    /// To be told of schema changes.
    pub keeper: Arc<Keeper>,
    /// To be told of tables that are not followed any more.
    pub publisher: Arc<Publisher>,
    /// Wakes the upkeep when the stream stands up or the schema changed.
    pub attention: Arc<Notify>,
    /// What followed.
    pub stats: Arc<FollowStats>,
    /// The unix clock in milliseconds.
    pub clock: fn() -> u64,
    /// The clock of staleness, in milliseconds, which never goes back.
    pub steady: fn() -> u64,
    /// Ends waiting.
    pub stop: CancellationToken,
}

impl Sink for Follower {
    async fn take(&self, event: Event) {
        self.until_told(&event).await;
        Follower::take(self, event);
    }
}

impl Follower {
    /// A flush that the stream passes is confirmed only when the log has told here what it carries, and in which transaction: the log may be behind.
    async fn until_told(&self, event: &Event) {
        if let Event::Transaction(Transaction {
            own_flush: Some(flush),
            xid,
            ..
        }) = event
            && self.grid.has_peers()
        {
            let schedule = self.schedule(*flush);
            while schedule.is_some_and(|schedule| !schedule.knows(flush.seq, *xid))
                && !self.stop.is_cancelled()
            {
                tokio::time::sleep(LOG_POLL).await;
            }
        }
    }

    /// Takes one event. The order of calls is the order of the WAL.
    fn take(&self, event: Event) {
        match event {
            Event::Connected {
                resumed,
                same_history,
                system_id,
                timeline,
                position,
            } => {
                tracing::info!(resumed, timeline, %position, "following Postgres's WAL");
                // While this changes, no other node's rows are comparable to ours.
                self.grid.feed.set_history(None);
                if !same_history {
                    self.grid.history_lost();
                }
                if !resumed {
                    // First the position: what is loaded from now on is measured by it.
                    self.grid.feed.restart_at(position);
                    self.grid.stream_lost();
                    self.stats.resyncs.fetch_add(1, Ordering::Relaxed);
                }
                self.grid.feed.set_history(Some((system_id, timeline)));
                self.stats.obstacle.lock().clear();
                self.stats.connects.fetch_add(1, Ordering::Relaxed);
                self.grid.feed.set_live(true, (self.steady)());
                self.attention.notify_one();
            }
            Event::Disconnected { reason } => {
                tracing::warn!(reason, "the replication stream is away");
                *self.stats.obstacle.lock() = reason;
                self.grid.feed.set_live(false, (self.steady)());
            }
            Event::Unavailable(why) => {
                tracing::error!(%why, "no hot cache: only exclusive tables are served from memory");
                *self.stats.obstacle.lock() = why.to_string();
                self.grid.feed.set_live(false, (self.steady)());
                self.grid.feed.follow_nothing();
                self.grid.stream_lost();
                self.attention.notify_one();
            }
            Event::Transaction(transaction) => self.transaction(transaction),
            Event::Mark { id, position } => {
                self.grid.feed.pass(position);
                self.grid.marks.passed(id);
            }
            Event::Withdrawn {
                author,
                tables,
                position,
            } => {
                if self.publisher.left(author, &tables) {
                    self.attention.notify_one();
                }
                self.grid.feed.pass(position);
            }
            Event::Position(position) => self.grid.feed.pass(position),
        }
    }

    /// What the flush's log has on its way. `None`: of a log that this process has not opened, which its stream does not tell of.
    fn schedule(&self, flush: OwnFlush) -> Option<&Schedule> {
        let number = usize::try_from(flush.log - LOG_NUMBER).ok()?;
        Some(&self.grid.queues.get(number)?.schedule)
    }

    fn transaction(&self, transaction: Transaction) {
        self.stats.transactions.fetch_add(1, Ordering::Relaxed);
        let (xid, commit) = (transaction.xid, transaction.commit);
        self.grid.rows.begin_told(commit);
        let mut rows = transaction.rows;
        if let Some(flush) = transaction.own_flush {
            let seq = flush.seq;
            self.stats.echoes.fetch_add(1, Ordering::Relaxed);
            let schedule = self.schedule(flush);
            let carried = schedule.map_or_else(Vec::new, |schedule| schedule.confirm(seq));
            let tells = !rows.is_empty()
                || !transaction.truncated.is_empty()
                || !transaction.invalidated.is_empty();
            if tells {
                // What a trigger has made of rows that we carried, nobody knows here.
                let known: HashSet<&RowId> = carried.iter().collect();
                rows.retain(|told| !known.contains(&told.row));
                // Where the stream does not confirm flushes, it cannot tell what came before which.
                let followed = |told: &RowOutcome| self.grid.feed.follows(told.row.table);
                let unsure = rows.iter_mut().filter(|told| !followed(told));
                unsure.for_each(|told| told.outcome = Outcome::Unknown);
                self.grid.rows.overrule(seq, xid, commit, &carried);
            }
            self.grid.rows.confirm(seq, xid, commit, &carried);
        }
        self.rows(rows, xid, commit);
        if !transaction.truncated.is_empty() {
            self.grid
                .rows
                .wal_truncate(xid, commit, &transaction.truncated);
        }
        if !transaction.invalidated.is_empty() {
            let tables = transaction.invalidated.len() as u64;
            self.stats
                .invalidations
                .fetch_add(tables, Ordering::Relaxed);
            self.grid
                .rows
                .wal_invalidate(xid, commit, &transaction.invalidated);
        }
        if !transaction.schema_changed.is_empty() {
            transaction
                .schema_changed
                .iter()
                .for_each(|table| self.grid.rows.drop_table(*table));
            self.keeper.look_soon();
        }
        self.grid.feed.pass(commit);
        let commit_unix_us = transaction.commit_time.unix_us();
        let late = ((self.clock)() as i64 * 1000)
            .saturating_sub(commit_unix_us)
            .max(0);
        self.stats.staleness_us.lock().push(late as u64);
    }

    fn rows(&self, rows: Vec<RowOutcome>, xid: ripen_pg::ids::Xid32, commit: ripen_pg::ids::Lsn) {
        if rows.is_empty() {
            return;
        }
        self.stats
            .changes
            .fetch_add(rows.len() as u64, Ordering::Relaxed);
        let mut unknown: Vec<RowId> = Vec::new();
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            match row.outcome {
                Outcome::Put(tuple) => changes.push(WalChange {
                    row: row.row,
                    image: Some(tuple),
                }),
                Outcome::Delete => changes.push(WalChange {
                    row: row.row,
                    image: None,
                }),
                Outcome::Unknown => unknown.push(row.row),
            }
        }
        self.stats
            .invalidations
            .fetch_add(unknown.len() as u64, Ordering::Relaxed);
        let mut met = self.grid.rows.wal_unknown(xid, commit, &unknown);
        met.extend(self.grid.rows.wal_transaction(xid, commit, &changes));
        met.retain(|row| self.grid.feed.guards(row.table));
        if !met.is_empty() {
            // The flush finds the pending change beaten, and readers need not see it until it is ripe.
            self.grid.flush_soon(Scope::rows(met));
        }
    }
}
