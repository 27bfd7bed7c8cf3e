//! The one list of keys: file, environment, flags, `SHOW ripen.config` and docs/CONFIGURATION.md all follow it. Never reads anything itself.

use super::pattern::TablePattern;
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};
use super::{Config, Conflict, Durability, LogFormat, Mode, Secret, TableSettings, UpstreamUrl};
use std::path::PathBuf;

/// A key: how it is named, told about, set from text and shown as text.
pub struct Key<T: 'static> {
    /// In the file; upper case after `RIPEN_` in the environment, with `-` for `_` as a flag.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// Sets it.
    pub set: fn(&mut T, &str) -> Result<(), String>,
    /// Shows it so that `set` reads it back (secrets excepted).
    pub show: fn(&T) -> String,
}

macro_rules! keys {
    ($target:ty; $($name:ident $(of $part:ident)?: $help:literal, $parse:expr, $show:expr;)*) => {
        &[$(Key {
            name: stringify!($name),
            help: $help,
            set: |target: &mut $target, text| {
                target.$($part.)?$name = $parse(text)?;
                Ok(())
            },
            show: |target: &$target| $show(&target.$($part.)?$name),
        }),*]
    };
}

/// Keys of the whole process.
pub const GLOBAL: &[Key<Config>] = keys! { Config;
    upstream: "URL of the system of record: postgres://user:password@host:port/database", UpstreamUrl::parse, ToString::to_string;
    listen: "host:port for clients", parse_address, String::clone;
    admin_listen: "host:port for /metrics, /live and /ready over HTTP", parse_address, String::clone;
    data_dir: "folder of the log, and of what a start without Postgres needs", parse_path, show_path;
    write_behind: "tables whose writes are queued: patterns such as public.sessions, app.*", TablePattern::parse_list, show_patterns;
    logs: "how many logs take queued writes, each flushed by itself; tables are spread over them", parse_logs, ToString::to_string;
    durability: "when a write is acknowledged: fsync or memory", parse_durability, show_durability;
    memory_max: "bound on the resident memory of the process; clean rows are evicted above it", parse_positive_bytes, |v: &u64| show_bytes(*v);
    resident_rows_max: "largest number of rows of a table that is held whole; one with more is read in Postgres", parse_resident_rows, ToString::to_string;
    near_share: "in a cluster: largest part of the memory for rows that copies of other nodes' rows may take; 0 to 1", parse_factor, ToString::to_string;
    max_pending_bytes: "bound on acknowledged changes not yet in Postgres", parse_positive_bytes, |v: &u64| show_bytes(*v);
    pending_wait: "how long a write waits at max_pending_bytes before it fails", parse_duration, |v: &_| show_duration(*v);
    barrier_timeout: "how long a statement waits for the flush of what it could see", parse_positive_duration, |v: &_| show_duration(*v);
    upstream_wait: "how long a statement waits for a Postgres that is away", parse_duration, |v: &_| show_duration(*v);
    standbys: "asynchronous standbys of the system of record that may be promoted, by application_name: flushes are kept until all have them", parse_standbys, |v: &Vec<String>| v.join(",");
    max_staleness: "lag of the hot cache above which reads go to Postgres", parse_positive_duration, |v: &_| show_duration(*v);
    slot: "name of the logical replication slot, one per Ripen; without it, ripen_ and the OID of the database", parse_slot, show_some;
    catalog_poll: "how often the catalog is checked for outside changes", parse_positive_duration, |v: &_| show_duration(*v);
    stop_timeout: "how long a graceful stop waits for transactions, and again for the queue", parse_duration, |v: &_| show_duration(*v);
    tls_cert: "certificate chain (PEM) for TLS to clients", parse_optional_path, show_optional_path;
    tls_key: "private key (PEM) for TLS to clients", parse_optional_path, show_optional_path;
    cluster_listen of cluster: "host:port for other nodes of a cluster; without it, this is a node alone", parse_some_address, show_some;
    cluster_advertise of cluster: "host:port that other nodes use, if not cluster_listen", parse_some_address, show_some;
    join of cluster: "host:port of nodes that belong to the cluster; several, or a name with several addresses", parse_addresses, |v: &Vec<String>| v.join(",");
    bootstrap of cluster: "true: an empty data folder founds a cluster; later it means nothing", parse_bool, ToString::to_string;
    cluster_secret of cluster: "what all nodes share, to know each other by; better in a variable or a file than as a flag", |text| Secret::parse(text).map(Some), show_secret;
    cluster_secret_file of cluster: "a file that has the secret", parse_optional_path, show_optional_path;
    cluster_ca of cluster: "authority (PEM) that all nodes' certificates come from", parse_optional_path, show_optional_path;
    cluster_cert of cluster: "this node's certificate chain (PEM) for other nodes", parse_optional_path, show_optional_path;
    cluster_key of cluster: "its private key (PEM)", parse_optional_path, show_optional_path;
    replace_after of cluster: "a voter that is silent for so long is replaced, if another node can", parse_replace_after, |v: &_| show_duration(*v);
    voters of cluster: "most nodes that decide together: 3, 5 or 7; 1, 2 or 3 of them may be lost at a time", parse_voters, ToString::to_string;
    max_clients: "client connections beyond this are refused", parse_count, ToString::to_string;
    log_format: "how log lines look: text or json", parse_log_format, show_log_format;
    log_level: "which log lines appear: error, warn, info, debug, trace, or tracing directives", parse_log_level, String::clone;
};

/// Those of them that mean nothing for a node alone.
pub(super) const CLUSTER: &[&str] = &[
    "cluster_advertise",
    "join",
    "bootstrap",
    "cluster_secret",
    "cluster_secret_file",
    "cluster_ca",
    "cluster_cert",
    "cluster_key",
    "replace_after",
    "voters",
];

/// Keys that hold several values: their flags may be repeated.
pub const LISTS: &[&str] = &["write_behind", "join"];

/// Keys whose flag alone means true.
pub const SWITCHES: &[&str] = &["bootstrap"];

/// Keys of a `[[table]]` entry (beside `pattern` and `mode`); outside of entries they set the default for all tables.
pub const TABLE: &[Key<TableSettings>] = keys! { TableSettings;
    write_delay: "a pending row is ripe this long after its first change; 0 writes through", parse_duration, |v: &_| show_duration(*v);
    batch_factor: "a flush takes rows of age >= (1 - batch_factor) * write_delay; 0 to 1", parse_factor, ToString::to_string;
    write_max_batch: "rows per flush transaction", parse_count, ToString::to_string;
    log: "which of the logs takes the table's writes, from 0; \"any\" leaves that to Ripen", parse_log, show_log;
    conflict: "outside change to a pending row: merge or database", parse_conflict, show_conflict;
    exclusive: "true: nobody but Ripen writes the table", parse_bool, ToString::to_string;
    memory_share: "largest part of the memory for rows for the table; above 0, at most 1", parse_share, ToString::to_string;
    expiry: "clean rows are not served longer than this after their load; \"never\" keeps them", parse_expiry, show_expiry;
    resident: "true: the table is held whole in memory, on every node, so that it need not be read by key", parse_bool, ToString::to_string;
};

/// Reads a mode.
pub(super) fn parse_mode(text: &str) -> Result<Mode, String> {
    choose(
        text,
        &[
            ("off", Mode::Off),
            ("read-through", Mode::ReadThrough),
            ("write-behind", Mode::WriteBehind),
        ],
    )
}

/// Shows a mode as `parse_mode` reads it.
pub fn show_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::ReadThrough => "read-through",
        Mode::WriteBehind => "write-behind",
    }
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        format!("\"{text}\" is not one of {}", names.join(", "))
    })
}

fn parse_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(format!("\"{text}\" is not host:port"));
    }
    Ok(text.to_owned())
}

fn parse_some_address(text: &str) -> Result<Option<String>, String> {
    parse_address(text).map(Some)
}

fn parse_addresses(text: &str) -> Result<Vec<String>, String> {
    let addresses = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    addresses.map(parse_address).collect()
}

/// As `pg_stat_replication` shows them: at most 63 bytes.
fn parse_standbys(text: &str) -> Result<Vec<String>, String> {
    let names = text.split(',').map(str::trim);
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    for (index, name) in names.iter().enumerate() {
        if name.len() > 63 {
            return Err(format!(
                "\"{name}\" is longer than the 63 bytes of an application_name"
            ));
        }
        if names[..index].contains(name) {
            return Err(format!("\"{name}\" is named twice"));
        }
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn parse_voters(text: &str) -> Result<usize, String> {
    choose(text, &[("3", 3), ("5", 5), ("7", 7)])
}

fn parse_replace_after(text: &str) -> Result<std::time::Duration, String> {
    at_least(crate::limits::REPLACE_AFTER_MIN, text)
}

/// Postgres's own rule for names of slots.
fn parse_slot(text: &str) -> Result<Option<String>, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if text.is_empty() || text.len() > 63 || !text.chars().all(good) {
        return Err(format!(
            "\"{text}\" is not a slot name; write lower case letters, digits and \"_\""
        ));
    }
    Ok(Some(text.to_owned()))
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn parse_optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    parse_path(text).map(Some)
}

fn parse_positive_duration(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text).and_then(|value| positive(value, value.is_zero()))
}

fn parse_positive_bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).and_then(|value| positive(value, value == 0))
}

fn positive<T>(value: T, zero: bool) -> Result<T, String> {
    if zero {
        Err("must be more than 0".to_owned())
    } else {
        Ok(value)
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    let value = text
        .parse()
        .map_err(|_| format!("\"{text}\" is not a whole number"))?;
    positive(value, value == 0)
}

fn parse_resident_rows(text: &str) -> Result<usize, String> {
    let most = crate::limits::RESIDENT_ROWS_MAX;
    parse_count(text).and_then(|rows| match rows <= most {
        true => Ok(rows),
        false => Err(format!("\"{text}\" is more than {most}")),
    })
}

fn parse_logs(text: &str) -> Result<u8, String> {
    let most = crate::limits::LOGS_MAX;
    let value = text.parse().ok().filter(|logs| (1..=most).contains(logs));
    value.ok_or_else(|| format!("\"{text}\" is not a whole number from 1 to {most}"))
}

fn parse_log(text: &str) -> Result<Option<u8>, String> {
    if text == "any" {
        return Ok(None);
    }
    let most = crate::limits::LOGS_MAX;
    let value = text.parse().ok().filter(|log| *log < most);
    let value = value.map(Some);
    value.ok_or_else(|| format!("\"{text}\" is neither \"any\" nor a log's number, from 0"))
}

fn parse_bool(text: &str) -> Result<bool, String> {
    choose(text, &[("true", true), ("false", false)])
}

fn parse_factor(text: &str) -> Result<f64, String> {
    let value = text
        .parse()
        .ok()
        .filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| format!("\"{text}\" is not a number from 0 to 1"))
}

fn parse_share(text: &str) -> Result<f64, String> {
    parse_factor(text).and_then(|value| positive(value, value == 0.0))
}

fn parse_expiry(text: &str) -> Result<Option<std::time::Duration>, String> {
    if text == "never" {
        return Ok(None);
    }
    at_least(crate::limits::EXPIRY_MIN, text).map(Some)
}

fn at_least(min: std::time::Duration, text: &str) -> Result<std::time::Duration, String> {
    let duration = parse_positive_duration(text)?;
    if duration < min {
        return Err(format!("\"{text}\" is less than {}", show_duration(min)));
    }
    Ok(duration)
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    choose(
        text,
        &[("fsync", Durability::Fsync), ("memory", Durability::Memory)],
    )
}

fn parse_conflict(text: &str) -> Result<Conflict, String> {
    choose(
        text,
        &[("merge", Conflict::Merge), ("database", Conflict::Database)],
    )
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    choose(
        text,
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
    )
}

fn parse_log_level(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("\"{text}\" is not a level or a list of directives: {error}"))?;
    Ok(text.to_owned())
}

fn show_path(path: &std::path::Path) -> String {
    path.display().to_string()
}

fn show_optional_path(path: &Option<PathBuf>) -> String {
    path.as_deref().map(show_path).unwrap_or_default()
}

fn show_some(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

fn show_secret(secret: &Option<Secret>) -> String {
    secret.as_ref().map_or(String::new(), |_| "***".to_owned())
}

fn show_patterns(patterns: &[TablePattern]) -> String {
    patterns
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn show_expiry(expiry: &Option<std::time::Duration>) -> String {
    expiry.map_or_else(|| "never".to_owned(), show_duration)
}

fn show_log(log: &Option<u8>) -> String {
    log.map_or_else(|| "any".to_owned(), |log| log.to_string())
}

fn show_durability(value: &Durability) -> String {
    match value {
        Durability::Fsync => "fsync",
        Durability::Memory => "memory",
    }
    .to_owned()
}

fn show_conflict(value: &Conflict) -> String {
    match value {
        Conflict::Merge => "merge",
        Conflict::Database => "database",
    }
    .to_owned()
}

fn show_log_format(value: &LogFormat) -> String {
    match value {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
    .to_owned()
}
