//! Turns a [`Status`] into the answer to `SHOW ripen.…` and into OpenMetrics text. Never shows a row value or a password.

use super::{ClientStatus, Kind, LogStatus, METRICS, Part, Status, Totals};
use crate::config::Config;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use ripen_grid::cluster::status::MemberStatus;
use ripen_grid::flusher::StandbySeen;
use std::sync::atomic::AtomicU64;

/// A small result set; every column is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Column names.
    pub columns: Vec<&'static str>,
    /// Rows of the same width; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Answer {
    /// An answer without NULLs.
    pub fn new(columns: &[&'static str], rows: impl IntoIterator<Item = Vec<String>>) -> Answer {
        let row = |row: Vec<String>| row.into_iter().map(Some).collect();
        Answer {
            columns: columns.to_vec(),
            rows: rows.into_iter().map(row).collect(),
        }
    }
}

/// Answers `SHOW ripen.<name>` for status, queue, hotcache, tables, plans and config; `None` for any other name.
pub fn show(name: &str, status: &Status, config: &Config) -> Option<Answer> {
    Some(match name {
        "status" => numbers(
            status,
            &[
                Part::Cache,
                Part::Queue,
                Part::Hotcache,
                Part::Sessions,
                Part::Node,
            ],
        ),
        "queue" => numbers(status, &[Part::Queue]),
        "hotcache" => numbers(status, &[Part::Hotcache]),
        "tables" => tables(status),
        "plans" => plans(status),
        "config" => settings(config),
        _ => return None,
    })
}

fn numbers(status: &Status, parts: &[Part]) -> Answer {
    let mut rows = Vec::new();
    if parts.len() > 1 {
        let ready = status.not_ready.clone().unwrap_or_else(|| "yes".to_owned());
        rows.push(vec![
            "ready".to_owned(),
            ready,
            "Why not, if not.".to_owned(),
        ]);
        for (name, value, help) in status.totals.ratios() {
            rows.push(vec![name.to_owned(), number(value), help.to_owned()]);
        }
    }
    if parts.contains(&Part::Hotcache) {
        rows.push(vec![
            "hotcache_obstacle".to_owned(),
            status.hotcache_obstacle.clone(),
            "Why the replication stream is not up, and what to do.".to_owned(),
        ]);
    }
    for metric in METRICS.iter().filter(|metric| parts.contains(&metric.part)) {
        let value = (metric.get)(&status.totals);
        rows.push(vec![
            metric.name.to_owned(),
            number(value),
            metric.help.to_owned(),
        ]);
    }
    Answer::new(&["name", "value", "meaning"], rows)
}

/// Whole numbers without a point, others with six digits.
fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.6}")
    }
}

fn tables(status: &Status) -> Answer {
    let row = |table: &super::TableStatus| {
        let texts = [&table.schema, &table.name, &table.mode, &table.obstacle].map(String::clone);
        let counts = [
            table.cached_rows,
            table.memory_bytes,
            table.pending_rows,
            table.hits,
            table.misses,
        ];
        texts
            .into_iter()
            .chain(counts.map(|count| count.to_string()))
            .collect()
    };
    let columns = [
        "schema",
        "name",
        "mode",
        "obstacle",
        "cached_rows",
        "memory_bytes",
        "pending_rows",
        "hits",
        "misses",
    ];
    Answer::new(&columns, status.tables.iter().map(row))
}

/// Columns of `SHOW ripen.clients`.
pub const CLIENT_COLUMNS: [&str; 7] = [
    "pid",
    "user",
    "database",
    "application",
    "address",
    "upstream",
    "connected_seconds",
];

/// Answers `SHOW ripen.clients`. `may_watch` says of a user whether the asker may see what its sessions do and from where: what it may not is NULL,
/// the same columns as in `pg_stat_activity`.
pub fn clients(clients: &[ClientStatus], may_watch: impl Fn(&str) -> bool) -> Answer {
    let row = |client: &ClientStatus| {
        let shown = may_watch(&client.user);
        vec![
            Some(client.pid.to_string()),
            Some(client.user.clone()),
            Some(client.database.clone()),
            Some(client.application.clone()),
            shown.then(|| client.address.clone()),
            shown.then(|| client.upstream.to_string()),
            shown.then(|| number(client.connected_seconds)),
        ]
    };
    Answer {
        columns: CLIENT_COLUMNS.to_vec(),
        rows: clients.iter().map(row).collect(),
    }
}

/// Columns of `SHOW ripen.nodes`.
pub const NODE_COLUMNS: [&str; 8] = [
    "node",
    "address",
    "here",
    "leads",
    "votes",
    "silent_seconds",
    "log_entries",
    "behind_entries",
];

/// Answers `SHOW ripen.nodes`: every member, as the leader sees it; NULL is what only the leader knows, when it was not asked.
pub fn nodes(status: &MemberStatus) -> Answer {
    let leader = status.leader.as_ref().map(|leader| leader.node);
    let row = |seen: &ripen_grid::cluster::status::Seen| {
        vec![
            Some(seen.node.to_string()),
            Some(seen.address.clone()).filter(|address| !address.is_empty()),
            Some((seen.node == status.node).to_string()),
            Some((leader == Some(seen.node)).to_string()),
            Some(seen.votes.to_string()),
            seen.silent_ms.map(|ms| number(ms as f64 / 1000.0)),
            seen.matched.map(|matched| matched.to_string()),
            seen.matched
                .map(|matched| status.last.saturating_sub(matched).to_string()),
        ]
    };
    Answer {
        columns: NODE_COLUMNS.to_vec(),
        rows: status.members.iter().map(row).collect(),
    }
}

/// Columns of `SHOW ripen.logs`.
pub const LOG_COLUMNS: [&str; 7] = [
    "log",
    "tables",
    "pending_rows",
    "pending_bytes",
    "flushes",
    "syncs",
    "disk_bytes",
];

/// Answers `SHOW ripen.logs`.
pub fn logs(logs: &[LogStatus]) -> Answer {
    let row = |log: &LogStatus| {
        let numbers = [
            u64::from(log.log),
            log.tables,
            log.pending_rows,
            log.pending_bytes,
            log.flushes,
            log.syncs,
            log.disk_bytes,
        ];
        numbers.map(|number| number.to_string()).to_vec()
    };
    Answer::new(&LOG_COLUMNS, logs.iter().map(row))
}

/// Columns of `SHOW ripen.standbys`.
pub const STANDBY_COLUMNS: [&str; 4] = ["name", "connected", "position", "lag_bytes"];

/// Answers `SHOW ripen.standbys`: how far each has Postgres's WAL on its disk, as the leader sees it; NULL is what this node does not know.
pub fn standbys(seen: &[StandbySeen]) -> Answer {
    let row = |seen: &StandbySeen| {
        vec![
            Some(seen.name.clone()),
            seen.connected.map(|connected| connected.to_string()),
            seen.position.map(|position| position.to_string()),
            seen.lag_bytes.map(|lag| lag.to_string()),
        ]
    };
    Answer {
        columns: STANDBY_COLUMNS.to_vec(),
        rows: seen.iter().map(row).collect(),
    }
}

fn plans(status: &Status) -> Answer {
    let row = |plan: &super::PlanCount| {
        vec![
            plan.kind.clone(),
            plan.reason.clone(),
            plan.count.to_string(),
        ]
    };
    Answer::new(&["kind", "reason", "count"], status.plans.iter().map(row))
}

fn settings(config: &Config) -> Answer {
    let rows = config
        .rows()
        .into_iter()
        .map(|(key, value, origin)| vec![key, value, origin]);
    Answer::new(&["key", "value", "origin"], rows)
}

/// The whole status as OpenMetrics text (media type `application/openmetrics-text; version=1.0.0`).
pub fn openmetrics(status: &Status) -> String {
    let mut registry = Registry::with_prefix("ripen");
    register_totals(&mut registry, &status.totals);
    let ready = u64::from(status.not_ready.is_none());
    registry.register("ready", "1 while this Ripen serves", ConstGauge::new(ready));
    let plans = Family::<Vec<(String, String)>, Counter>::default();
    for plan in &status.plans {
        let labels = [("kind", &plan.kind), ("reason", &plan.reason)];
        plans.get_or_create(&own(&labels)).inc_by(plan.count);
    }
    registry.register("statements", "Statements by plan and reason", plans);
    register_tables(&mut registry, status);
    register_logs(&mut registry, &status.logs);
    register_members(&mut registry, &status.node);
    register_standbys(&mut registry, &status.standbys);
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing into a String does not fail");
    text
}

/// The encoder ends help texts with a full stop itself.
fn register_totals(registry: &mut Registry, totals: &Totals) {
    for metric in METRICS {
        let value = (metric.get)(totals);
        let help = metric.help.trim_end_matches('.');
        match metric.kind {
            Kind::Counter => registry.register(metric.name, help, ConstCounter::new(value)),
            Kind::Gauge => registry.register(metric.name, help, ConstGauge::new(value)),
        }
    }
}

type TableNumber = (&'static str, &'static str, fn(&super::TableStatus) -> u64);

fn register_tables(registry: &mut Registry, status: &Status) {
    let numbers: [TableNumber; 5] = [
        ("table_cached_rows", "Rows in memory by table", |table| {
            table.cached_rows
        }),
        ("table_memory_bytes", "Bytes in memory by table", |table| {
            table.memory_bytes
        }),
        ("table_pending_rows", "Pending rows by table", |table| {
            table.pending_rows
        }),
        (
            "table_hits",
            "Rows answered from memory by table, since the start",
            |table| table.hits,
        ),
        (
            "table_misses",
            "Rows loaded by table, since the start",
            |table| table.misses,
        ),
    ];
    for (name, help, get) in numbers {
        let family = Family::<Vec<(String, String)>, Gauge>::default();
        for table in &status.tables {
            let labels = own(&[("schema", &table.schema), ("table", &table.name)]);
            family
                .get_or_create(&labels)
                .set(i64::try_from(get(table)).unwrap_or(i64::MAX));
        }
        registry.register(name, help, family);
    }
}

type LogNumber = (&'static str, &'static str, fn(&LogStatus) -> u64);

fn register_logs(registry: &mut Registry, logs: &[LogStatus]) {
    let numbers: [LogNumber; 4] = [
        (
            "log_tables",
            "Tables whose changes a log has had, since they last left it",
            |log| log.tables,
        ),
        ("log_pending_rows", "Pending rows by log", |log| {
            log.pending_rows
        }),
        ("log_pending_bytes", "Bytes of pending rows by log", |log| {
            log.pending_bytes
        }),
        (
            "log_flushes",
            "Flush transactions that Postgres has, by log",
            |log| log.flushes,
        ),
    ];
    for (name, help, get) in numbers {
        let family = Family::<Vec<(String, String)>, Gauge>::default();
        for log in logs {
            let labels = own(&[("log", &log.log.to_string())]);
            family
                .get_or_create(&labels)
                .set(i64::try_from(get(log)).unwrap_or(i64::MAX));
        }
        registry.register(name, help, family);
    }
}

/// Told by the leader only: nobody else knows.
fn register_members(registry: &mut Registry, node: &MemberStatus) {
    let family = Family::<Vec<(String, String)>, Gauge<f64, AtomicU64>>::default();
    for seen in &node.members {
        let Some(silent_ms) = seen.silent_ms else {
            continue;
        };
        let labels = own(&[("node", &seen.node.to_string()), ("address", &seen.address)]);
        family.get_or_create(&labels).set(silent_ms as f64 / 1000.0);
    }
    let help = "Time since the leader, which alone tells this, last heard of a member";
    registry.register("node_silent_seconds", help, family);
}

/// What is not seen has no number: its absence is what to watch for.
fn register_standbys(registry: &mut Registry, standbys: &[StandbySeen]) {
    let family = Family::<Vec<(String, String)>, Gauge>::default();
    for seen in standbys {
        if let Some(lag) = seen.lag_bytes {
            let lag = i64::try_from(lag).unwrap_or(i64::MAX);
            family.get_or_create(&own(&[("name", &seen.name)])).set(lag);
        }
    }
    let help =
        "WAL that a standby of the system of record lacks on its disk, told by the leader only";
    registry.register("standby_lag_bytes", help, family);
}

fn own(labels: &[(&str, &String)]) -> Vec<(String, String)> {
    labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{PlanCount, TableStatus};
    use super::*;
    use ripen_grid::cluster::status::{Seen, Whereabouts};

    fn status() -> Status {
        Status {
            not_ready: None,
            hotcache_obstacle: String::new(),
            totals: Totals {
                hits: 3,
                misses: 1,
                oldest_pending_seconds: 0.25,
                ..Totals::default()
            },
            tables: vec![TableStatus {
                schema: "public".to_owned(),
                name: "we\"ird".to_owned(),
                hits: 3,
                ..TableStatus::default()
            }],
            logs: vec![LogStatus {
                log: 1,
                pending_rows: 5,
                ..LogStatus::default()
            }],
            plans: vec![PlanCount {
                kind: "read".to_owned(),
                reason: "by primary key".to_owned(),
                count: 7,
            }],
            standbys: Vec::new(),
            node: MemberStatus::default(),
        }
    }

    fn member(node: u64, silent_ms: Option<u64>) -> Seen {
        Seen {
            node,
            address: format!("ripen-{node}:6434"),
            votes: node < 4,
            silent_ms,
            matched: silent_ms.map(|_| 90),
        }
    }

    fn node() -> MemberStatus {
        MemberStatus {
            node: 2,
            leads: true,
            leader: Some(Whereabouts {
                node: 2,
                address: None,
            }),
            term: 5,
            last: 100,
            members: vec![member(2, Some(0)), member(3, Some(1_500)), member(4, None)],
            ..MemberStatus::default()
        }
    }

    #[test]
    fn members_are_told_with_what_is_known_of_them() {
        let answer = nodes(&node());
        let row = |place: usize| {
            let row = &answer.rows[place];
            assert_eq!(row.len(), NODE_COLUMNS.len());
            let words = row.iter().map(|value| value.as_deref().unwrap_or("NULL"));
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row(0), "2 ripen-2:6434 true true true 0 90 10");
        assert_eq!(row(1), "3 ripen-3:6434 false false true 1.500000 90 10");
        assert_eq!(row(2), "4 ripen-4:6434 false false false NULL NULL NULL");
    }

    #[test]
    fn logs_are_told_one_by_one() {
        let status = status();
        let answer = logs(&status.logs);
        let row = answer.rows[0].iter().flatten().cloned();
        assert_eq!(row.collect::<Vec<_>>().join(" "), "1 0 5 0 0 0 0");
        let line = "ripen_log_pending_rows{log=\"1\"} 5";
        let text = openmetrics(&status);
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_cluster_is_in_the_metrics() {
        let mut status = status();
        status.see_node(node());
        let text = openmetrics(&status);
        for line in [
            "ripen_node_leads 1.0",
            "ripen_node_may_read 0.0",
            "ripen_node_members 3.0",
            "ripen_node_voters 2.0",
            "ripen_node_term 5.0",
            "ripen_node_silent_seconds{node=\"3\",address=\"ripen-3:6434\"} 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert!(!text.contains("node=\"4\""));
    }

    #[test]
    fn standbys_are_told_with_what_they_have() {
        let seen = |name: &str, at: Option<u64>| StandbySeen {
            name: name.to_owned(),
            connected: Some(at.is_some()),
            position: at.map(ripen_pg::ids::Lsn),
            lag_bytes: at.map(|at| 100 - at),
        };
        let seen = [seen("one", Some(90)), seen("two", None)];
        let answer = standbys(&seen);
        assert_eq!(answer.columns, STANDBY_COLUMNS);
        let words = |row: &Vec<Option<String>>| {
            let words = row.iter().map(|value| value.as_deref().unwrap_or("NULL"));
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(&answer.rows[0]), "one true 0/5A 10");
        assert_eq!(words(&answer.rows[1]), "two false NULL NULL");
        let mut status = status();
        status.standbys = seen.to_vec();
        let text = openmetrics(&status);
        assert!(
            text.contains("ripen_standby_lag_bytes{name=\"one\"} 10"),
            "{text}"
        );
        assert!(!text.contains("name=\"two\""));
    }

    #[test]
    fn metrics_have_help_and_values() {
        let text = openmetrics(&status());
        for line in [
            "# HELP ripen_hits Reads answered from memory.",
            "# TYPE ripen_hits counter",
            "ripen_hits_total 3.0",
            "ripen_oldest_pending_seconds 0.25",
            "ripen_statements_total{kind=\"read\",reason=\"by primary key\"} 7",
            "ripen_table_hits{schema=\"public\",table=\"we\\\"ird\"} 3",
            "ripen_ready 1",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no \"{line}\" in\n{text}"
            );
        }
    }

    #[test]
    fn every_answer_is_rectangular() {
        let names = ["status", "queue", "hotcache", "tables", "plans", "config"];
        for name in names {
            let answer = show(name, &status(), &Config::default()).expect(name);
            assert!(!answer.rows.is_empty(), "{name} is empty");
            assert!(
                answer
                    .rows
                    .iter()
                    .all(|row| row.len() == answer.columns.len()),
                "{name}"
            );
        }
        assert_eq!(show("nonsense", &status(), &Config::default()), None);
    }

    #[test]
    fn what_others_do_is_hidden_from_those_who_may_not_watch_them() {
        let client = |user: &str| ClientStatus {
            user: user.to_owned(),
            address: "192.0.2.1:5000".to_owned(),
            ..ClientStatus::default()
        };
        let answer = clients(&[client("me"), client("other")], |user| user == "me");
        let hidden = |row: &[Option<String>]| row.iter().map(Option::is_none).collect::<Vec<_>>();
        assert_eq!(answer.columns, CLIENT_COLUMNS);
        assert_eq!(hidden(&answer.rows[0]), [false; 7]);
        assert_eq!(
            hidden(&answer.rows[1]),
            [false, false, false, false, true, true, true]
        );
    }

    #[test]
    fn ratios_are_shown_and_never_divide_by_zero() {
        let answer = show("status", &status(), &Config::default()).expect("status");
        let value = |name: &str| {
            answer
                .rows
                .iter()
                .find(|row| row[0].as_deref() == Some(name))
                .and_then(|row| row[1].clone())
        };
        assert_eq!(value("hit_ratio").as_deref(), Some("0.750000"));
        assert_eq!(value("average_batch_rows").as_deref(), Some("0"));
        assert_eq!(value("ready").as_deref(), Some("yes"));
    }
}
