//! `conflict = "database"`: a change that somebody else made to a row with a pending change wins, seen in the WAL or not, and the whole pending transaction is
//! a dead letter. Without such a change nothing is, whatever the types.

use anyhow::ensure;
use ripen_tests::pair::queue;
use ripen_tests::{Pair, wait};
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "1h"),
    ("conflict", "database"),
];

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text); INSERT INTO t SELECT g, 0, 'old' FROM generate_series(1, 20) g";

async fn row(client: &Client, id: i32) -> anyhow::Result<(i32, String)> {
    let row = client
        .query_one("SELECT v, note FROM t WHERE id = $1", &[&id])
        .await?;
    Ok((row.get(0), row.get(1)))
}

async fn letters(pair: &Pair) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT sqlstate || ' ' || jsonb_array_length(changes) || ' ' || message FROM ripen.dead_letter ORDER BY id";
    Ok(pair
        .direct
        .query(sql, &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

#[tokio::test]
async fn an_outside_change_that_the_stream_tells_beats_the_pending_one_at_once()
-> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    // One transaction of two rows, of which one is changed outside.
    queue(&pair.proxied, "UPDATE t SET v = v + 1 WHERE id IN (1, 2)").await?;
    queue(&pair.proxied, "UPDATE t SET v = v + 1 WHERE id = 3").await?;
    pair.direct
        .batch_execute("UPDATE t SET note = 'outside' WHERE id = 1")
        .await?;
    // Nobody asks for a flush, and the rows are far from ripe.
    wait::until("the pending transaction is a dead letter", || async {
        Ok((!letters(&pair).await?.is_empty()).then_some(()))
    })
    .await?;
    let expected = ["40001 2 column \"note\" of a row of \"public\".\"t\" was changed outside"];
    ensure!(
        letters(&pair).await? == expected,
        "{:?}",
        letters(&pair).await?
    );
    wait::until("readers see what Postgres has", || async {
        let found = (row(&pair.proxied, 1).await?, row(&pair.proxied, 2).await?);
        Ok((found == ((0, "outside".to_owned()), (0, "old".to_owned()))).then_some(()))
    })
    .await?;
    pair.flush().await?;
    ensure!(row(&pair.direct, 3).await? == (1, "old".to_owned()));
    Ok(())
}

#[tokio::test]
async fn an_outside_change_that_nobody_has_told_beats_the_pending_one_too() -> anyhow::Result<()> {
    let mut pair = Pair::start(SCHEMA, SETTINGS).await?;
    queue(&pair.proxied, "UPDATE t SET v = 5 WHERE id = 1").await?;
    queue(&pair.proxied, "UPDATE t SET v = 5 WHERE id = 2").await?;
    queue(&pair.proxied, "INSERT INTO t VALUES (100, 1, 'grid')").await?;
    queue(&pair.proxied, "DELETE FROM t WHERE id = 4").await?;
    pair.ripen.kill9().await?;
    let outside = "UPDATE t SET v = 7 WHERE id = 1; UPDATE t SET note = 'kept' WHERE id = 4; UPDATE t SET v = v WHERE id = 2; INSERT INTO t VALUES (100, 2, 'outside')";
    pair.direct.batch_execute(outside).await?;
    pair.ripen.restart().await?;
    pair.proxied = pair.ripen.connect().await?;
    pair.flush().await?;
    let found = letters(&pair).await?;
    ensure!(found.len() == 3, "{found:?}");
    for (id, wanted) in [
        (1, (7, "old")),
        (2, (5, "old")),
        (4, (0, "kept")),
        (100, (2, "outside")),
    ] {
        for client in [&pair.direct, &pair.proxied] {
            let (v, note) = row(client, id).await?;
            ensure!((v, note.as_str()) == wanted, "row {id}: {v} {note}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_change_decided_on_one_that_was_beaten_is_beaten_too() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let other = pair.connect_direct().await?;
    queue(&pair.proxied, "UPDATE t SET v = v + 1 WHERE id = 1").await?;
    // The flush is chosen, and waits for this.
    other
        .batch_execute("BEGIN; UPDATE t SET v = 100 WHERE id = 1")
        .await?;
    let flusher = pair.ripen.connect().await?;
    let flush = tokio::spawn(async move { flusher.batch_execute("CALL ripen.flush()").await });
    wait::until("the flush waits for the row", || async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ripen' AND wait_event_type = 'Lock'";
        let row = pair.direct.query_one(waits, &[]).await?;
        Ok((row.get::<_, i64>(0) > 0).then_some(()))
    })
    .await?;
    queue(&pair.proxied, "UPDATE t SET v = v + 1 WHERE id = 1").await?;
    other.batch_execute("COMMIT").await?;
    flush.await??;
    pair.flush().await?;
    let found = letters(&pair).await?;
    ensure!(found.len() == 2, "{found:?}");
    ensure!(row(&pair.direct, 1).await?.0 == 100);
    ensure!(row(&pair.proxied, 1).await?.0 == 100);
    Ok(())
}

#[tokio::test]
async fn without_outside_changes_nothing_is_a_conflict() -> anyhow::Result<()> {
    let schema = "CREATE TABLE many (id int PRIMARY KEY, n numeric, m numeric(12, 3), f float8, r real, c char(8), s varchar(20), j jsonb, b bytea, \
        ts timestamptz, d date, i interval, u uuid, a int[], big bigint, ok boolean); INSERT INTO many (id) VALUES (1), (2)";
    let pair = Pair::start(schema, SETTINGS).await?;
    let steps = [
        "UPDATE many SET n = 1.500, m = 2, f = 1e20, r = 0.1, c = 'ab', s = 'x', big = 1 WHERE id = 1",
        "UPDATE many SET n = n + 1.50, m = m + 0.001, big = big + 1 WHERE id = 1",
        "UPDATE many SET n = 100, f = -0.0, d = '2026-01-01', ok = true WHERE id = 1",
        "INSERT INTO many (id, n, c) VALUES (3, 0.000, 'z') ON CONFLICT (id) DO UPDATE SET n = many.n + 1",
        "UPDATE many SET j = '{\"b\": 1, \"a\": [1.0]}', b = '\\x00ff', u = '00000000-0000-0000-0000-000000000001' WHERE id = 1",
        "UPDATE many SET ts = '2026-03-29 02:30:00+01', i = '1 day', a = '{1,2}' WHERE id = 1",
        "DELETE FROM many WHERE id = 2",
        "INSERT INTO many (id, n) VALUES (2, 5)",
    ];
    for round in 0..6 {
        for sql in steps {
            // Some of these may pass through; the barrier flushes then.
            if let Err(error) = pair.proxied.batch_execute(sql).await {
                ensure!(
                    error.code().is_some_and(|code| code.code() == "23505"),
                    "{sql}: {error:?}"
                );
            }
            if round % 2 == 0 {
                pair.flush().await?;
            }
        }
        pair.flush().await?;
    }
    ensure!(
        letters(&pair).await?.is_empty(),
        "{:?}",
        letters(&pair).await?
    );
    ensure!(pair.ripen.number("writes").await? > 20.0);
    Ok(())
}
