//! Postgres is away, and clients come all the same: those that it has never asked for a password are let in, and served what memory and log hold.

use anyhow::{Context, ensure};
use ripen_tests::postgres::{Options, Stop};
use ripen_tests::{Pair, wait};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, w int NOT NULL);
    INSERT INTO t SELECT g, 0, 7 FROM generate_series(1, 20) g;
    CREATE ROLE asked LOGIN PASSWORD 'x'; CREATE ROLE banned LOGIN";

const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "1h"),
    ("upstream_wait", "1s"),
    ("barrier_timeout", "5s"),
];

/// As whoever comes anew.
async fn value(pair: &Pair, id: i32) -> anyhow::Result<(i32, i32)> {
    let client = pair.ripen.connect().await.context("login")?;
    let row = client
        .query_one("SELECT v, w FROM t WHERE id = $1", &[&id])
        .await
        .with_context(|| format!("row {id}"))?;
    Ok((row.get(0), row.get(1)))
}

async fn refused(pair: &Pair, sql: &str) -> anyhow::Result<()> {
    let client = pair.ripen.connect().await.context("login")?;
    let begun = Instant::now();
    let error = client.batch_execute(sql).await;
    ensure!(error.is_err(), "{sql} succeeds without Postgres");
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(9), "{sql} took {took:?}");
    Ok(())
}

#[tokio::test]
async fn new_clients_are_served_while_postgres_is_away() -> anyhow::Result<()> {
    let mut pair = Pair::start_with(Options::default(), SCHEMA, SETTINGS).await?;
    wait::until("reads are answered from memory", || async {
        value(&pair, 3).await?;
        Ok((pair.ripen.number("hits").await? > 0.0).then_some(()))
    })
    .await?;
    pair.proxied
        .batch_execute("UPDATE t SET v = 1 WHERE id = 1")
        .await?;
    let banned = pair.ripen.url().replace("postgres@", "banned@");
    drop(ripen_tests::postgres::connect(&banned).await?);
    let ban = "ALTER ROLE banned NOLOGIN";
    pair.direct.batch_execute(ban).await?;
    ensure!(ripen_tests::postgres::connect(&banned).await.is_err());
    pair.postgres.stop(Stop::Immediate).await?;
    ensure!(value(&pair, 1).await? == (1, 7));
    ensure!(value(&pair, 3).await? == (0, 7));
    let let_in = ripen_tests::postgres::connect(&banned).await.is_ok();
    ensure!(!let_in, "Postgres has refused it since");
    let client = pair.ripen.connect().await?;
    let changed = client
        .execute("UPDATE t SET v = v + 1 WHERE id = 1", &[])
        .await?;
    ensure!(changed == 1 && value(&pair, 1).await? == (2, 7));
    refused(&pair, "SELECT count(*) FROM t").await?;
    refused(&pair, "SELECT v FROM t WHERE id = 15").await?;
    pair.postgres.start_again().await?;
    wait::until("the client goes on", || async {
        Ok(client.batch_execute("CALL ripen.flush()").await.ok())
    })
    .await?;
    let sum = client.query_one("SELECT sum(v) FROM t", &[]).await?;
    ensure!(sum.get::<_, i64>(0) == 2);
    Ok(())
}

#[tokio::test]
async fn what_is_pending_is_served_after_a_kill_with_postgres_away() -> anyhow::Result<()> {
    let mut pair = Pair::start_with(Options::default(), SCHEMA, SETTINGS).await?;
    wait::until("writes are queued", || async {
        pair.proxied
            .batch_execute("UPDATE t SET v = 1 WHERE id = 1")
            .await?;
        Ok((pair.ripen.number("writes").await? > 0.0).then_some(()))
    })
    .await?;
    let insert = "INSERT INTO t VALUES (100, 5, 8)";
    pair.proxied.batch_execute(insert).await?;
    pair.proxied
        .batch_execute("DELETE FROM t WHERE id = 2")
        .await?;
    let folder = pair.ripen.data_dir();
    wait::until("the login is written down", || async {
        let there = |name| folder.join(name).exists();
        Ok((there("logins.json") && there("catalog.json")).then_some(()))
    })
    .await?;
    pair.postgres.stop(Stop::Immediate).await?;
    pair.ripen.kill9().await?;
    pair.ripen.restart_unready()?;
    wait::until("the pending row is served", || async {
        Ok(value(&pair, 1).await.ok())
    })
    .await
    .with_context(|| pair.ripen.log())?;
    ensure!(value(&pair, 1).await? == (1, 7));
    ensure!(value(&pair, 100).await? == (5, 8));
    let client = pair.ripen.connect().await?;
    let gone = client.query("SELECT v FROM t WHERE id = 2", &[]).await?;
    ensure!(gone.is_empty());
    let update = "UPDATE t SET v = v + 10 WHERE id = 1 RETURNING v";
    let updated = client.query_one(update, &[]).await?;
    ensure!(updated.get::<_, i32>(0) == 11);
    refused(&pair, "SELECT v FROM t WHERE id = 15").await?;
    refused(&pair, "UPDATE t SET v = 3 WHERE id = 15").await?;
    refused(&pair, "SELECT count(*) FROM t").await?;
    let url = pair.ripen.url().replace("postgres@", "asked:x@");
    let stranger = ripen_tests::postgres::connect(&url).await;
    ensure!(stranger.is_err(), "only Postgres knows who that is");
    pair.postgres.start_again().await?;
    wait::until("the queue drains", || async {
        Ok(client.batch_execute("CALL ripen.flush()").await.ok())
    })
    .await?;
    let direct = pair.connect_direct().await?;
    let sql = "SELECT count(*), sum(v), sum(w) FROM t";
    let row = direct.query_one(sql, &[]).await?;
    let found: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    ensure!(found == (20, 16, 19 * 7 + 8), "{found:?}");
    ensure!(value(&pair, 15).await? == (0, 7));
    Ok(())
}
