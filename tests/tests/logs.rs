//! Several logs on one node: what is acknowledged in each is written, by itself and after a kill; tables go from one to another and nothing is lost or doubled on the way; tables that refer to
//! each other stay together, whenever they begin to.

use anyhow::{Context, ensure};
use ripen_tests::pair::queue;
use ripen_tests::postgres::Options;
use ripen_tests::{Pair, Postgres, Ripen, wait};
use tokio_postgres::Client;

const SCHEMA: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v int NOT NULL);
    CREATE TABLE b (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO a SELECT g, 0 FROM generate_series(1, 50) g;
    INSERT INTO b SELECT g, 0 FROM generate_series(1, 50) g;";

const SLOW: &str = "write_behind = [\"public.*\"]\nwrite_delay = \"1h\"\n";

/// Two logs; `a` and `b` in these.
fn settings(a: u8, b: u8) -> String {
    let table = |name: &str, log: u8| format!("[[table]]\npattern = \"{name}\"\nlog = {log}\n");
    format!("logs = 2\n{SLOW}{}{}", table("a", a), table("b", b))
}

async fn start(settings: &str) -> anyhow::Result<Pair> {
    Pair::start(SCHEMA, &[("file", settings)]).await
}

/// Of each log: tables, pending rows, flushes.
async fn logs(client: &Client) -> anyhow::Result<Vec<[u64; 3]>> {
    let mut found = Vec::new();
    for (number, row) in client
        .query("SHOW ripen.logs", &[])
        .await?
        .iter()
        .enumerate()
    {
        ensure!(row.get::<_, &str>("log") == number.to_string());
        let mut numbers = [0; 3];
        for (at, name) in ["tables", "pending_rows", "flushes"]
            .into_iter()
            .enumerate()
        {
            numbers[at] = row.get::<_, &str>(name).parse()?;
        }
        found.push(numbers);
    }
    Ok(found)
}

async fn pending(client: &Client) -> anyhow::Result<Vec<u64>> {
    Ok(logs(client).await?.iter().map(|log| log[1]).collect())
}

async fn sum(client: &Client, table: &str) -> anyhow::Result<i64> {
    let row = client
        .query_one(&format!("SELECT sum(v) FROM {table}"), &[])
        .await?;
    Ok(row.get(0))
}

/// Adds one to rows from 1 on, each write queued.
async fn add(client: &Client, table: &str, rows: i32) -> anyhow::Result<()> {
    for id in 1..=rows {
        queue(
            client,
            &format!("UPDATE {table} SET v = v + 1 WHERE id = {id}"),
        )
        .await?;
    }
    Ok(())
}

/// Waits until writes of the table are queued, which may take until it has gone to another log. Adds one to row 50 for each try.
async fn queued(client: &Client, table: &str) -> anyhow::Result<i64> {
    let tried = std::sync::atomic::AtomicI64::new(0);
    wait::until("writes are queued", || async {
        client
            .execute(&format!("UPDATE {table} SET v = v + 1 WHERE id = 50"), &[])
            .await?;
        tried.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let row = client.query_one("SHOW ripen.route", &[]).await?;
        Ok((row.get::<_, &str>(0) == "write").then_some(()))
    })
    .await?;
    Ok(tried.into_inner())
}

async fn dead_letters(direct: &Client) -> anyhow::Result<i64> {
    let row = direct
        .query_one("SELECT count(*) FROM ripen.dead_letter", &[])
        .await?;
    Ok(row.get(0))
}

#[tokio::test]
async fn each_log_has_its_tables_and_survives_a_kill() -> anyhow::Result<()> {
    let mut pair = start(&settings(0, 1)).await?;
    add(&pair.proxied, "a", 3).await?;
    add(&pair.proxied, "b", 5).await?;
    ensure!(pending(&pair.proxied).await? == [3, 5]);
    ensure!(sum(&pair.direct, "b").await? == 0);
    pair.ripen.kill9().await?;
    pair.ripen.restart().await?;
    pair.proxied = pair.ripen.connect().await?;
    ensure!(pending(&pair.proxied).await? == [3, 5]);
    // What a statement reads is flushed in whichever log it is, and nothing else.
    ensure!(sum(&pair.proxied, "b").await? == 5);
    ensure!(pending(&pair.proxied).await? == [3, 0]);
    ensure!(sum(&pair.direct, "a").await? == 0);
    let joined = "SELECT sum(a.v + b.v) FROM a JOIN b USING (id)";
    let row = pair.proxied.query_one(joined, &[]).await?;
    ensure!(row.get::<_, i64>(0) == 8);
    let progress = "SELECT log, applied FROM ripen.progress ORDER BY log";
    let progress = pair.direct.query(progress, &[]).await?;
    let progress: Vec<(i32, i64)> = progress
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    ensure!(progress == [(0, 1), (1, 1)], "{progress:?}");
    ensure!(pair.ripen.number("pending_rows").await? == 0.0);
    Ok(())
}

#[tokio::test]
async fn all_of_a_table_is_told_by_the_stream_whichever_log_wrote_it() -> anyhow::Result<()> {
    let pair = start(&settings(0, 1)).await?;
    for table in ["a", "b"] {
        queue(
            &pair.proxied,
            &format!("UPDATE {table} SET v = 7 WHERE id = 1"),
        )
        .await?;
    }
    pair.flush().await?;
    for table in ["a", "b"] {
        let sql = format!("UPDATE {table} SET v = v + 1 WHERE id = 1");
        pair.direct.execute(&sql, &[]).await?;
        let read = format!("SELECT v FROM {table} WHERE id = 1");
        wait::until("the outside change is seen on top of the flush", || async {
            let row = pair.proxied.query_one(&read, &[]).await?;
            let route = pair.proxied.query_one("SHOW ripen.route", &[]).await?;
            let seen = row.get::<_, i32>(0) == 8 && route.get::<_, &str>(0) == "read";
            Ok(seen.then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn tables_go_to_another_log_and_back_with_kills_in_between() -> anyhow::Result<()> {
    let mut pair = start(&settings(0, 1)).await?;
    let (mut a, mut b) = (0, 0);
    for round in 0..6 {
        let first = if round % 2 == 0 { 0 } else { 1 };
        a += queued(&pair.proxied, "a").await?;
        b += queued(&pair.proxied, "b").await?;
        add(&pair.proxied, "a", 4).await?;
        add(&pair.proxied, "b", 2).await?;
        (a, b) = (a + 4, b + 2);
        let mut wanted = vec![5, 3];
        wanted.rotate_left(first);
        let found = pending(&pair.proxied).await?;
        ensure!(found == wanted, "round {round}: {found:?}");
        if round >= 3 {
            // With nothing pending, what was written before must not come again.
            pair.flush().await?;
        }
        let (next_a, next_b) = (1 - first as u8, first as u8);
        pair.ripen
            .replace_settings(&["file"], &[("file", &settings(next_a, next_b))]);
        pair.ripen.kill9().await?;
        pair.ripen.restart().await?;
        if round % 3 == 1 {
            // Whatever had been begun is begun again.
            pair.ripen.kill9().await?;
            pair.ripen.restart().await?;
        }
        pair.proxied = pair.ripen.connect().await?;
        let found = (
            sum(&pair.proxied, "a").await?,
            sum(&pair.proxied, "b").await?,
        );
        ensure!(
            found == (a, b),
            "round {round}: {found:?}, not {:?}",
            (a, b)
        );
    }
    pair.flush().await?;
    let found = (sum(&pair.direct, "a").await?, sum(&pair.direct, "b").await?);
    ensure!(found == (a, b), "{found:?}, not {:?}", (a, b));
    ensure!(dead_letters(&pair.direct).await? == 0);
    Ok(())
}

#[tokio::test]
async fn fewer_logs_leave_nothing_behind() -> anyhow::Result<()> {
    let mut pair = start(&settings(0, 1)).await?;
    add(&pair.proxied, "b", 5).await?;
    pair.ripen.replace_settings(&["file"], &[("file", SLOW)]);
    pair.ripen.kill9().await?;
    pair.ripen.restart().await?;
    pair.proxied = pair.ripen.connect().await?;
    ensure!(sum(&pair.proxied, "b").await? == 5);
    let tried = queued(&pair.proxied, "b").await?;
    let found = logs(&pair.proxied).await?;
    ensure!(
        (found[0][1], found[1][0], found[1][1]) == (1, 0, 0),
        "{found:?}"
    );
    // A log that was there and is not is missed.
    pair.ripen.kill9().await?;
    let lost = pair.ripen.data_dir().join("log-1");
    let kept = pair.ripen.data_dir().join("kept");
    std::fs::rename(&lost, &kept)?;
    pair.ripen.restart_unready()?;
    let refusal = pair.ripen.wait_refusal().await?;
    ensure!(refusal.contains("log-1 is missing"), "{refusal}");
    std::fs::rename(&kept, &lost)?;
    pair.ripen.restart().await?;
    pair.proxied = pair.ripen.connect().await?;
    ensure!(sum(&pair.proxied, "b").await? == 5 + tried);
    Ok(())
}

#[tokio::test]
async fn tables_that_begin_to_refer_to_each_other_are_flushed_in_order() -> anyhow::Result<()> {
    let schema = format!("{SCHEMA} TRUNCATE a, b");
    let file = settings(0, 1);
    let pair = Pair::start_with(Options::default(), &schema, &[("file", &file)]).await?;
    let (client, direct) = (&pair.proxied, &pair.direct);
    queue(client, "INSERT INTO a VALUES (1, 0)").await?;
    queue(client, "INSERT INTO b VALUES (1, 0)").await?;
    ensure!(pending(client).await? == [1, 1]);
    client
        .batch_execute("ALTER TABLE a ADD FOREIGN KEY (id) REFERENCES b")
        .await?;
    wait::until("both tables are queued again", || async {
        let count = "SELECT count(*) FROM b";
        let next: i64 = client.query_one(count, &[]).await?.get(0);
        let insert = format!("INSERT INTO b VALUES ({}, 0)", next + 1);
        client.batch_execute(&insert).await?;
        let route = client.query_one("SHOW ripen.route", &[]).await?;
        Ok((route.get::<_, &str>(0) == "write").then_some(()))
    })
    .await?;
    client.batch_execute("CALL ripen.flush()").await?;
    // The child may pass through: what it refers to is flushed first then.
    for id in 900..920 {
        queue(client, &format!("INSERT INTO b VALUES ({id}, 0)")).await?;
        client
            .batch_execute(&format!("INSERT INTO a VALUES ({id}, 0)"))
            .await?;
    }
    let found = pending(client).await?;
    ensure!(
        found.iter().filter(|rows| **rows > 0).count() <= 1,
        "{found:?}"
    );
    client.batch_execute("CALL ripen.flush()").await?;
    let count = "SELECT count(*) FROM a WHERE id >= 900";
    ensure!(direct.query_one(count, &[]).await?.get::<_, i64>(0) == 20);
    ensure!(dead_letters(direct).await? == 0);
    ensure!(
        pair.ripen.log().contains("must be in one log"),
        "a setting that does not count is not complained of"
    );
    Ok(())
}

#[tokio::test]
async fn what_one_log_cannot_write_does_not_hold_up_another() -> anyhow::Result<()> {
    let file = settings(0, 1).replace("1h", "100ms");
    let mut pair = start(&file).await?;
    let locked = pair.direct.transaction().await?;
    locked
        .batch_execute("LOCK TABLE a IN EXCLUSIVE MODE")
        .await?;
    queue(&pair.proxied, "UPDATE a SET v = 1 WHERE id = 2").await?;
    let direct = ripen_tests::postgres::connect(&pair.postgres.url()).await?;
    for round in 1..=5 {
        queue(&pair.proxied, "UPDATE b SET v = v + 1 WHERE id = 1").await?;
        wait::until("the other log's row is written", || async {
            Ok((sum(&direct, "b").await? == round).then_some(()))
        })
        .await?;
    }
    locked.commit().await?;
    wait::until("the locked table's row is written", || async {
        Ok((sum(&direct, "a").await? == 1).then_some(()))
    })
    .await
}

#[tokio::test]
async fn several_logs_are_refused_where_they_cannot_be_kept_promises_with() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    for (name, value) in [("cluster_listen", "127.0.0.1:0"), ("standbys", "two")] {
        let settings = [("logs", "2"), (name, value), ("bootstrap", "")];
        let settings = if name == "standbys" {
            &settings[..2]
        } else {
            &settings
        };
        let mut ripen = Ripen::start_unready(&postgres.url(), settings)?;
        let refusal = ripen.wait_refusal().await?;
        let found = refusal.contains("--logs: logs:") && refusal.contains(name);
        ensure!(found, "{refusal}");
    }
    let log_of_none = [("file", "logs = 2\n[[table]]\npattern = \"a\"\nlog = 2")];
    let mut ripen = Ripen::start_unready(&postgres.url(), &log_of_none)?;
    let refusal = ripen.wait_refusal().await.context("a log too many")?;
    ensure!(refusal.contains("2 is none of 2 logs"), "{refusal}");
    Ok(())
}
