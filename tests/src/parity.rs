//! SQL scripts run on two servers and compared to the byte.
//!
//! A script is a text of statements, parted by empty lines. Lines in front of a statement that begin with `--` say how to run it:
//! `-- session: NAME` (a connection of its own per name), `-- bind: 'text', null` (text parameters), `-- copy: LINE` (a line of data for COPY FROM STDIN; repeated),
//! `-- copyfail: REASON`, `-- simple` (not in the extended protocol), `-- extended` (not in the simple protocol). Other comments are left alone.

use crate::wire::{self, Wire, transcript};
use anyhow::Context;
use std::collections::BTreeMap;

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Query messages; parameters become literals.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync with results as text.
    ExtendedText,
    /// The same with results in binary.
    ExtendedBinary,
    /// Named statements, prepared once per text and session and executed twice where that changes nothing (SELECT).
    Prepared,
}

/// All of them.
pub const PROTOCOLS: [Protocol; 4] = [
    Protocol::Simple,
    Protocol::ExtendedText,
    Protocol::ExtendedBinary,
    Protocol::Prepared,
];

/// One statement and how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    session: String,
    sql: String,
    binds: Vec<Option<String>>,
    copy: Vec<u8>,
    copy_fail: Option<String>,
    simple_only: bool,
    extended_only: bool,
}

/// Runs a script and returns everything that the server said, statement by statement.
///
/// # Errors
/// When the connection breaks. Errors of SQL are part of the transcript.
pub async fn run(
    script: &str,
    port: u16,
    database: &str,
    protocol: Protocol,
) -> anyhow::Result<String> {
    let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
    let mut said = String::new();
    for step in steps(script) {
        let skipped = if protocol == Protocol::Simple {
            step.extended_only
        } else {
            step.simple_only
        };
        if skipped {
            continue;
        }
        if !sessions.contains_key(&step.session) {
            let wire = Wire::connect(port, database).await?;
            sessions.insert(
                step.session.clone(),
                Session {
                    wire,
                    prepared: Vec::new(),
                },
            );
        }
        let session = sessions.get_mut(&step.session).expect("just made");
        said += &format!("[{}] {}\n", step.session, step.sql);
        let outcome = session.run(&step, protocol).await;
        said += &outcome.with_context(|| format!("at {}", step.sql))?;
    }
    for mut session in sessions.into_values() {
        session.wire.send(&wire::terminate()).await?;
    }
    Ok(said)
}

struct Session {
    wire: Wire,
    prepared: Vec<String>,
}

impl Session {
    async fn run(&mut self, step: &Step, protocol: Protocol) -> anyhow::Result<String> {
        let values: Vec<Option<&str>> = step.binds.iter().map(Option::as_deref).collect();
        let unnamed = |format| {
            [
                wire::parse("", &step.sql, &[]),
                wire::bind("", "", &values, format),
                wire::describe(b'P', ""),
                wire::execute("", 0),
                wire::sync(),
            ]
            .concat()
        };
        match protocol {
            Protocol::Simple => {
                self.exchange(&wire::query(&with_literals(&step.sql, &step.binds)), step)
                    .await
            }
            Protocol::ExtendedText => self.exchange(&unnamed(0), step).await,
            Protocol::ExtendedBinary => self.exchange(&unnamed(1), step).await,
            Protocol::Prepared => self.run_prepared(step, &values).await,
        }
    }

    async fn run_prepared(
        &mut self,
        step: &Step,
        values: &[Option<&str>],
    ) -> anyhow::Result<String> {
        let mut said = String::new();
        let position = self.prepared.iter().position(|sql| *sql == step.sql);
        let number = position.unwrap_or(self.prepared.len());
        let name = format!("s{number}");
        if position.is_none() {
            self.prepared.push(step.sql.clone());
            let bytes = [
                wire::parse(&name, &step.sql, &[]),
                wire::describe(b'S', &name),
                wire::sync(),
            ]
            .concat();
            said += &self.exchange(&bytes, step).await?;
        }
        let run = [
            wire::bind("", &name, values, 1),
            wire::execute("", 0),
            wire::sync(),
        ]
        .concat();
        let times = if step.sql.to_ascii_lowercase().starts_with("select") {
            2
        } else {
            1
        };
        for _ in 0..times {
            said += &self.exchange(&run, step).await?;
        }
        Ok(said)
    }

    /// Answers CopyInResponse with the step's data. The extended protocol's Sync is already sent, and ignored while copying, so another one follows.
    async fn exchange(&mut self, bytes: &[u8], step: &Step) -> anyhow::Result<String> {
        self.wire.send(bytes).await?;
        let mut all = Vec::new();
        while let Some(message) = self.wire.read().await? {
            let (copying, ready) = (message.tag == b'G', message.tag == b'Z');
            all.push(message);
            if copying {
                self.wire.send(&wire::copy_data(&step.copy)).await?;
                let end = step
                    .copy_fail
                    .as_deref()
                    .map_or_else(wire::copy_done, wire::copy_fail);
                self.wire.send(&end).await?;
                if bytes[0] != b'Q' {
                    self.wire.send(&wire::sync()).await?;
                }
            }
            if ready {
                break;
            }
        }
        Ok(transcript(&all))
    }
}

/// `$1` replaced by a literal; only for scripts, whose strings hold no `$`.
fn with_literals(sql: &str, binds: &[Option<String>]) -> String {
    let numbered = binds.iter().enumerate().rev();
    numbered.fold(sql.to_owned(), |sql, (n, value)| {
        let literal = value.as_ref().map_or_else(
            || "NULL".to_owned(),
            |text| format!("'{}'", text.replace('\'', "''")),
        );
        sql.replace(&format!("${}", n + 1), &literal)
    })
}

fn steps(script: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut session = "main".to_owned();
    for block in script.split("\n\n") {
        let mut step = Step::default();
        let mut sql = Vec::new();
        for line in block.lines() {
            let directive = line.strip_prefix("-- ").filter(|_| sql.is_empty());
            match directive.map(|text| text.split_once(": ").unwrap_or((text, ""))) {
                Some(("session", name)) => session = name.trim().to_owned(),
                Some(("bind", list)) => step.binds = binds(list),
                Some(("copy", data)) => step
                    .copy
                    .extend(format!("{}\n", data.replace("\\t", "\t")).bytes()),
                Some(("copyfail", reason)) => step.copy_fail = Some(reason.to_owned()),
                Some(("simple", _)) => step.simple_only = true,
                Some(("extended", _)) => step.extended_only = true,
                Some(_) => {}
                None => sql.push(line),
            }
        }
        step.sql = sql.join("\n").trim().to_owned();
        step.session.clone_from(&session);
        if !step.sql.is_empty() {
            steps.push(step);
        }
    }
    steps
}

/// `'a, b', null, 5`: quotes only matter around commas.
fn binds(list: &str) -> Vec<Option<String>> {
    let mut quoted = false;
    let items = list.split(|c| {
        quoted ^= c == '\'';
        c == ',' && !quoted
    });
    let value = |item: &str| (item != "null").then(|| item.trim_matches('\'').to_owned());
    items.map(|item| value(item.trim())).collect()
}

/// The first lines in which two transcripts differ, with the statement they belong to; `None` when they are equal.
pub fn difference(direct: &str, proxied: &str) -> Option<String> {
    let (left, right): (Vec<&str>, Vec<&str>) =
        (direct.lines().collect(), proxied.lines().collect());
    let at = (0..left.len().max(right.len())).find(|n| left.get(*n) != right.get(*n))?;
    let begin = left[..at.min(left.len())]
        .iter()
        .rposition(|line| line.starts_with('['))
        .unwrap_or(0);
    let part = |lines: &[&str]| {
        lines
            .iter()
            .skip(begin)
            .take(at - begin + 6)
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    Some(format!(
        "line {at}:\n  Postgres:\n{}  Ripen:\n{}",
        part(&left),
        part(&right)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_read_as_steps() {
        let all = steps(
            "-- a comment\nSELECT 1\n\n-- session: b\n-- bind: 'x, y', null, 5\nSELECT $1,\n  $2, $3\n\n-- copy: 1\\ta\n-- copy: 2\\tb\nCOPY t FROM STDIN",
        );
        assert_eq!(all.len(), 3);
        assert_eq!(
            (all[0].session.as_str(), all[0].sql.as_str()),
            ("main", "SELECT 1")
        );
        assert_eq!(
            all[1].binds,
            [Some("x, y".to_owned()), None, Some("5".to_owned())]
        );
        assert_eq!(
            (all[1].session.as_str(), all[1].sql.as_str()),
            ("b", "SELECT $1,\n  $2, $3")
        );
        assert_eq!(
            (all[2].session.as_str(), all[2].copy.as_slice()),
            ("b", "1\ta\n2\tb\n".as_bytes())
        );
    }

    #[test]
    fn literals_replace_parameters() {
        let binds: Vec<Option<String>> = (0..11)
            .map(|n| (n != 1).then(|| format!("v'{n}")))
            .collect();
        assert_eq!(with_literals("$11 $1 $2", &binds), "'v''10' 'v''0' NULL");
    }

    #[test]
    fn differences_name_their_statement() {
        assert_eq!(difference("[a] x\nC\n", "[a] x\nC\n"), None);
        let told =
            difference("[a] x\nC\n[a] y\nD 1\n", "[a] x\nC\n[a] y\nD 2\n").expect("different");
        assert!(
            told.contains("[a] y") && told.contains("D 2") && !told.contains("[a] x"),
            "{told}"
        );
    }
}
