//! One client that writes, and keeps for each write whether it was acknowledged, refused, or lost without an answer. A lost write may be there or not; never counts it as absent.

use super::COUNTERS;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_tests::postgres;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

/// Longer than any bound that Ripen is set to.
const HANG: Duration = Duration::from_secs(25);

/// Acknowledged and unknown increments, by row.
pub type Tally = BTreeMap<i32, (i64, i64)>;

/// What became of a statement.
enum Told {
    Done(u64),
    Unknown,
    Refused(String),
}

pub struct Writer {
    pub id: i32,
    rng: StdRng,
    next: i64,
    pub counters: Tally,
    pub ups: Tally,
    pub pairs: Tally,
    pub seq_possible: Vec<i64>,
    pub flip_possible: Vec<Option<i64>>,
    pub keys: HashSet<i64>,
    pub keys_not: HashSet<i64>,
    pub groups: HashSet<i64>,
    pub groups_not: HashSet<i64>,
    pub wrong: Vec<String>,
    pub acked: u64,
    pub unknown: u64,
    pub refused: u64,
    pub reconnects: u64,
    pub refusals: BTreeMap<String, u64>,
}

impl Writer {
    pub fn new(id: i32, seed: u64) -> Writer {
        Writer {
            id,
            rng: StdRng::seed_from_u64(seed ^ (id as u64 + 1)),
            next: 0,
            counters: Tally::new(),
            ups: Tally::new(),
            pairs: Tally::new(),
            seq_possible: vec![0],
            flip_possible: vec![None],
            keys: HashSet::new(),
            keys_not: HashSet::new(),
            groups: HashSet::new(),
            groups_not: HashSet::new(),
            wrong: Vec::new(),
            acked: 0,
            unknown: 0,
            refused: 0,
            reconnects: 0,
            refusals: BTreeMap::new(),
        }
    }

    pub async fn run(mut self, url: String, stop: Arc<AtomicBool>) -> Writer {
        while !stop.load(Ordering::SeqCst) {
            let Ok(Ok(client)) = tokio::time::timeout(HANG, postgres::connect(&url)).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.reconnects += 1;
            self.look(&client).await;
            while !stop.load(Ordering::SeqCst) && !client.is_closed() {
                self.one(&client).await;
            }
        }
        self
    }

    async fn one(&mut self, client: &Client) {
        match self.rng.random_range(0..14) {
            0..=2 => self.count(client).await,
            3..=4 => self.sequence(client).await,
            5..=6 => self.insert(client).await,
            7 => self.remove(client).await,
            8..=9 => self.flip(client).await,
            10 => self.upsert(client).await,
            11 => self.group(client).await,
            12 => self.pair(client).await,
            _ => self.look(client).await,
        }
    }

    async fn count(&mut self, client: &Client) {
        let id = self.rng.random_range(0..COUNTERS);
        // One in eight is not computable here and passes through.
        let told = if self.rng.random_range(0..8) == 0 {
            let sql = "UPDATE counters SET v = v + 1 WHERE id = $1 AND random() >= 0";
            self.tell(client, sql, &[&id]).await
        } else {
            let sql = "UPDATE counters SET v = v + 1 WHERE id = $1";
            self.tell(client, sql, &[&id]).await
        };
        self.rows("count", &told, 1);
        tally(&mut self.counters, id, &told);
    }

    async fn upsert(&mut self, client: &Client) {
        let id = self.rng.random_range(0..COUNTERS);
        let sql = "INSERT INTO ups VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET v = ups.v + 1";
        let told = self.tell(client, sql, &[&id]).await;
        self.rows("upsert", &told, 1);
        tally(&mut self.ups, id, &told);
    }

    async fn pair(&mut self, client: &Client) {
        let id = self.rng.random_range(0..COUNTERS / 2) * 2;
        let told = if self.rng.random_range(0..3) == 0 {
            self.pair_in_transaction(client, id).await
        } else {
            let sql = "UPDATE pairs SET v = v + 1 WHERE id IN ($1, $2)";
            self.tell(client, sql, &[&id, &(id + 1)]).await
        };
        self.rows("pair", &told, 2);
        tally(&mut self.pairs, id, &told);
        tally(&mut self.pairs, id + 1, &told);
    }

    async fn pair_in_transaction(&mut self, client: &Client, id: i32) -> Told {
        let sql = format!(
            "BEGIN; UPDATE pairs SET v = v + 1 WHERE id = {id}; UPDATE pairs SET v = v + 1 WHERE id = {}",
            id + 1
        );
        let told = self.text(client, &sql).await;
        if !matches!(told, Told::Done(_)) {
            // Not committed, whatever happened.
            let _ = self.text(client, "ROLLBACK").await;
            return Told::Refused("before COMMIT".into());
        }
        if self.rng.random_range(0..4) == 0 {
            let _ = self.text(client, "ROLLBACK").await;
            return Told::Refused("rolled back".into());
        }
        match self.text(client, "COMMIT").await {
            Told::Done(_) => Told::Done(2),
            other => other,
        }
    }

    async fn sequence(&mut self, client: &Client) {
        self.next += 1;
        let (own, v) = (self.id, self.next);
        let sql = "UPDATE seqs SET v = $2 WHERE id = $1";
        let told = self.tell(client, sql, &[&own, &v]).await;
        self.rows("sequence", &told, 1);
        match told {
            Told::Done(_) => self.seq_possible = vec![v],
            Told::Unknown => self.seq_possible.push(v),
            Told::Refused(_) => {}
        }
    }

    fn fresh(&mut self) -> i64 {
        self.next += 1;
        i64::from(self.id) * 1_000_000_000 + self.next * 10
    }

    async fn insert(&mut self, client: &Client) {
        let (own, id) = (self.id, self.fresh());
        let sql = "INSERT INTO keys VALUES ($1, $2)";
        match self.tell(client, sql, &[&id, &own]).await {
            Told::Done(_) => drop(self.keys.insert(id)),
            Told::Unknown => {}
            Told::Refused(_) => drop(self.keys_not.insert(id)),
        }
    }

    async fn remove(&mut self, client: &Client) {
        let Some(id) = self.keys.iter().next().copied() else {
            return;
        };
        let told = self
            .tell(client, "DELETE FROM keys WHERE id = $1", &[&id])
            .await;
        self.rows("remove", &told, 1);
        match told {
            Told::Done(_) => {
                self.keys.remove(&id);
                self.keys_not.insert(id);
            }
            Told::Unknown => drop(self.keys.remove(&id)),
            Told::Refused(_) => {}
        }
    }

    async fn group(&mut self, client: &Client) {
        let id = self.fresh();
        let sql = "INSERT INTO multi VALUES ($1, $1), ($2, $1), ($3, $1)";
        let told = self.tell(client, sql, &[&id, &(id + 1), &(id + 2)]).await;
        self.rows("group", &told, 3);
        match told {
            Told::Done(_) => drop(self.groups.insert(id)),
            Told::Unknown => {}
            Told::Refused(_) => drop(self.groups_not.insert(id)),
        }
    }

    async fn flip(&mut self, client: &Client) {
        if self.rng.random_bool(0.5) {
            return self.flip_off(client).await;
        }
        self.next += 1;
        let (own, v) = (self.id, self.next);
        let sql = "INSERT INTO flips VALUES ($1, $2)";
        let before = self.flip_possible.clone();
        match self.tell(client, sql, &[&own, &v]).await {
            Told::Done(_) if before.contains(&None) => self.flip_possible = vec![Some(v)],
            Told::Done(_) => self
                .wrong
                .push(format!("inserted twice: {v} over {before:?}")),
            Told::Unknown if before.contains(&None) => self.flip_possible.push(Some(v)),
            Told::Refused(code) if code == "23505" => {
                self.flip_possible.retain(Option::is_some);
                if self.flip_possible.is_empty() {
                    self.wrong
                        .push("refused as a duplicate of a deleted row".into());
                }
            }
            Told::Unknown | Told::Refused(_) => {}
        }
    }

    async fn flip_off(&mut self, client: &Client) {
        let (own, before) = (self.id, self.flip_possible.clone());
        let sql = "DELETE FROM flips WHERE id = $1";
        let told = self.tell(client, sql, &[&own]).await;
        match told {
            Told::Done(rows) => {
                let possible = before.iter().any(|v| v.is_some() == (rows == 1));
                if !possible {
                    self.wrong.push(format!("DELETE {rows} of {before:?}"));
                }
                self.flip_possible = vec![None];
            }
            Told::Unknown => self.flip_possible.push(None),
            Told::Refused(_) => {}
        }
    }

    /// Reads back what only this writer writes.
    async fn look(&mut self, client: &Client) {
        let own = self.id;
        let sql = "SELECT v FROM seqs WHERE id = $1";
        if let Ok(Ok(row)) = tokio::time::timeout(HANG, client.query_opt(sql, &[&own])).await {
            let v = row.map(|row| row.get::<_, i64>(0));
            if !v.is_some_and(|v| self.seq_possible.contains(&v)) {
                self.wrong
                    .push(format!("read {v:?} of {:?}", self.seq_possible));
            }
        }
        let sql = "SELECT v FROM flips WHERE id = $1";
        if let Ok(Ok(row)) = tokio::time::timeout(HANG, client.query_opt(sql, &[&own])).await {
            let v = row.map(|row| row.get::<_, i64>(0));
            if !self.flip_possible.contains(&v) {
                self.wrong
                    .push(format!("read {v:?} of {:?}", self.flip_possible));
            }
        }
    }

    async fn tell(&mut self, client: &Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Told {
        let done = tokio::time::timeout(HANG, client.execute(sql, params)).await;
        self.judge(sql, done)
    }

    async fn text(&mut self, client: &Client, sql: &str) -> Told {
        let done = tokio::time::timeout(HANG, client.batch_execute(sql)).await;
        self.judge(sql, done.map(|done| done.map(|()| 0)))
    }

    fn judge(
        &mut self,
        sql: &str,
        done: Result<Result<u64, Error>, tokio::time::error::Elapsed>,
    ) -> Told {
        let error = match done {
            Ok(Ok(rows)) => {
                self.acked += 1;
                return Told::Done(rows);
            }
            Err(_) => {
                self.wrong.push(format!("no answer in {HANG:?}: {sql}"));
                self.unknown += 1;
                return Told::Unknown;
            }
            Ok(Err(error)) => error,
        };
        let Some(code) = error.code().map(|code| code.code().to_owned()) else {
            self.unknown += 1;
            return Told::Unknown;
        };
        *self
            .refusals
            .entry(format!("{code} {error:?}").chars().take(160).collect())
            .or_default() += 1;
        if code.starts_with("XX") {
            self.wrong.push(format!("{sql}: {error:?}"));
        }
        if code.starts_with("08") || ["57P01", "57P02", "58000", "58030"].contains(&code.as_str()) {
            self.unknown += 1;
            return Told::Unknown;
        }
        self.refused += 1;
        Told::Refused(code)
    }

    fn rows(&mut self, what: &str, told: &Told, wanted: u64) {
        if let Told::Done(rows) = told
            && *rows != wanted
        {
            self.wrong.push(format!("{what}: {rows} rows"));
        }
    }
}

fn tally(tally: &mut Tally, id: i32, told: &Told) {
    let entry = tally.entry(id).or_default();
    match told {
        Told::Done(_) => entry.0 += 1,
        Told::Unknown => entry.1 += 1,
        Told::Refused(_) => {}
    }
}
