//! Several data folders on one database: each log's flushes are its own, and only one Ripen at a time writes.

use anyhow::{Context, ensure};
use ripen_tests::pair::queue;
use ripen_tests::postgres::Options;
use ripen_tests::{Postgres, Ripen, wait};
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g";

const FIRST: &str = "UPDATE t SET a = a + 1 WHERE id = 1";
const SECOND: &str = "UPDATE t SET a = a + 1 WHERE id = 2";

async fn postgres() -> anyhow::Result<(Postgres, Client)> {
    let postgres = Postgres::start(Options::default()).await?;
    let direct = postgres.connect().await?;
    direct.batch_execute(SCHEMA).await?;
    Ok((postgres, direct))
}

async fn value(client: &Client, id: i32) -> anyhow::Result<i32> {
    let sql = "SELECT a FROM t WHERE id = $1";
    Ok(client.query_one(sql, &[&id]).await?.get(0))
}

async fn flush(ripen: &Ripen) -> anyhow::Result<()> {
    let client = ripen.connect().await?;
    // Touches everything, so everything is flushed first.
    Ok(client.batch_execute("DO $$ BEGIN END $$").await?)
}

#[tokio::test]
async fn a_second_ripen_is_refused_while_the_first_lives() -> anyhow::Result<()> {
    let (postgres, direct) = postgres().await?;
    let first = Ripen::start(&postgres.url(), SETTINGS).await?;
    let client = first.connect().await?;
    queue(&client, FIRST).await?;
    let mut second = Ripen::start_unready(&postgres.url(), SETTINGS)?;
    let said = second.wait_refusal().await?;
    let folder = first.data_dir().display().to_string();
    ensure!(
        said.contains("another Ripen") && said.contains(&folder),
        "{said}"
    );
    queue(&client, FIRST).await?;
    flush(&first).await?;
    ensure!(value(&direct, 1).await? == 2);
    Ok(())
}

#[tokio::test]
async fn a_flush_of_another_log_never_passes_for_ones_own() -> anyhow::Result<()> {
    let (postgres, direct) = postgres().await?;
    let mut first = Ripen::start(&postgres.url(), SETTINGS).await?;
    first.kill9().await?;
    first.set_failpoints(Some("flush-begun=kill"));
    first.restart().await?;
    let client = first.connect().await?;
    queue(&client, FIRST).await?;
    // Nobody is there to answer.
    let _ = flush(&first).await;
    first.wait_death("flush-begun").await?;

    // A new data folder: the flush that the first one has left open is not known here, the next has its number.
    let mut second = Ripen::start(&postgres.url(), SETTINGS).await?;
    ensure!(
        second
            .log()
            .contains(&first.data_dir().display().to_string()),
        "no warning"
    );
    queue(&second.connect().await?, SECOND).await?;
    flush(&second).await?;
    second.stop().await?;

    first.set_failpoints(None);
    for _ in 0..2 {
        first.restart().await?;
        flush(&first).await?;
        let found = (value(&direct, 1).await?, value(&direct, 2).await?);
        ensure!(found == (1, 1), "{found:?}");
        first.stop().await?;
    }
    second.restart().await?;
    queue(&second.connect().await?, SECOND).await?;
    flush(&second).await?;
    ensure!(value(&direct, 2).await? == 2);
    Ok(())
}

#[tokio::test]
async fn who_was_taken_over_notices_and_loses_nothing() -> anyhow::Result<()> {
    let (postgres, direct) = postgres().await?;
    let mut first = Ripen::start(&postgres.url(), SETTINGS).await?;
    queue(&first.connect().await?, FIRST).await?;
    first.signal("-STOP").await?;
    // As if its host had gone: Postgres ends what it does not hear of any more.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')";
    direct.query(end, &[]).await?;
    let mut second = Ripen::start(&postgres.url(), SETTINGS).await?;
    queue(&second.connect().await?, SECOND).await?;
    first.signal("-CONT").await?;
    let said = first.wait_refusal().await?;
    ensure!(said.contains("another Ripen"), "{said}");
    flush(&second).await?;
    ensure!((value(&direct, 1).await?, value(&direct, 2).await?) == (0, 1));
    second.stop().await?;
    first.restart().await?;
    flush(&first).await?;
    ensure!((value(&direct, 1).await?, value(&direct, 2).await?) == (1, 1));
    Ok(())
}

#[tokio::test]
async fn the_guard_is_taken_again_after_postgres_was_away() -> anyhow::Result<()> {
    let (mut postgres, _) = postgres().await?;
    let mut first = Ripen::start(&postgres.url(), SETTINGS).await?;
    postgres.stop(ripen_tests::postgres::Stop::Fast).await?;
    postgres.start_again().await?;
    let direct = postgres.connect().await?;
    let guards = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait::until("the guard is held", || async {
        Ok(direct.query_opt(guards, &[]).await?.map(drop))
    })
    .await?;
    let mut second = Ripen::start_unready(&postgres.url(), SETTINGS)?;
    second.wait_refusal().await?;
    ensure!(first.is_running());
    queue(&first.connect().await.context("the first serves")?, FIRST).await?;
    flush(&first).await?;
    ensure!(value(&direct, 1).await? == 1);
    Ok(())
}
