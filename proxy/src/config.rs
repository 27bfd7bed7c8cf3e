//! What a user may set, checked and merged: flags over environment over file over defaults. Every other module receives a [`Config`] that is
//! complete and free of contradictions; it never reads a file, a variable or a flag itself.

mod check;
mod cluster;
mod file;
mod load;
pub mod pattern;
pub mod schema;
pub mod units;
mod upstream;

pub use cluster::{ClusterConfig, ClusterError, ClusterSettings, Proof, Secret};
pub use load::{Origin, Problem, Problems, Setting, Sources};
pub use pattern::TablePattern;
pub use upstream::UpstreamUrl;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// All settings of one Ripen. Made by [`Config::load`]; immutable afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The system of record, with Ripen's own user. Empty only before [`Config::load`] has checked it.
    pub upstream: UpstreamUrl,
    /// `host:port` for clients.
    pub listen: String,
    /// `host:port` for the admin HTTP server (`/metrics`, `/live`, `/ready`).
    pub admin_listen: String,
    /// Folder of the log; created when missing, locked by one process.
    pub data_dir: PathBuf,
    /// Tables whose writes are queued, unless a `[[table]]` entry says its mode.
    pub write_behind: Vec<TablePattern>,
    /// How many logs take queued writes, each with a flusher of its own.
    pub logs: u8,
    /// When a write counts as safe.
    pub durability: Durability,
    /// Bound on the resident memory of the process, in bytes; clean rows are evicted above it.
    pub memory_max: u64,
    /// Most rows of a table that is held whole.
    pub resident_rows_max: usize,
    /// Part of the memory for rows that near copies of other nodes' rows may take.
    pub near_share: f64,
    /// Bound on acknowledged changes that Postgres does not have yet, in bytes.
    pub max_pending_bytes: u64,
    /// How long a write waits when `max_pending_bytes` is reached, before it fails.
    pub pending_wait: Duration,
    /// How long a statement waits for the flush of what it could see, before it fails.
    pub barrier_timeout: Duration,
    /// How long a statement waits for Postgres when it cannot be reached, before it fails.
    pub upstream_wait: Duration,
    /// Standbys of the system of record that must have a flush before it is forgotten here, by their `application_name`.
    pub standbys: Vec<String>,
    /// Above this lag of the hot cache, reads go to Postgres.
    pub max_staleness: Duration,
    /// Name of the logical replication slot: one per Ripen, as slots belong to the whole server, not to a database. `None`: by the database. Its WAL is kept
    /// while Ripen is away; it is dropped when Ripen stops in order.
    pub slot: Option<String>,
    /// How often the catalog is looked at for changes made behind Ripen's back.
    pub catalog_poll: Duration,
    /// How long a graceful stop waits for transactions, and again for the queue.
    pub stop_timeout: Duration,
    /// Certificate chain (PEM) for TLS to clients; with `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) for TLS to clients; with `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// What was said about other nodes; [`ClusterSettings::member`] says what it means.
    pub cluster: ClusterSettings,
    /// Client connections beyond this are refused with 53300.
    pub max_clients: usize,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines appear: a level, or tracing directives such as `info,ripen_proxy=debug`.
    pub log_level: String,
    /// Table settings where no `[[table]]` entry says otherwise; its `mode` is not used.
    pub table_defaults: TableSettings,
    /// The `[[table]]` entries, in order.
    pub tables: Vec<TableRule>,
    /// Where each key that was set came from; the others have their default.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// One `[[table]]` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRule {
    /// Which tables it is for.
    pub pattern: TablePattern,
    /// Its mode; `None` leaves it to `write_behind`.
    pub mode: Option<Mode>,
    /// Its settings, completed by [`Config::table_defaults`].
    pub settings: TableSettings,
    /// Where the entry stands, and which keys it sets itself.
    pub origin: Origin,
    /// See `origin`.
    pub keys: BTreeMap<&'static str, Origin>,
}

/// What holds for one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSettings {
    /// What Ripen does with it.
    pub mode: Mode,
    /// A pending row is ripe this long after it first became pending; zero means write-through.
    pub write_delay: Duration,
    /// A flush takes rows of age ≥ `(1 − batch_factor) × write_delay`. In 0..=1.
    pub batch_factor: f64,
    /// Rows per flush transaction, where commit groups allow the split.
    pub write_max_batch: usize,
    /// The log that takes its changes; `None`: whichever.
    pub log: Option<u8>,
    /// What an outside change to a pending row does.
    pub conflict: Conflict,
    /// Nobody but Ripen writes this table: it may be cached without logical replication.
    pub exclusive: bool,
    /// Largest part of the memory for rows that rows of this table may take. Above 0, at most 1.
    pub memory_share: f64,
    /// A clean row is dropped this long after it was loaded; `None`: never.
    pub expiry: Option<Duration>,
    /// It is held whole, on every node: a SELECT of it needs no key, and what is not there does not exist.
    pub resident: bool,
}

/// What Ripen does with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Never cached.
    Off,
    /// Cached reads, synchronous writes.
    ReadThrough,
    /// Cached reads, queued writes.
    WriteBehind,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk on a majority.
    Fsync,
    /// In memory on a majority; the disk follows.
    Memory,
}

/// Who wins when somebody else changes a row in Postgres that is pending here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Assigned columns keep the pending value, the others take the outside value.
    Merge,
    /// The pending change goes to the dead letters.
    Database,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            upstream: UpstreamUrl::default(),
            listen: "127.0.0.1:6432".to_owned(),
            admin_listen: "127.0.0.1:6433".to_owned(),
            data_dir: PathBuf::from("./data"),
            write_behind: Vec::new(),
            logs: 1,
            durability: Durability::Fsync,
            memory_max: 1 << 30,
            resident_rows_max: 10_000,
            near_share: 0.25,
            max_pending_bytes: 256 << 20,
            pending_wait: Duration::from_secs(5),
            barrier_timeout: Duration::from_secs(30),
            upstream_wait: Duration::from_secs(5),
            standbys: Vec::new(),
            max_staleness: Duration::from_secs(10),
            slot: None,
            catalog_poll: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(30),
            tls_cert: None,
            tls_key: None,
            cluster: ClusterSettings::default(),
            max_clients: 10_000,
            log_format: LogFormat::Text,
            log_level: "info,openraft=warn".to_owned(),
            table_defaults: TableSettings::default(),
            tables: Vec::new(),
            origins: BTreeMap::new(),
        }
    }
}

impl Default for TableSettings {
    fn default() -> TableSettings {
        TableSettings {
            mode: Mode::ReadThrough,
            write_delay: Duration::from_secs(1),
            batch_factor: 1.0,
            write_max_batch: 10_000,
            log: None,
            conflict: Conflict::Merge,
            exclusive: false,
            memory_share: 1.0,
            expiry: None,
            resident: false,
        }
    }
}

impl Config {
    /// What holds for the table of that schema and name (as in the catalog). The first matching `[[table]]` entry decides;
    /// an entry without a mode, and no entry at all, leave the mode to `write_behind`. Whether the table *can* be cached is the catalog's matter.
    pub fn table(&self, schema: &str, name: &str) -> TableSettings {
        let rule = self
            .tables
            .iter()
            .find(|rule| rule.pattern.matches(schema, name));
        let mut settings = rule
            .map_or(&self.table_defaults, |rule| &rule.settings)
            .clone();
        settings.mode = match rule.and_then(|rule| rule.mode) {
            _ if is_system_schema(schema) => Mode::Off,
            Some(mode) => mode,
            None if self
                .write_behind
                .iter()
                .any(|pattern| pattern.matches(schema, name)) =>
            {
                Mode::WriteBehind
            }
            None => Mode::ReadThrough,
        };
        settings
    }

    /// Every key with its value as text and where it comes from, for `SHOW ripen.config` and `ripen check-config`. Without secrets.
    pub fn rows(&self) -> Vec<(String, String, String)> {
        let origin = |name: &str| {
            self.origins
                .get(name)
                .map_or_else(|| "default".to_owned(), Origin::to_string)
        };
        let mut rows = Vec::new();
        for key in schema::GLOBAL {
            rows.push((key.name.to_owned(), (key.show)(self), origin(key.name)));
        }
        for key in schema::TABLE {
            rows.push((
                key.name.to_owned(),
                (key.show)(&self.table_defaults),
                origin(key.name),
            ));
        }
        for rule in &self.tables {
            let prefix = format!("table {}", rule.pattern);
            if let Some(mode) = rule.mode {
                rows.push((
                    format!("{prefix} mode"),
                    schema::show_mode(mode).to_owned(),
                    rule.origin.to_string(),
                ));
            }
            for key in schema::TABLE
                .iter()
                .filter(|key| rule.keys.contains_key(key.name))
            {
                let at = rule
                    .keys
                    .get(key.name)
                    .map(Origin::to_string)
                    .unwrap_or_default();
                rows.push((
                    format!("{prefix} {}", key.name),
                    (key.show)(&rule.settings),
                    at,
                ));
            }
        }
        rows
    }
}

/// Catalogs, temporary tables and Ripen's own bookkeeping are never cached.
fn is_system_schema(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema" || schema == "ripen"
}

#[cfg(test)]
mod tests;
