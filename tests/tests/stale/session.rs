//! One session: a random mix of reads and writes of every kind, each held against the model.

use super::model::{Before, GROUPS, Model, NEVER};
use futures_util::SinkExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage};

const HANG: Duration = Duration::from_secs(45);

struct Session {
    client: Client,
    rng: StdRng,
    model: Arc<Model>,
}

pub async fn run(client: Client, seed: u64, model: Arc<Model>) {
    let rng = StdRng::seed_from_u64(seed);
    let mut session = Session { client, rng, model };
    while !session.model.stop.load(Ordering::SeqCst) {
        let grp = session.rng.random_range(0..GROUPS);
        let write = session.rng.random_range(0..3) == 0;
        let kind: &'static str = if write {
            // Wide ones fence whole tables: too many of them, and nothing would be read from memory.
            let kinds = if session.rng.random_range(0..25) == 0 {
                WIDE
            } else {
                BY_KEY
            };
            kinds[session.rng.random_range(0..kinds.len())]
        } else {
            READS[session.rng.random_range(0..READS.len())]
        };
        let work = async {
            if write {
                session.write(grp, kind).await
            } else {
                session.read(grp, kind).await
            }
        };
        let done = tokio::time::timeout(HANG, work).await;
        let model = &session.model;
        model.count(kind);
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                model.report(format!("{kind} of group {grp}: {error:#}"));
                let _ = session.client.batch_execute("ROLLBACK").await;
            }
            Err(_) => model.report(format!("{kind} of group {grp}: no answer in {HANG:?}")),
        }
        if session.client.is_closed() {
            session.model.report(format!("{kind} ended the session"));
            return;
        }
    }
}

const READS: &[&str] = &[
    "read in",
    "read any",
    "read text",
    "read one",
    "read filtered",
    "read set",
    "read set in transaction",
    "read sets",
    "read joined",
    "read joined set",
    "read whole",
    "read sums",
    "read aggregate",
    "read twice",
    "read repeatable",
    "read in transaction",
];

/// Writes that name their rows.
const BY_KEY: &[&str] = &[
    "update in",
    "update text",
    "increment",
    "upsert",
    "delete insert",
    "rollback",
    "transaction",
    "for update",
];

/// Writes of which only Postgres knows what they touch.
const WIDE: &[&str] = &[
    "update filtered",
    "function",
    "do",
    "cte",
    "copy",
    "prepared",
];

impl Session {
    fn ids(grp: usize) -> [i32; 3] {
        let first = grp as i32 * 3;
        [first, first + 1, first + 2]
    }

    async fn read(&mut self, grp: usize, kind: &str) -> anyhow::Result<()> {
        let before = self.model.groups[grp].before();
        let [a, b, c] = Self::ids(grp);
        let g = grp as i32;
        match kind {
            "read in" => self.read_in(grp, before, kind).await,
            "read any" => {
                let sql = "SELECT v FROM cells WHERE id = ANY($1)";
                let rows = self.client.query(sql, &[&vec![c, a, b]]).await?;
                self.judge(grp, before, &values(&rows), 3, kind);
                Ok(())
            }
            "read text" => {
                let sql = format!("SELECT v, o FROM cells WHERE id IN ({a}, {b}, {c})");
                let values = self.text(&sql).await?;
                self.judge(grp, before, &values, 3, kind);
                Ok(())
            }
            "read one" => {
                let id = [a, b, c][self.rng.random_range(0..3)];
                let sql = "SELECT v FROM cells WHERE id = $1";
                let rows = self.client.query(sql, &[&id]).await?;
                self.judge(grp, before, &values(&rows), 1, kind);
                Ok(())
            }
            "read set" => {
                let sql = "SELECT v FROM cells WHERE grp = $1 ORDER BY id";
                let rows = self.client.query(sql, &[&g]).await?;
                self.judge(grp, before, &values(&rows), 3, kind);
                Ok(())
            }
            "read set in transaction" => {
                let transaction = self.client.transaction().await?;
                let sql = "SELECT v FROM cells WHERE grp = $1";
                let rows = transaction.query(sql, &[&g]).await?;
                let again = transaction.query(sql, &[&g]).await?;
                transaction.commit().await?;
                self.judge(grp, before, &values(&rows), 3, kind);
                self.judge(grp, before, &values(&again), 3, kind);
                Ok(())
            }
            "read sets" => {
                let next = (grp + 1) % GROUPS;
                let before_next = self.model.groups[next].before();
                let sql = "SELECT grp, v FROM cells WHERE grp = ANY($1)";
                let rows = self.client.query(sql, &[&vec![g, next as i32]]).await?;
                for (grp, before) in [(grp, before), (next, before_next)] {
                    let of = |row: &&tokio_postgres::Row| row.get::<_, i32>(0) == grp as i32;
                    let values = rows.iter().filter(of).map(|row| row.get(1));
                    self.judge(grp, before, &values.collect::<Vec<i64>>(), 3, kind);
                }
                Ok(())
            }
            // A cell whose key is the group's number stands beside each cell of the group; it is of another group.
            "read joined" | "read joined set" => {
                let key = grp / 3;
                let before_key = self.model.groups[key].before();
                let sql = match kind {
                    "read joined" => {
                        "SELECT c.v, d.v FROM cells c LEFT JOIN cells d ON d.id = c.grp WHERE c.id = ANY($1)"
                    }
                    _ => {
                        "SELECT c.v, d.v FROM cells c LEFT JOIN cells d ON d.id = c.grp WHERE c.grp = ANY($1)"
                    }
                };
                let asked = match kind {
                    "read joined" => vec![a, b, c],
                    _ => vec![g],
                };
                let rows = self.client.query(sql, &[&asked]).await?;
                self.judge(grp, before, &values(&rows), 3, kind);
                let beside = rows.iter().filter_map(|row| row.get::<_, Option<i64>>(1));
                let beside: Vec<i64> = beside.collect();
                // Where the group's own rows are away, nothing stands beside them.
                if !rows.is_empty() {
                    self.judge(key, before_key, &beside, 3, kind);
                }
                if grp == 0
                    && rows
                        .iter()
                        .any(|row| Some(row.get(0)) != row.get::<_, Option<i64>>(1))
                {
                    self.model.report(format!(
                        "{kind} of group 0: {beside:?} beside {:?}",
                        values(&rows)
                    ));
                }
                Ok(())
            }
            "read whole" => {
                // By no key and no set; of a resident table from memory all the same.
                let sql = "SELECT v FROM cells WHERE grp >= $1 AND grp < $1 + 1 ORDER BY id";
                let rows = self.client.query(sql, &[&g]).await?;
                self.judge(grp, before, &values(&rows), 3, kind);
                Ok(())
            }
            "read sums" => {
                let sql =
                    "SELECT count(*), min(v), max(v), sum(v)::bigint FROM cells WHERE grp = $1";
                let row = self.client.query_one(sql, &[&g]).await?;
                let count: i64 = row.get(0);
                let sum: Option<i64> = row.get(3);
                let values: Vec<i64> = match (row.get(1), row.get(2), sum) {
                    // All of one moment: then the sum is three times the value.
                    (Some(least), Some(greatest), Some(sum)) => {
                        vec![least, greatest, sum - least - greatest]
                    }
                    _ => Vec::new(),
                };
                let wanted = if count == 3 { 3 } else { 0 };
                self.judge(grp, before, &values, wanted, kind);
                Ok(())
            }
            "read filtered" => {
                let sql = "SELECT v FROM cells WHERE grp + 0 = $1";
                let rows = self.client.query(sql, &[&g]).await?;
                self.judge(grp, before, &values(&rows), 3, kind);
                Ok(())
            }
            "read aggregate" => {
                let sql = format!(
                    "SELECT v FROM (SELECT unnest(array_agg(v)) v FROM cells WHERE id IN ({a}, {b}, {c})) x"
                );
                let values = self.text(&sql).await?;
                self.judge(grp, before, &values, 3, kind);
                Ok(())
            }
            "read twice" => {
                self.read_in(grp, before, kind).await?;
                let before = self.model.groups[grp].before();
                let sql = "SELECT v FROM cells WHERE grp = $1";
                let rows = self.client.query(sql, &[&g]).await?;
                self.judge(grp, before, &values(&rows), 3, kind);
                Ok(())
            }
            "read repeatable" => {
                self.client
                    .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                    .await?;
                let before = self.model.groups[grp].before();
                // Preparing a statement takes the snapshot, too.
                let first = if self.rng.random_bool(0.5) {
                    let sql = "SELECT v FROM cells WHERE id = ANY($1)";
                    values(&self.client.query(sql, &[&vec![a, b, c]]).await?)
                } else {
                    self.text(&format!("SELECT v FROM cells WHERE id IN ({a}, {b}, {c})"))
                        .await?
                };
                self.judge(grp, before, &first, 3, kind);
                let second = self
                    .text(&format!("SELECT v FROM cells WHERE grp = {g}"))
                    .await?;
                if first != second {
                    self.model
                        .report(format!("repeatable read: {first:?}, then {second:?}"));
                }
                if self.rng.random_bool(0.3) {
                    self.client.batch_execute("COMMIT AND CHAIN").await?;
                    let before = self.model.groups[grp].before();
                    let sql = format!("SELECT v FROM cells WHERE grp = {g}");
                    let third = self.text(&sql).await?;
                    self.judge(grp, before, &third, 3, kind);
                }
                self.client.batch_execute("COMMIT").await?;
                Ok(())
            }
            _ => {
                self.client.batch_execute("BEGIN").await?;
                self.read_in(grp, before, kind).await?;
                let before = self.model.groups[grp].before();
                self.read_in(grp, before, kind).await?;
                self.client.batch_execute("COMMIT").await?;
                Ok(())
            }
        }
    }

    async fn read_in(&mut self, grp: usize, before: Before, kind: &str) -> anyhow::Result<()> {
        let [a, b, c] = Self::ids(grp);
        let sql = "SELECT v FROM cells WHERE id IN ($1, $2, $3)";
        let rows = self.client.query(sql, &[&a, &b, &c]).await?;
        self.judge(grp, before, &values(&rows), 3, kind);
        Ok(())
    }

    fn judge(&self, grp: usize, before: Before, values: &[i64], wanted: usize, kind: &str) {
        if let Some(wrong) = self.model.groups[grp].judge(before, values, wanted) {
            self.model.report(format!("{kind} of group {grp}: {wrong}"));
        }
    }

    async fn text(&self, sql: &str) -> anyhow::Result<Vec<i64>> {
        let mut values = Vec::new();
        for message in self.client.simple_query(sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                values.push(row.get(0).unwrap_or_default().parse()?);
            }
        }
        Ok(values)
    }

    async fn write(&mut self, grp: usize, kind: &str) -> anyhow::Result<()> {
        let model = self.model.clone();
        let group = &model.groups[grp];
        let Ok(_writer) = group.writer.try_lock() else {
            return Ok(());
        };
        let n = group.begun.load(Ordering::SeqCst) + 1;
        if kind == "rollback" {
            while let Err(error) = self.roll_back(grp, n).await {
                self.may_try_again(error).await?;
            }
            return Ok(());
        }
        group.begun.store(n, Ordering::SeqCst);
        let absent = matches!(kind, "delete insert");
        if absent {
            group.absences.fetch_add(1, Ordering::SeqCst);
        }
        while let Err(error) = self.put(grp, n, kind).await {
            self.may_try_again(error).await?;
        }
        group.acked.store(n, Ordering::SeqCst);
        if absent {
            group.absences.fetch_add(1, Ordering::SeqCst);
        }
        // Read your writes, while nobody else can write them.
        let before = group.before();
        if self.rng.random_bool(0.5) {
            self.read_in(grp, before, kind).await?;
        }
        Ok(())
    }

    /// Whoever writes to Postgres itself may beat a block, of which nothing stays then: it is to be tried again.
    async fn may_try_again(&self, error: anyhow::Error) -> anyhow::Result<()> {
        let lost = error.downcast_ref::<tokio_postgres::Error>();
        let lost = lost.and_then(tokio_postgres::Error::code);
        if lost != Some(&tokio_postgres::error::SqlState::T_R_SERIALIZATION_FAILURE) {
            return Err(error);
        }
        self.client.batch_execute("ROLLBACK").await?;
        Ok(())
    }

    async fn roll_back(&mut self, grp: usize, n: i64) -> anyhow::Result<()> {
        let poison = NEVER + n;
        let [a, b, c] = Self::ids(grp);
        self.client.batch_execute("BEGIN").await?;
        for id in [a, b, c] {
            let sql = "UPDATE cells SET v = $2 WHERE id = $1";
            self.client.execute(sql, &[&id, &poison]).await?;
        }
        let sql = "SELECT v FROM cells WHERE id = $1";
        let own: i64 = self.client.query_one(sql, &[&b]).await?.get(0);
        if own != poison {
            self.model
                .report(format!("a transaction does not see its own write: {own}"));
        }
        self.client.batch_execute("ROLLBACK").await?;
        Ok(())
    }

    async fn put(&mut self, grp: usize, n: i64, kind: &str) -> anyhow::Result<()> {
        let [a, b, c] = Self::ids(grp);
        let g = grp as i32;
        let client = &self.client;
        let changed = match kind {
            "update in" => {
                let sql = "UPDATE cells SET v = $4 WHERE id IN ($1, $2, $3)";
                client.execute(sql, &[&a, &b, &c, &n]).await?
            }
            "update text" => {
                let sql = format!("UPDATE cells SET v = {n} WHERE id IN ({a}, {b}, {c})");
                client.batch_execute(&sql).await?;
                3
            }
            "increment" => {
                let sql = "UPDATE cells SET v = v + 1 WHERE id IN ($1, $2, $3) RETURNING v";
                let rows = client.query(sql, &[&a, &b, &c]).await?;
                let back = values(&rows);
                anyhow::ensure!(back == [n; 3], "returned {back:?}, not {n}");
                3
            }
            "upsert" => {
                let sql = "INSERT INTO cells VALUES ($1, $4, $5, 0), ($2, $4, $5, 0), ($3, $4, $5, 0) ON CONFLICT (id) DO UPDATE SET v = excluded.v";
                client.execute(sql, &[&a, &b, &c, &g, &n]).await?
            }
            "delete insert" => {
                let sql = "DELETE FROM cells WHERE id IN ($1, $2, $3)";
                let gone = client.execute(sql, &[&a, &b, &c]).await?;
                anyhow::ensure!(gone == 3, "DELETE {gone}");
                let sql =
                    "INSERT INTO cells VALUES ($1, $4, $5, 0), ($2, $4, $5, 0), ($3, $4, $5, 0)";
                client.execute(sql, &[&a, &b, &c, &g, &n]).await?
            }
            "update filtered" => {
                let sql = "UPDATE cells SET v = $1 WHERE v < $1 AND grp = $2";
                client.execute(sql, &[&n, &g]).await?
            }
            "function" => {
                client.execute("SELECT put($1, $2)", &[&g, &n]).await?;
                3
            }
            "do" => {
                let sql = format!("DO $$ BEGIN PERFORM put({g}, {n}); END $$");
                client.batch_execute(&sql).await?;
                3
            }
            "cte" => {
                let sql = "WITH x AS (UPDATE cells SET v = $1 WHERE grp = $2 RETURNING 1) SELECT count(*) FROM x";
                let count: i64 = client.query_one(sql, &[&n, &g]).await?.get(0);
                count as u64
            }
            "transaction" => {
                client.batch_execute("BEGIN").await?;
                for id in [c, b, a] {
                    let sql = "UPDATE cells SET v = $2 WHERE id = $1";
                    client.execute(sql, &[&id, &n]).await?;
                }
                client.batch_execute("COMMIT").await?;
                3
            }
            "for update" => {
                client.batch_execute("BEGIN").await?;
                let sql = "SELECT v FROM cells WHERE id IN ($1, $2, $3) FOR UPDATE";
                let old = values(&client.query(sql, &[&a, &b, &c]).await?);
                let acked = self.model.groups[grp].acked.load(Ordering::SeqCst);
                anyhow::ensure!(old == [acked; 3], "FOR UPDATE saw {old:?}, not {acked}");
                let sql = format!("UPDATE cells SET v = {n} WHERE id IN ({a}, {b}, {c}); COMMIT");
                client.batch_execute(&sql).await?;
                3
            }
            "prepared" => {
                let sql = format!(
                    "BEGIN; UPDATE cells SET v = {n} WHERE id IN ({a}, {b}, {c}); PREPARE TRANSACTION 'x{g}'"
                );
                client.batch_execute(&sql).await?;
                client
                    .batch_execute(&format!("COMMIT PREPARED 'x{g}'"))
                    .await?;
                3
            }
            _ => {
                client.batch_execute("BEGIN").await?;
                let sql = "DELETE FROM cells WHERE grp = $1";
                client.execute(sql, &[&g]).await?;
                let sink = client.copy_in("COPY cells FROM STDIN").await?;
                let mut sink = pin!(sink);
                let lines: String = [a, b, c]
                    .iter()
                    .map(|id| format!("{id}\t{g}\t{n}\t0\n"))
                    .collect();
                sink.send(bytes::Bytes::from(lines)).await?;
                let count = sink.finish().await?;
                client.batch_execute("COMMIT").await?;
                count
            }
        };
        anyhow::ensure!(changed == 3, "{changed} rows were changed");
        Ok(())
    }
}

fn values(rows: &[tokio_postgres::Row]) -> Vec<i64> {
    rows.iter().map(|row| row.get(0)).collect()
}
