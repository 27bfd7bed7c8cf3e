//! TRUNCATE and DDL while others write, through Ripen and behind its back, and tables that are cached without a replication stream: nothing acknowledged is
//! lost or doubled, and memory ends as Postgres is.

use anyhow::{Context, ensure};
use ripen_tests::postgres::{self, Options};
use ripen_tests::{Pair, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "100ms"),
    ("barrier_timeout", "20s"),
];

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v bigint NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(0, 9) g;
    CREATE TABLE log (id bigint PRIMARY KEY, who int NOT NULL)";

/// What one writer was told.
#[derive(Default)]
struct Told {
    counted: [i64; 10],
    /// Inserted keys with the times of question and answer.
    inserted: Vec<(i64, Instant, Instant)>,
}

struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<anyhow::Result<Told>>>,
}

impl Load {
    fn start(url: &str) -> Load {
        Load::start_at(url, 0)
    }

    /// With keys that no earlier load has used.
    fn start_at(url: &str, first: i32) -> Load {
        let stop = Arc::<AtomicBool>::default();
        let writer = |who| tokio::spawn(write(who, first, url.to_owned(), stop.clone()));
        Load {
            writers: (0..4).map(writer).collect(),
            stop,
        }
    }

    async fn stop(self) -> anyhow::Result<Vec<Told>> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for writer in self.writers {
            all.push(writer.await??);
        }
        Ok(all)
    }
}

/// Increments and inserts until told to stop. No statement may fail: nothing here is refused by Postgres.
async fn write(who: i32, first: i32, url: String, stop: Arc<AtomicBool>) -> anyhow::Result<Told> {
    let client = postgres::connect(&url).await?;
    let (mut told, mut step) = (Told::default(), first);
    while !stop.load(Ordering::SeqCst) {
        step += 1;
        let id = (step + who) % 10;
        let count = format!("UPDATE t SET v = v + 1 WHERE id = {id}");
        client
            .batch_execute(&count)
            .await
            .with_context(|| count.clone())?;
        told.counted[id as usize] += 1;
        let key = i64::from(who) * 1_000_000 + i64::from(step);
        let asked = Instant::now();
        let insert = format!("INSERT INTO log (id, who) VALUES ({key}, {who})");
        client
            .batch_execute(&insert)
            .await
            .with_context(|| insert.clone())?;
        told.inserted.push((key, asked, Instant::now()));
    }
    Ok(told)
}

async fn counted(pair: &Pair, all: &[Told]) -> anyhow::Result<()> {
    for id in 0..10usize {
        let sum: i64 = all.iter().map(|told| told.counted[id]).sum();
        for (client, what) in [(&pair.direct, "Postgres"), (&pair.proxied, "Ripen")] {
            let sql = format!("SELECT v FROM t WHERE id = {id}");
            let found: i64 = client.query_one(&sql, &[]).await?.get(0);
            ensure!(
                found == sum,
                "{what}: row {id} is {found}, acknowledged {sum}\n{}",
                pair.ripen.log()
            );
        }
    }
    let dead = pair
        .direct
        .query_one("SELECT count(*) FROM ripen.dead_letter", &[])
        .await?;
    ensure!(
        dead.get::<_, i64>(0) == 0,
        "dead letters\n{}",
        pair.ripen.log()
    );
    Ok(())
}

/// Every key that any writer was told of reads the same through Ripen.
async fn same_in_memory(pair: &Pair, all: &[Told]) -> anyhow::Result<()> {
    let rows = pair.direct.query("SELECT id FROM log", &[]).await?;
    let there: std::collections::HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let read = pair
        .proxied
        .prepare("SELECT who FROM log WHERE id = $1")
        .await?;
    for (key, ..) in all.iter().flat_map(|told| &told.inserted) {
        let found = pair.proxied.query_opt(&read, &[key]).await?.is_some();
        ensure!(
            found == there.contains(key),
            "key {key}: memory {found}\n{}",
            pair.ripen.log()
        );
    }
    Ok(())
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_through_ripen_takes_what_came_before_and_nothing_after() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let load = Load::start(&pair.ripen.url());
    let mut truncates = Vec::new();
    for _ in 0..5 {
        pass(Duration::from_millis(300)).await;
        let begun = Instant::now();
        pair.proxied.batch_execute("TRUNCATE log").await?;
        truncates.push((begun, Instant::now()));
    }
    pass(Duration::from_millis(200)).await;
    let all = load.stop().await?;
    pair.flush().await?;
    let (begun, done) = truncates[4];
    let rows = pair.direct.query("SELECT id FROM log", &[]).await?;
    let there: std::collections::HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    for (key, asked, answered) in all.iter().flat_map(|told| &told.inserted) {
        ensure!(
            *answered > begun || !there.contains(key),
            "key {key} outlived the TRUNCATE"
        );
        ensure!(
            *asked < done || there.contains(key),
            "key {key}, acknowledged after the TRUNCATE, is lost\n{}",
            pair.ripen.log()
        );
    }
    counted(&pair, &all).await?;
    same_in_memory(&pair, &all).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_truncate_behind_its_back_memory_is_as_postgres_is() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let load = Load::start(&pair.ripen.url());
    for _ in 0..5 {
        pass(Duration::from_millis(300)).await;
        pair.direct.batch_execute("TRUNCATE log").await?;
    }
    let all = load.stop().await?;
    pair.flush().await?;
    counted(&pair, &all).await?;
    wait::until("memory is as Postgres is", || async {
        Ok(same_in_memory(&pair, &all).await.ok())
    })
    .await
}

/// Changes of the schema that no writer here can be refused for.
const DDL: &[&str] = &[
    "ALTER TABLE t ADD COLUMN note text",
    "ALTER TABLE log ADD COLUMN at timestamptz DEFAULT now()",
    "ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 7",
    "CREATE INDEX log_who ON log (who)",
    "ALTER TABLE t DROP COLUMN note",
    "ALTER TABLE t ADD CONSTRAINT positive CHECK (v >= 0)",
    "ALTER TABLE log ALTER COLUMN at DROP DEFAULT",
    "ALTER TABLE log RENAME COLUMN at TO stamp",
    "ANALYZE t",
    "ALTER TABLE t DROP COLUMN n",
];

async fn ddl_under_load(pair: &Pair, ddl: &Client) -> anyhow::Result<()> {
    let load = Load::start(&pair.ripen.url());
    for sql in DDL {
        pass(Duration::from_millis(150)).await;
        ddl.batch_execute(sql)
            .await
            .with_context(|| (*sql).to_owned())?;
    }
    pass(Duration::from_millis(300)).await;
    let all = load.stop().await?;
    pair.flush().await?;
    counted(pair, &all).await?;
    let inserted: i64 = all.iter().map(|told| told.inserted.len() as i64).sum();
    let found: i64 = pair
        .direct
        .query_one("SELECT count(*) FROM log", &[])
        .await?
        .get(0);
    ensure!(
        found == inserted,
        "{found} of {inserted} rows are there\n{}",
        pair.ripen.log()
    );
    same_in_memory(pair, &all).await?;
    ensure!(pair.ripen.number("writes").await? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_through_ripen_under_load_loses_nothing() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    ddl_under_load(&pair, &pair.proxied).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_behind_its_back_under_load_loses_nothing() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    ddl_under_load(&pair, &pair.direct).await
}

/// As a user would write it: one table nobody else writes, on a server without logical replication.
const EXCLUSIVE: &str = "write_delay = \"100ms\"\n\n[[table]]\npattern = \"public.*\"\nmode = \"write-behind\"\nexclusive = true\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exclusive_tables_need_no_stream_and_lose_nothing() -> anyhow::Result<()> {
    let options = Options::default().set("wal_level", "replica");
    let mut pair = Pair::start_with(
        options,
        SCHEMA,
        &[("file", EXCLUSIVE), ("upstream_wait", "1s")],
    )
    .await?;
    let mut sums = [0; 10];
    let mut everything = Vec::new();
    for round in 0..3 {
        let load = Load::start_at(&pair.ripen.url(), round * 100_000);
        for step in 0..4 {
            pass(Duration::from_millis(150)).await;
            // Passes through: all rows, by a condition that names none.
            pair.proxied
                .execute("UPDATE t SET v = v + 1 WHERE v >= 0", &[])
                .await?;
            sums.iter_mut().for_each(|sum| *sum += 1);
            if step == 1 {
                pair.proxied
                    .batch_execute(&format!("ALTER TABLE log ADD COLUMN c{round} int"))
                    .await?;
            }
        }
        everything.extend(load.stop().await?);
        let memory = pair.ripen.number("hits").await? + pair.ripen.number("writes").await?;
        ensure!(
            memory > 0.0,
            "nothing is served from memory\n{}",
            pair.ripen.log()
        );
        // Acknowledged, and mostly not flushed.
        pair.ripen.kill9().await?;
        pair.ripen.restart().await?;
        pair.proxied = pair.ripen.connect().await?;
        pair.flush().await?;
        let mut all: Vec<i64> = sums.to_vec();
        for told in &everything {
            all.iter_mut()
                .zip(told.counted)
                .for_each(|(sum, more)| *sum += more);
        }
        for (id, sum) in all.iter().enumerate() {
            for client in [&pair.direct, &pair.proxied] {
                let sql = format!("SELECT v FROM t WHERE id = {id}");
                let found: i64 = client.query_one(&sql, &[]).await?.get(0);
                ensure!(
                    found == *sum,
                    "round {round}, row {id}: {found}, acknowledged {sum}\n{}",
                    pair.ripen.log()
                );
            }
        }
        let inserted: i64 = everything
            .iter()
            .map(|told| told.inserted.len() as i64)
            .sum();
        let found: i64 = pair
            .direct
            .query_one("SELECT count(*) FROM log", &[])
            .await?
            .get(0);
        ensure!(found == inserted, "{found} of {inserted}");
        same_in_memory(&pair, &everything).await?;
    }
    Ok(())
}
