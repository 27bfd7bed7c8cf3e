//! What Ripen can tell about itself, as one plain value, and the one list of numbers that `/metrics` and `SHOW ripen.*` render.
//! Never counts anything: whoever does the work counts, and the server fills a [`Status`] when asked.

mod render;

pub use render::{
    Answer, CLIENT_COLUMNS, LOG_COLUMNS, NODE_COLUMNS, STANDBY_COLUMNS, clients, logs, nodes,
    openmetrics, show, standbys,
};

use ripen_grid::cluster::status::MemberStatus;
use ripen_grid::flusher::StandbySeen;
use serde::Serialize;

/// A snapshot of everything that is shown. Filled on demand; numbers of different parts may be a moment apart.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Why this Ripen cannot serve now, for people; `None` when it can.
    pub not_ready: Option<String>,
    /// Why the replication stream is not up, and what to do, for people; empty while it is, and before it was first tried.
    pub hotcache_obstacle: String,
    /// The single numbers.
    pub totals: Totals,
    /// Per table known to the catalog and not `off` by configuration.
    pub tables: Vec<TableStatus>,
    /// Per log of this node.
    pub logs: Vec<LogStatus>,
    /// How often statements got each plan, and why.
    pub plans: Vec<PlanCount>,
    /// Standbys of the system of record, as this node sees them where it leads.
    #[serde(skip)]
    pub standbys: Vec<StandbySeen>,
    /// This node among others, as it sees them by itself.
    pub node: MemberStatus,
}

impl Status {
    /// Takes in what this node knows of its cluster.
    pub fn see_node(&mut self, node: MemberStatus) {
        self.totals.node_leads = node.leads.into();
        self.totals.node_may_read = node.may_read.into();
        self.totals.node_members = node.members.len() as u64;
        self.totals.node_voters = node.voters().count() as u64;
        self.totals.node_term = node.term;
        self.node = node;
    }
}

/// One table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableStatus {
    /// Schema and name as in the catalog.
    pub schema: String,
    /// See `schema`.
    pub name: String,
    /// What the configuration says: `off`, `read-through`, `write-behind`.
    pub mode: String,
    /// Why it is not cached or not queued after all; empty when it is as the mode says.
    pub obstacle: String,
    /// Rows in memory, known-absent keys included.
    pub cached_rows: u64,
    /// Their bytes.
    pub memory_bytes: u64,
    /// Rows acknowledged and not known to be in Postgres.
    pub pending_rows: u64,
    /// Reads answered from memory.
    pub hits: u64,
    /// Times that a read had to load rows.
    pub misses: u64,
}

/// One log.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LogStatus {
    /// Its number, from 0.
    pub log: u8,
    /// Tables whose changes it has had, since they last left it.
    pub tables: u64,
    /// Rows acknowledged and not known to be in Postgres.
    pub pending_rows: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Flush transactions that Postgres has of it.
    pub flushes: u64,
    /// Times that it was forced to disk, since the start.
    pub syncs: u64,
    /// Its size on disk.
    pub disk_bytes: u64,
}

/// One client connection. Not part of [`Status`]: there may be thousands, and not everybody may see them.
#[derive(Clone, Debug, Default)]
pub struct ClientStatus {
    /// The backend process id that the client was told.
    pub pid: u32,
    /// Login role.
    pub user: String,
    /// Database.
    pub database: String,
    /// `application_name`.
    pub application: String,
    /// `host:port` of the client.
    pub address: String,
    /// Whether it holds a connection to Postgres.
    pub upstream: bool,
    /// Since the login.
    pub connected_seconds: f64,
}

/// How many statements got one kind of plan for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanCount {
    /// `read`, `write`, `local`, `pass`.
    pub kind: String,
    /// The reason that `SHOW ripen.route` gives, from a bounded set.
    pub reason: String,
    /// Statements.
    pub count: u64,
}

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Which part of Ripen a number is about; also the name after `SHOW ripen.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Rows in memory.
    Cache,
    /// Pending rows, flushes and the log.
    Queue,
    /// The replication stream.
    Hotcache,
    /// Clients and connections to Postgres.
    Sessions,
    /// This node among others.
    Node,
}

/// A number with its name (without the prefix `ripen_`).
#[derive(Clone, Copy)]
pub struct Metric {
    /// Unit last, if it has one.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// See [`Kind`].
    pub kind: Kind,
    /// See [`Part`].
    pub part: Part,
    /// Reads it.
    pub get: fn(&Totals) -> f64,
}

macro_rules! totals {
    ($($part:ident $kind:ident $name:ident: $type:ty, $help:literal;)*) => {
        /// The single numbers.
        #[derive(Clone, Debug, Default, Serialize)]
        pub struct Totals {
            $(#[doc = $help] pub $name: $type,)*
        }

        /// Every field of [`Totals`].
        pub const METRICS: &[Metric] = &[$(Metric {
            name: stringify!($name),
            help: $help,
            kind: Kind::$kind,
            part: Part::$part,
            get: |totals| totals.$name as f64,
        }),*];
    };
}

totals! {
    Cache Counter hits: u64, "Reads answered from memory.";
    Cache Counter misses: u64, "Times that a read had to load rows from Postgres.";
    Cache Counter loads: u64, "Load queries sent to Postgres.";
    Cache Counter loads_poisoned: u64, "Loads answered but not kept, because a fence or change passed them.";
    Cache Counter evictions: u64, "Clean rows dropped for memory or age.";
    Cache Counter join_hits: u64, "Reads of joined tables answered from memory; they count as hits, too.";
    Cache Counter set_hits: u64, "Reads of keyed sets (rows by a value of an index) answered from memory; they count as hits, too.";
    Cache Counter set_misses: u64, "Times that a read had to load sets from Postgres; they count as misses, too.";
    Cache Gauge sets: u64, "Keyed sets in memory.";
    Cache Gauge set_rows: u64, "Rows that may be in them, counted once for each set; they count as cached_rows only while the rows themselves are in memory.";
    Cache Gauge set_bytes: u64, "Estimated bytes of sets beside their rows; part of memory_bytes.";
    Cache Counter set_evictions: u64, "Sets given up for memory. (Those that end with their table's past are not counted.)";
    Cache Gauge cached_rows: u64, "Rows in memory, known-absent keys included.";
    Cache Gauge memory_bytes: u64, "Estimated bytes of rows in memory.";
    Cache Gauge memory_pinned_bytes: u64, "Those of memory_bytes that cannot be given up now: pending rows, and rows being loaded.";
    Cache Gauge memory_target_bytes: u64, "Bound on memory_bytes as it is now, so that process_bytes keeps to memory_max_bytes.";
    Cache Gauge memory_near_bytes: u64, "Those of memory_bytes that are copies of rows which other nodes own.";
    Cache Gauge memory_max_bytes: u64, "Bound on process_bytes.";
    Cache Gauge process_bytes: u64, "Resident memory of the process.";
    Cache Counter fences: u64, "Times that cached reads of a key, a table or everything were sent to Postgres for a while.";
    Cache Gauge fences_open: u64, "Fences now in force.";
    Cache Counter bypassed_reads: u64, "Cached reads sent to Postgres because the hot cache was behind or away.";
    Queue Counter writes: u64, "Row changes acknowledged into the queue.";
    Queue Counter coalesced_writes: u64, "Row changes that joined a row already pending.";
    Queue Gauge pending_rows: u64, "Rows acknowledged and not known to be in Postgres.";
    Queue Gauge pending_bytes: u64, "Bytes of pending rows, and of those kept for standbys.";
    Queue Gauge pending_max_bytes: u64, "Bound on pending_bytes.";
    Queue Gauge oldest_pending_seconds: f64, "Age of the oldest pending row.";
    Queue Counter pending_waits: u64, "Writes that waited because pending_bytes was at its bound.";
    Queue Counter pending_refusals: u64, "Writes refused because pending_bytes stayed at its bound.";
    Queue Gauge kept_flushes: u64, "Flushes kept until all standbys have them.";
    Queue Gauge kept_rows: u64, "Rows written by them.";
    Queue Gauge kept_bytes: u64, "Bytes of them; they count into pending_bytes.";
    Queue Gauge oldest_kept_seconds: f64, "Age of the oldest kept flush.";
    Queue Counter rewritten_flushes: u64, "Flushes written again after Postgres had lost them.";
    Queue Counter flushes: u64, "Flush transactions committed in Postgres.";
    Queue Counter flushed_rows: u64, "Rows written by them.";
    Queue Counter flush_seconds: f64, "Time spent in flush transactions.";
    Queue Counter store_failures: u64, "Flush attempts that failed and were tried again or split.";
    Queue Counter dead_letters: u64, "Commit groups put into ripen.dead_letter.";
    Queue Counter conflicts: u64, "Outside changes that met a pending row.";
    Queue Counter barrier_waits: u64, "Statements that waited for a flush.";
    Queue Counter barrier_seconds: f64, "Time they waited.";
    Queue Counter log_appends: u64, "Entries appended to the log.";
    Queue Counter log_syncs: u64, "Times the log was forced to disk.";
    Queue Counter log_sync_seconds: f64, "Time spent forcing the log to disk.";
    Queue Gauge log_bytes: u64, "Bytes of log on disk.";
    Hotcache Gauge hotcache_connected: u64, "1 while the replication stream is up.";
    Hotcache Gauge hotcache_lag_bytes: u64, "WAL written by Postgres and not yet seen.";
    Hotcache Gauge hotcache_lag_seconds: f64, "Time since the stream was last known to be at the end of the WAL.";
    Hotcache Gauge outside_staleness_p50_seconds: f64, "Median time from an outside commit to its arrival in memory.";
    Hotcache Gauge outside_staleness_p99_seconds: f64, "99th percentile of the same.";
    Hotcache Counter hotcache_transactions: u64, "Transactions seen in the stream.";
    Hotcache Counter hotcache_echoes: u64, "Those that were flushes of this Ripen.";
    Hotcache Counter hotcache_changes: u64, "Row changes of others applied to memory.";
    Hotcache Counter hotcache_invalidations: u64, "Rows dropped because a change did not tell the whole row.";
    Hotcache Counter hotcache_restarts: u64, "Times the stream was opened again.";
    Hotcache Counter hotcache_resyncs: u64, "Those of them after which clean rows were dropped, as nobody could tell what had changed.";
    Hotcache Gauge hotcache_reads_slot: u64, "1 on the node that reads the slot: of a cluster the leader, which tells the others.";
    Hotcache Gauge hotcache_relay_nodes: u64, "Other nodes that this one tells what the stream tells.";
    Sessions Gauge clients: u64, "Client connections.";
    Sessions Gauge clients_max: u64, "Bound on clients.";
    Sessions Counter client_connections: u64, "Client connections accepted.";
    Sessions Counter client_refusals: u64, "Client connections refused at the bound or while stopping.";
    Sessions Gauge upstream_available: u64, "1 while Postgres answers.";
    Sessions Gauge upstream_connections: u64, "Connections to Postgres held for clients.";
    Sessions Counter upstream_dials: u64, "Connections to Postgres opened for clients.";
    Sessions Counter catalog_loads: u64, "Times the catalog was read anew.";
    Sessions Gauge uptime_seconds: f64, "Time since the start.";
    Node Gauge owners: u64, "Nodes that own rows as this one sees it, itself included.";
    Node Counter peer_asked_rows: u64, "Rows asked of other nodes instead of Postgres.";
    Node Counter peer_borrowed_rows: u64, "Those that other nodes answered.";
    Node Counter peer_warmed_rows: u64, "Those of them that came from the node that owned them before this one was there.";
    Node Counter peer_fallback_rows: u64, "Those that other nodes did not answer: loaded from Postgres here.";
    Node Counter peer_lent_rows: u64, "Rows told to other nodes that asked.";
    Node Counter peer_loaded_rows: u64, "Rows that were not in memory when other nodes asked: loaded for them.";
    Node Gauge node_leads: u64, "1 while this node leads its cluster, or is alone.";
    Node Gauge node_may_read: u64, "1 while this node may answer from memory.";
    Node Gauge node_members: u64, "Nodes of the cluster, this one included.";
    Node Gauge node_voters: u64, "Those of them that decide together.";
    Node Gauge node_term: u64, "Counts leaders: grows whenever one is to be elected.";
}

impl Totals {
    /// Ratios that follow from the numbers, with their meaning; 0 where nothing happened yet.
    pub fn ratios(&self) -> [(&'static str, f64, &'static str); 3] {
        let ratio = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                part as f64 / whole as f64
            }
        };
        [
            (
                "hit_ratio",
                ratio(self.hits, self.hits + self.misses),
                "Part of the reads that found all rows in memory.",
            ),
            (
                "coalescing_ratio",
                ratio(self.coalesced_writes, self.writes),
                "Part of the row changes that joined a pending row.",
            ),
            (
                "average_batch_rows",
                ratio(self.flushed_rows, self.flushes),
                "Rows per flush transaction.",
            ),
        ]
    }
}
