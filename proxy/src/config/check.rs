//! Finds contradictions between settings that are each fine by themselves. Never changes a setting to make it fit.

mod cluster;

use super::load::{Origin, Problem};
use super::schema::show_mode;
use super::{Config, Mode, TableRule};

/// Adds what does not fit together.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut report = |key: &str, message: String| {
        let origin = config.origins.get(key).cloned().unwrap_or(Origin::Nowhere);
        problems.push(Problem {
            key: key.to_owned(),
            origin,
            message,
        });
    };
    if config.upstream.is_empty() && !config.origins.contains_key("upstream") {
        report(
            "upstream",
            "is missing; give --upstream, RIPEN_UPSTREAM or the key in the file".to_owned(),
        );
    }
    if config.listen == config.admin_listen && !config.listen.ends_with(":0") {
        report("admin_listen", "is the same address as listen".to_owned());
    }
    if config.upstream.host_port() == config.listen {
        report(
            "upstream",
            "is the address of listen: Ripen would stand in front of itself".to_owned(),
        );
    }
    if config.max_pending_bytes > config.memory_max {
        report(
            "max_pending_bytes",
            "is more than memory_max, but pending rows stay in memory".to_owned(),
        );
    }
    match (&config.tls_cert, &config.tls_key) {
        (Some(_), None) => report("tls_cert", "needs tls_key".to_owned()),
        (None, Some(_)) => report("tls_key", "needs tls_cert".to_owned()),
        _ => {}
    }
    if config.table_defaults.resident && config.table_defaults.expiry.is_some() {
        report("resident", RESIDENT_EXPIRY.to_owned());
    }
    check_logs(config, &mut report);
    cluster::check(config, &mut report);
    for (n, rule) in config.tables.iter().enumerate() {
        check_order(&config.tables[..n], rule, problems);
        check_rule(rule, problems);
        check_log(config, rule, problems);
    }
    check_write_behind(config, problems);
}

/// Nobody tells when a row that has grown too old would have to be there again.
const RESIDENT_EXPIRY: &str = "a table with an expiry cannot be held whole";

/// What several logs cannot do yet.
fn check_logs(config: &Config, report: &mut impl FnMut(&str, String)) {
    let wrong = |log: u8| {
        format!(
            "{log} is none of {} logs, which are counted from 0",
            config.logs
        )
    };
    if let Some(log) = config.table_defaults.log.filter(|log| *log >= config.logs) {
        report("log", wrong(log));
    }
    if config.logs == 1 {
        return;
    }
    if config.cluster.cluster_listen.is_some() {
        let message =
            "several logs are for a node alone as yet; leave this out, or leave out cluster_listen";
        report("logs", message.to_owned());
    }
    if !config.standbys.is_empty() {
        let message = "flushes are kept for standbys in one log only as yet; leave this out, or leave out standbys";
        report("logs", message.to_owned());
    }
}

/// A log that there is not.
fn check_log(config: &Config, rule: &TableRule, problems: &mut Vec<Problem>) {
    let (Some(log), Some(origin)) = (rule.settings.log, rule.keys.get("log")) else {
        return;
    };
    if log >= config.logs {
        problems.push(Problem {
            key: "table.log".to_owned(),
            origin: origin.clone(),
            message: format!(
                "{log} is none of {} logs, which are counted from 0",
                config.logs
            ),
        });
    }
}

/// An entry that an earlier one hides entirely would never be used.
fn check_order(earlier: &[TableRule], rule: &TableRule, problems: &mut Vec<Problem>) {
    if let Some(first) = earlier
        .iter()
        .find(|first| first.pattern.covers(&rule.pattern))
    {
        let message = format!(
            "\"{}\" is never used: {} (\"{}\") matches first",
            rule.pattern, first.origin, first.pattern
        );
        problems.push(Problem {
            key: "table.pattern".to_owned(),
            origin: rule.origin.clone(),
            message,
        });
    }
}

/// Keys that mean nothing in the entry's mode.
fn check_rule(rule: &TableRule, problems: &mut Vec<Problem>) {
    const QUEUE: &[&str] = &[
        "write_delay",
        "batch_factor",
        "write_max_batch",
        "log",
        "conflict",
    ];
    const CACHE: &[&str] = &["exclusive", "memory_share", "expiry", "resident"];
    let idle: Vec<&str> = match rule.mode {
        Some(Mode::Off) => [QUEUE, CACHE].concat(),
        Some(Mode::ReadThrough) => QUEUE.to_vec(),
        _ => Vec::new(),
    };
    for (key, origin) in rule.keys.iter().filter(|(key, _)| idle.contains(*key)) {
        let mode = rule.mode.map(show_mode).unwrap_or_default();
        let message = format!("means nothing with mode = \"{mode}\"");
        problems.push(Problem {
            key: format!("table.{key}"),
            origin: origin.clone(),
            message,
        });
    }
    let key = rule.keys.get_key_value("resident");
    let key = key.or_else(|| rule.keys.get_key_value("expiry"));
    if let (true, true, Some((key, origin))) =
        (rule.settings.resident, rule.settings.expiry.is_some(), key)
    {
        problems.push(Problem {
            key: format!("table.{key}"),
            origin: origin.clone(),
            message: RESIDENT_EXPIRY.to_owned(),
        });
    }
    if let (true, Some(origin)) = (
        rule.settings.exclusive && rule.keys.contains_key("exclusive"),
        rule.keys.get("conflict"),
    ) {
        let message =
            "means nothing with exclusive = true: nobody else writes the table".to_owned();
        problems.push(Problem {
            key: "table.conflict".to_owned(),
            origin: origin.clone(),
            message,
        });
    }
}

/// A `write_behind` pattern whose tables all have another mode by an entry.
fn check_write_behind(config: &Config, problems: &mut Vec<Problem>) {
    for pattern in &config.write_behind {
        let hiding = config
            .tables
            .iter()
            .find(|rule| rule.pattern.covers(pattern));
        let Some((rule, mode)) = hiding.and_then(|rule| Some((rule, rule.mode?))) else {
            continue;
        };
        if mode != Mode::WriteBehind {
            let origin = config
                .origins
                .get("write_behind")
                .cloned()
                .unwrap_or(Origin::Nowhere);
            let message = format!(
                "\"{pattern}\" contradicts {}, where mode = \"{}\"",
                rule.origin,
                show_mode(mode)
            );
            problems.push(Problem {
                key: "write_behind".to_owned(),
                origin,
                message,
            });
        }
    }
}
