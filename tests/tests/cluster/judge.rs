//! After each round: everything drained, what Postgres and every node then hold, and the clients' notes, held against one single copy of the data.

use super::load::{CELLS, COUNTERS, Clock, FLIPS, Notes, Part, TRIOS};
use anyhow::{Context, bail, ensure};
use ripen_tests::Cluster;
use ripen_tests::history::{Did, History, Operation, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::Client;

/// What all rounds have left so far.
pub struct Judge {
    holds: BTreeMap<String, Value>,
    /// Unknown ones of earlier rounds: they may happen yet.
    unknown: Vec<(String, Operation)>,
}

impl Default for Judge {
    fn default() -> Judge {
        let zero = [("cells", CELLS), ("counters", COUNTERS), ("trios", TRIOS)];
        let zero = zero.into_iter().flat_map(|(table, count)| {
            (0..count).map(move |id| (format!("{table} {id}"), Some(0)))
        });
        let none = (0..FLIPS).map(|id| (format!("flips {id}"), None));
        Judge {
            holds: zero.chain(none).collect(),
            unknown: Vec::new(),
        }
    }
}

impl Judge {
    /// Fails when something is wrong after a round. All nodes that run must be ready.
    pub async fn round(
        &mut self,
        what: &str,
        cluster: &Cluster,
        notes: Vec<Notes>,
        clock: Clock,
    ) -> anyhow::Result<()> {
        let wrong = self.after(cluster, notes, clock).await;
        if wrong.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(());
        }
        let what = format!("{what}; logs in {}", cluster.keep_logs()?.display());
        let wrong = wrong.with_context(|| what.clone())?;
        let shown = wrong.len().min(4);
        bail!(
            "{what}\n{} violations, first:\n{}",
            wrong.len(),
            wrong[..shown].join("\n")
        )
    }

    async fn after(
        &mut self,
        cluster: &Cluster,
        notes: Vec<Notes>,
        clock: Clock,
    ) -> anyhow::Result<Vec<String>> {
        cluster.drained().await?;
        let mut witnesses = vec![("Postgres".to_owned(), cluster.postgres.connect().await?)];
        for node in cluster.running() {
            let client = cluster.connect(node).await?;
            witnesses.push((format!("node {node} at last"), client));
        }
        let mut wrong = self.wrong(&witnesses, notes, clock).await?;
        let sql = "SELECT count(*) FROM ripen.dead_letter";
        let dead: i64 = witnesses[0].1.query_one(sql, &[]).await?.get(0);
        if dead > 0 {
            wrong.push(format!("{dead} dead letters"));
        }
        Ok(wrong)
    }

    /// Everything that is wrong with what clients noted, and with what these tell at last; the first of them is Postgres itself.
    pub async fn wrong(
        &mut self,
        witnesses: &[(String, Client)],
        notes: Vec<Notes>,
        clock: Clock,
    ) -> anyhow::Result<Vec<String>> {
        let mut history = History::default();
        for (key, value) in &self.holds {
            history.begin(key, *value);
        }
        let mut wrong = Vec::new();
        let mut operations = self.unknown.clone();
        for client in notes {
            wrong.extend(client.wrong);
            operations.extend(client.operations);
        }
        let unknown = operations
            .iter()
            .filter(|(_, operation)| operation.returned.is_none());
        self.unknown = unknown.cloned().collect();
        for (_, operation) in &mut self.unknown {
            operation.called = Duration::ZERO;
        }
        for (key, operation) in operations {
            history.push(&key, operation);
        }
        for (index, (who, client)) in witnesses.iter().enumerate() {
            let held = look(who, client, &clock, &mut history).await?;
            if index == 0 {
                self.holds = held;
            }
        }
        wrong.extend(history.violations());
        Ok(wrong)
    }
}

/// Reads everything that clients write.
async fn look(
    who: &str,
    client: &Client,
    clock: &Clock,
    history: &mut History,
) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut held = BTreeMap::new();
    for (table, count, rows) in [
        ("cells", CELLS, 1),
        ("counters", COUNTERS, 1),
        ("flips", FLIPS, 1),
        ("trios", TRIOS, 3),
    ] {
        for id in 0..count {
            let ids: Vec<i32> = (id * rows..(id + 1) * rows).collect();
            let called = clock.now();
            let sql = format!("SELECT v FROM {table} WHERE id = ANY($1)");
            let found = client
                .query(&sql, &[&ids])
                .await
                .with_context(|| format!("{sql} through {who}"))?;
            let found: Vec<i64> = found.iter().map(|row| row.get(0)).collect();
            let whole = found.len() == ids.len() || table == "flips";
            ensure!(
                whole && found.iter().all(|v| *v == found[0]),
                "{who}: {table} {id} is torn: {found:?}"
            );
            let value = found.first().copied();
            let operation = Operation {
                who: who.to_owned(),
                did: Did::Read(value),
                called,
                returned: Some(clock.now()),
            };
            history.push(&format!("{table} {id}"), operation);
            held.insert(format!("{table} {id}"), value);
        }
    }
    Ok(held)
}

/// A transaction that was open when another node came to lead: it is to be tried again.
pub fn lost_with_its_leader(what: &str) -> bool {
    what.starts_with("40001 of ")
}

/// No client met an error but those that are told apart by `may`, and deadlocks: those are Postgres's, which locks the rows of a statement in an order of its own.
pub fn no_failures(notes: &[Notes], may: impl Fn(&Part, &str) -> bool) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for client in notes {
        let bad = client
            .failures
            .iter()
            .filter(|(what, _)| !may(&client.part, what) && !what.starts_with("40P01"));
        failures.extend(bad.map(|(what, count)| {
            format!(
                "{:?} at {:?}: {count} times {what}",
                client.part.role, client.part.node
            )
        }));
    }
    ensure!(
        failures.is_empty(),
        "clients met errors:\n{}",
        failures.join("\n")
    );
    Ok(())
}
