//! What `SHOW ripen.…` and `/metrics` tell: collects the numbers of all parts into one [`Status`], and writes answers as rows of text.

use super::{Engine, keeper};
use crate::admin::StatusSource;
use crate::config::schema::show_mode;
use crate::eval::Formats;
use crate::metrics::{self, Answer, ClientStatus, LogStatus, PlanCount, Status, TableStatus};
use crate::nodes::control::NodeControl;
use crate::plan::rights::may_watch;
use crate::plan::{LocalCall, LocalPlan, Plan, Reason, Shown};
use crate::session::Route;
use crate::session::answerer::Asker;
use bytes::BytesMut;
use parking_lot::Mutex;
use ripen_cachestore::catalog::Relation;
use ripen_grid::grid::QueueStats;
use ripen_pg::ids::TableOid;
use ripen_pg::sqlstate::ErrorFields;
use ripen_pg::value::oid;
use ripen_pg::wire::backend::{self, DataRow, FieldDescription};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where numbers come from that are not the engine's own.
pub struct Sources {
    /// All numbers, the engine's included.
    pub status: StatusSource,
    /// Every client connection. Costs a copy of each: made only for who asks for the list.
    pub clients: Arc<dyn Fn() -> Vec<ClientStatus> + Send + Sync>,
    /// This node among others.
    pub node: Arc<dyn NodeControl>,
}

/// What the engine counts itself.
#[derive(Default)]
pub struct Counters {
    /// Statements answered from memory.
    pub reads: AtomicU64,
    /// Statements queued.
    pub writes: AtomicU64,
    /// Reads that had to load.
    pub misses: AtomicU64,
    /// Those of `reads` that were of keyed sets.
    pub set_reads: AtomicU64,
    /// Those of `reads` that joined tables.
    pub join_reads: AtomicU64,
    /// Those of `misses` that loaded sets.
    pub set_misses: AtomicU64,
    /// Cached reads sent away because the table is not followed.
    pub bypassed: AtomicU64,
    passed: Mutex<HashMap<&'static str, u64>>,
    promoted: Mutex<HashMap<&'static str, u64>>,
}

impl Counters {
    /// A statement passed through for this reason.
    pub fn passed(&self, reason: &Reason) {
        *self.passed.lock().entry(reason.code).or_default() += 1;
    }

    /// A transaction that had written here went on in Postgres for this reason.
    pub fn promoted(&self, reason: &Reason) {
        *self.promoted.lock().entry(reason.code).or_default() += 1;
    }

    fn plans(&self) -> Vec<PlanCount> {
        let count = |kind: &str, reason: &str, count| PlanCount {
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            count,
        };
        let mut plans: Vec<_> = self
            .passed
            .lock()
            .iter()
            .map(|(reason, passed)| count("pass", reason, *passed))
            .collect();
        let promoted = self.promoted.lock();
        plans.extend(
            promoted
                .iter()
                .map(|(reason, moved)| count("promote", reason, *moved)),
        );
        drop(promoted);
        plans.push(count("read", "by-key", self.reads.load(Ordering::Relaxed)));
        plans.push(count(
            "write",
            "by-key",
            self.writes.load(Ordering::Relaxed),
        ));
        plans.sort_by(|left, right| (&left.kind, &left.reason).cmp(&(&right.kind, &right.reason)));
        plans
    }
}

impl Engine {
    /// All numbers that this node's grid knows. The server adds those of sessions and of the hot cache.
    pub fn status(&self) -> Status {
        let mut status = Status {
            tables: self.table_status(),
            logs: self.log_status(),
            plans: self.counters.plans(),
            ..Status::default()
        };
        let (rows, queue, log) = (
            self.grid.rows.stats(),
            self.grid.queue_stats(),
            self.grid.log_stats(),
        );
        let flushes = &self.grid.flush_stats;
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        let totals = &mut status.totals;
        totals.hits = self.counters.reads.load(Ordering::Relaxed);
        totals.misses = self.counters.misses.load(Ordering::Relaxed);
        totals.loads_poisoned = rows.poisoned;
        totals.loads = self.grid.load_queries();
        totals.fences = self.grid.fences.raised();
        totals.bypassed_reads = self.counters.bypassed.load(Ordering::Relaxed);
        totals.evictions = rows.evictions;
        let sets = self.grid.rows.set_stats();
        totals.join_hits = self.counters.join_reads.load(Ordering::Relaxed);
        totals.set_hits = self.counters.set_reads.load(Ordering::Relaxed);
        totals.set_misses = self.counters.set_misses.load(Ordering::Relaxed);
        totals.sets = sets.sets;
        totals.set_rows = sets.candidates;
        totals.set_bytes = sets.bytes;
        totals.set_evictions = sets.evictions;
        totals.cached_rows = rows.rows;
        totals.memory_bytes = rows.bytes;
        totals.memory_pinned_bytes = rows.pinned_bytes;
        totals.memory_target_bytes = rows.bytes_max;
        totals.memory_near_bytes = rows.near_bytes;
        totals.memory_max_bytes = self.config.memory_max;
        totals.fences_open = self.grid.fences.standing() as u64;
        totals.writes = queue.changes;
        totals.coalesced_writes = queue.coalesced;
        totals.pending_rows = queue.pending_rows + queue.flushing_rows;
        totals.pending_bytes = queue.pending_bytes;
        totals.pending_max_bytes = self.config.max_pending_bytes;
        totals.oldest_pending_seconds = queue
            .oldest_ms
            .map_or(0.0, |oldest| now_ms.saturating_sub(oldest) as f64 / 1000.0);
        let kept = queue.kept;
        totals.kept_flushes = kept.flushes;
        totals.kept_rows = kept.rows;
        totals.kept_bytes = kept.bytes;
        totals.oldest_kept_seconds = kept
            .oldest_ms
            .map_or(0.0, |oldest| now_ms.saturating_sub(oldest) as f64 / 1000.0);
        totals.rewritten_flushes = flushes.again.load(Ordering::Relaxed);
        status.standbys = self.grid.standbys.seen();
        let totals = &mut status.totals;
        totals.flushes = flushes.flushes.load(Ordering::Relaxed);
        totals.flush_seconds = seconds(&flushes.us);
        let waits = &self.grid.wait_stats;
        totals.barrier_waits = waits.barriers.load(Ordering::Relaxed);
        totals.barrier_seconds = seconds(&waits.barrier_us);
        totals.pending_waits = waits.full.load(Ordering::Relaxed);
        totals.pending_refusals = waits.refused.load(Ordering::Relaxed);
        totals.flushed_rows = flushes.rows.load(Ordering::Relaxed);
        totals.store_failures = flushes.failures.load(Ordering::Relaxed);
        totals.dead_letters = flushes.dead.load(Ordering::Relaxed);
        totals.conflicts = rows.merges;
        totals.log_appends = log.entries;
        totals.log_syncs = log.syncs;
        totals.log_sync_seconds = log.sync_us as f64 / 1e6;
        totals.log_bytes = log.disk_bytes;
        totals.hotcache_connected = u64::from(self.grid.feed.live());
        totals.hotcache_lag_bytes = self.grid.feed.lag_bytes();
        totals.hotcache_lag_seconds = self
            .grid
            .feed
            .staleness_ms(crate::server::steady_ms())
            .map_or(0.0, |stale| stale as f64 / 1000.0);
        totals.catalog_loads = self.keeper.loads();
        if let Some(peers) = &self.grid.peers {
            let rows = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            totals.owners = peers.owners().nodes().len() as u64;
            totals.peer_asked_rows = rows(&peers.stats.asked);
            totals.peer_borrowed_rows = rows(&peers.stats.borrowed);
            totals.peer_warmed_rows = rows(&peers.stats.warmed);
            totals.peer_fallback_rows = rows(&peers.stats.fallbacks);
            totals.peer_lent_rows = rows(&peers.stats.lent);
            totals.peer_loaded_rows = rows(&peers.stats.loaded);
        }
        status
    }

    fn log_status(&self) -> Vec<LogStatus> {
        let one = |stats: QueueStats| LogStatus {
            log: stats.number.0,
            tables: stats.tables,
            pending_rows: stats.schedule.pending_rows + stats.schedule.flushing_rows,
            pending_bytes: stats.schedule.pending_bytes,
            flushes: stats.schedule.last_seq,
            syncs: stats.log.syncs,
            disk_bytes: stats.log.disk_bytes,
        };
        self.grid.stats_by_log().into_iter().map(one).collect()
    }

    fn table_status(&self) -> Vec<TableStatus> {
        let catalog = self.keeper.catalog();
        let rows = self.grid.rows.table_stats();
        let pending = self.grid.pending_by_table();
        let shown = catalog.relations.values().filter(|relation| {
            matches!(relation.kind, 'r' | 'p')
                && !matches!(
                    relation.schema.as_str(),
                    "pg_catalog" | "information_schema" | "ripen"
                )
        });
        let mut tables: Vec<TableStatus> = shown
            .map(|relation| {
                let mode = keeper::settings(&self.config, relation).mode;
                let obstacles = match mode {
                    crate::config::Mode::WriteBehind => unread(relation)
                        .iter()
                        .chain(&relation.write_obstacles)
                        .copied()
                        .collect::<Vec<_>>(),
                    _ => relation.read_obstacles.clone(),
                };
                let cached = rows.get(&relation.oid).copied().unwrap_or_default();
                TableStatus {
                    schema: relation.schema.clone(),
                    name: relation.name.clone(),
                    mode: show_mode(mode).to_owned(),
                    obstacle: obstacles.join(", "),
                    pending_rows: pending.get(&relation.oid).map_or(0, |rows| *rows as u64),
                    cached_rows: cached.rows,
                    memory_bytes: cached.bytes,
                    hits: cached.hits,
                    misses: cached.misses,
                }
            })
            .collect();
        tables.sort_by(|left, right| (&left.schema, &left.name).cmp(&(&right.schema, &right.name)));
        tables
    }
}

/// Why rows of a table whose writes are queued are not cached.
fn unread(relation: &Relation) -> &[&'static str] {
    match relation.appends() {
        true => &["no primary key: nothing but inserts is queued"],
        false => &relation.read_obstacles,
    }
}

fn seconds(us: &AtomicU64) -> f64 {
    us.load(Ordering::Relaxed) as f64 / 1e6
}

fn shown_name(shown: Shown) -> &'static str {
    match shown {
        Shown::Status => "status",
        Shown::Tables => "tables",
        Shown::Queue => "queue",
        Shown::Hotcache => "hotcache",
        Shown::Clients => "clients",
        Shown::Config => "config",
        Shown::Route => "route",
        Shown::DeadLetters => "dead_letters",
        Shown::Nodes => "nodes",
        Shown::Logs => "logs",
        Shown::Standbys => "standbys",
        Shown::Version => "version",
    }
}

/// Answers `SHOW ripen.…`.
pub async fn show(
    engine: &Engine,
    asker: Asker<'_>,
    shown: Shown,
    describe: bool,
    out: &mut BytesMut,
) -> Result<(), ErrorFields> {
    let answer = match shown {
        Shown::DeadLetters => engine.dead_letters().await?,
        Shown::Version => one_row(["ripen.version"], [env!("CARGO_PKG_VERSION").to_owned()]),
        Shown::Nodes => metrics::nodes(&engine.cluster().await),
        Shown::Route => one_row(ROUTE_COLUMNS, last_route(asker.route)),
        Shown::Logs => metrics::logs(&engine.log_status()),
        Shown::Standbys => metrics::standbys(&engine.grid.standbys.seen()),
        Shown::Clients => {
            let catalog = engine.keeper.catalog();
            metrics::clients(&engine.clients(), |user| {
                may_watch(&catalog, asker.role, user)
            })
        }
        other => {
            let status = engine.full_status();
            metrics::show(shown_name(other), &status, &engine.config).unwrap_or_else(nothing)
        }
    };
    write(&answer, describe, "SHOW", out);
    Ok(())
}

const ROUTE_COLUMNS: [&str; 2] = ["route", "reason"];

fn one_row<const N: usize>(columns: [&'static str; N], row: [String; N]) -> Answer {
    Answer::new(&columns, [row.to_vec()])
}

fn nothing() -> Answer {
    Answer {
        columns: vec!["ripen"],
        rows: Vec::new(),
    }
}

fn last_route(route: &Route) -> [String; 2] {
    match route {
        Route::None => ["none".to_owned(), "no statement yet".to_owned()],
        Route::Read => ["read".to_owned(), FROM_MEMORY.to_owned()],
        Route::Write => ["write".to_owned(), QUEUED.to_owned()],
        Route::Passed(pass) => ["pass".to_owned(), pass.reason.to_string()],
    }
}

const FROM_MEMORY: &str = "answered from memory";
const QUEUED: &str = "queued, and acknowledged when it is in the log";

/// Answers which way a statement would take.
pub fn route(plan: &Plan, describe: bool, out: &mut BytesMut) {
    let (way, why) = match plan {
        Plan::Read(_) => ("read", FROM_MEMORY.to_owned()),
        Plan::Write(_) => ("write", QUEUED.to_owned()),
        Plan::Local(_) => ("local", "answered by Ripen itself".to_owned()),
        Plan::PassThrough(pass) => ("pass", pass.reason.to_string()),
    };
    let answer = one_row(ROUTE_COLUMNS, [way.to_owned(), why]);
    write(&answer, describe, "CALL", out);
}

/// RowDescription (or NoData) of one of our own statements.
pub fn describe(engine: &Engine, plan: &LocalPlan, _: Formats<'_>, out: &mut BytesMut) {
    let columns = match plan {
        LocalPlan::Show(Shown::DeadLetters) => super::dead::COLUMNS.to_vec(),
        LocalPlan::Show(Shown::Version) => vec!["ripen.version"],
        LocalPlan::Show(Shown::Clients) => metrics::CLIENT_COLUMNS.to_vec(),
        LocalPlan::Show(Shown::Nodes) => metrics::NODE_COLUMNS.to_vec(),
        LocalPlan::Show(Shown::Logs) => metrics::LOG_COLUMNS.to_vec(),
        LocalPlan::Show(Shown::Standbys) => metrics::STANDBY_COLUMNS.to_vec(),
        LocalPlan::Show(Shown::Route) | LocalPlan::Call(LocalCall::Route(_)) => {
            ROUTE_COLUMNS.to_vec()
        }
        LocalPlan::Show(shown) => {
            metrics::show(shown_name(*shown), &Status::default(), &engine.config)
                .map_or(vec!["ripen"], |answer| answer.columns)
        }
        _ => return backend::no_data(out),
    };
    row_description(&columns, out);
}

fn row_description(columns: &[&'static str], out: &mut BytesMut) {
    let field = |name: &&'static str| FieldDescription {
        name: name.as_bytes(),
        table: TableOid(0),
        attnum: 0,
        type_oid: oid::TEXT,
        type_len: -1,
        type_modifier: -1,
        format: 0,
    };
    backend::row_description(out, columns.iter().map(field));
}

fn write(answer: &Answer, describe: bool, tag: &str, out: &mut BytesMut) {
    if describe {
        row_description(&answer.columns, out);
    }
    for values in &answer.rows {
        let mut row = DataRow::begin(out, values.len());
        for value in values {
            match value {
                Some(value) => row.put_value(value.as_bytes()),
                None => row.put_null(),
            }
        }
        row.finish();
    }
    backend::command_complete(out, tag.as_bytes());
}
