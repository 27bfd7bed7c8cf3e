//! What is held in memory and for how long: expiry to the point, and the process within `memory_max`.

use anyhow::ensure;
use ripen_tests::{Pair, wait};
use std::time::{Duration, Instant};

#[tokio::test]
async fn no_row_is_served_past_its_expiry() -> anyhow::Result<()> {
    const EXPIRY: Duration = Duration::from_millis(1500);
    let file = "[[table]]\npattern = \"public.*\"\nmode = \"read-through\"\nexclusive = true\nexpiry = \"1500ms\"\n";
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t VALUES (1, 0)";
    let pair = Pair::start(schema, &[("file", file)]).await?;
    let read = async || -> anyhow::Result<i32> {
        let row = pair.proxied.query_one("SELECT v FROM t WHERE id = 1", &[]);
        Ok(row.await?.get(0))
    };
    let mut served = 0;
    for round in 1..=4 {
        // Exclusive and yet written by somebody else: only its expiry can tell memory of it.
        let before = read().await?;
        let loaded = Instant::now();
        let write = format!("UPDATE t SET v = {round} WHERE id = 1");
        pair.direct.batch_execute(&write).await?;
        loop {
            let age = loaded.elapsed();
            let value = read().await?;
            if value == round {
                break;
            }
            ensure!(value == before);
            ensure!(age < EXPIRY, "round {round}: served {age:?} after its load");
            served += 1;
        }
    }
    ensure!(served > 4, "nothing was served from memory");
    Ok(())
}

const MIB: f64 = 1_048_576.0;
const ROWS: i32 = 120_000;
const PENDING: i32 = 200;

#[tokio::test]
async fn the_process_keeps_to_memory_max_and_pending_rows_stay() -> anyhow::Result<()> {
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "1h"),
        ("memory_max", "96MiB"),
        ("max_pending_bytes", "16MiB"),
    ];
    let schema = format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL);
         INSERT INTO t SELECT g, repeat('v', 600) FROM generate_series(1, {ROWS}) g"
    );
    let pair = Pair::start(&schema, &settings).await?;
    let number = async |name: &str| pair.ripen.number(name).await;
    let bound = number("memory_max_bytes").await?;
    ensure!(bound == 96.0 * MIB && number("process_bytes").await? < bound * 0.75);
    for id in 1..=PENDING {
        let write = "UPDATE t SET v = 'pending' WHERE id = $1";
        ensure!(pair.proxied.execute(write, &[&(id * 500)]).await? == 1);
    }

    let read = "SELECT id, v FROM t WHERE id = ANY($1)";
    let read = pair.proxied.prepare(read).await?;
    let mut most = 0.0_f64;
    for first in (1..=ROWS).chain(1..=ROWS).step_by(1000) {
        let ids: Vec<i32> = (first..first + 1000).collect();
        ensure!(pair.proxied.query(&read, &[&ids]).await?.len() == 1000);
        most = most.max(number("process_bytes").await?);
    }
    // As loaded they would take 80 MiB beside the program's 30 to 60, and more by what the allocator adds.
    ensure!(number("evictions").await? > f64::from(ROWS) / 2.0);
    ensure!(most < bound * 1.06, "{} MiB", most / MIB);
    wait::until("the process is within its bound", || async {
        Ok((number("process_bytes").await? <= bound).then_some(()))
    })
    .await?;
    let (rows, target) = (
        number("memory_bytes").await?,
        number("memory_target_bytes").await?,
    );
    ensure!(
        rows > bound / 16.0 && rows <= target * 1.01 && target < bound,
        "{} of {} MiB of rows are left",
        rows / MIB,
        target / MIB
    );

    ensure!(number("pending_rows").await? == f64::from(PENDING));
    ensure!(number("memory_pinned_bytes").await? >= f64::from(PENDING) * 100.0);
    let loads = number("loads").await?;
    let ids: Vec<i32> = (1..=PENDING).map(|id| id * 500).collect();
    let pending = pair.proxied.query(&read, &[&ids]).await?;
    ensure!(pending.len() == ids.len());
    ensure!(pending.iter().all(|row| row.get::<_, &str>(1) == "pending"));
    ensure!(
        number("loads").await? == loads,
        "pending rows had to be loaded"
    );
    ensure!(!pair.ripen.log().contains("more than memory_max"));
    Ok(())
}

#[tokio::test]
async fn a_bound_below_what_the_program_needs_is_complained_of() -> anyhow::Result<()> {
    let settings = [("memory_max", "8MiB"), ("max_pending_bytes", "1MiB")];
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t VALUES (1, 7)";
    let pair = Pair::start(schema, &settings).await?;
    wait::until("the log says so", || async {
        let log = pair.ripen.log();
        Ok(log.contains("more than memory_max").then_some(()))
    })
    .await?;
    let floor = pair.ripen.number("memory_target_bytes").await?;
    ensure!(floor == 8.0 * MIB / 16.0);
    // It goes on with the floor.
    for _ in 0..2 {
        let row = pair
            .proxied
            .query_one("SELECT v FROM t WHERE id = 1", &[])
            .await?;
        ensure!(row.get::<_, i32>(0) == 7);
    }
    ensure!(pair.ripen.number("hits").await? >= 1.0);
    Ok(())
}
