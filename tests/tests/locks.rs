//! Locks that somebody holds in Postgres behind Ripen's back: what is pending behind them waits, and nobody else does.

use anyhow::{Context, ensure};
use ripen_tests::pair::{Pair, queue};
use ripen_tests::wait;
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TABLE one (id int PRIMARY KEY, v int NOT NULL); CREATE TABLE two (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO one SELECT g, 0 FROM generate_series(1, 9) g; INSERT INTO two SELECT g, 0 FROM generate_series(1, 9) g";

async fn count(client: &Client, rows: &str) -> anyhow::Result<i64> {
    let sql = format!("SELECT count(*) FROM {rows}");
    Ok(client.query_one(&sql, &[]).await?.get(0))
}

/// Somebody takes `lock` and keeps it: the rows of `behind`, written by `blocked`, wait for its end, and those of `free` do not.
struct Case<'a> {
    conflict: &'a str,
    lock: &'a str,
    blocked: &'a str,
    behind: &'a str,
    writes: &'a [&'a str],
    free: &'a [&'a str],
}

async fn only_what_is_locked_waits(case: Case<'_>) -> anyhow::Result<()> {
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "1h"),
        ("conflict", case.conflict),
    ];
    let mut pair = Pair::start(SCHEMA, &settings).await?;
    queue(&pair.proxied, case.blocked).await?;
    for write in case.writes {
        queue(&pair.proxied, write).await?;
    }
    queue(&pair.proxied, "UPDATE two SET v = 1 WHERE id = 9").await?;
    let locker = pair.connect_direct().await?;
    locker.batch_execute("BEGIN").await?;
    locker.batch_execute(case.lock).await?;
    let asker = pair.ripen.connect().await?;
    let all = tokio::spawn(async move { asker.batch_execute("CALL ripen.flush()").await });
    let (direct, look) = (&pair.direct, &locker);
    for rows in case.free {
        wait::until(rows, || async {
            Ok((count(look, rows).await? == 1).then_some(()))
        })
        .await?;
    }
    queue(&pair.proxied, "UPDATE two SET v = 2 WHERE id = 8").await?;
    let flush = pair.proxied.batch_execute("CALL ripen.flush('two')");
    let flush = tokio::time::timeout(wait::DEADLINE / 4, flush).await;
    flush.context("two waits behind the lock")??;
    ensure!(count(direct, "two WHERE (id, v) IN ((8, 2), (9, 1))").await? == 2);
    ensure!(!all.is_finished(), "what it asked for is not done");
    ensure!(pair.ripen.number("pending_rows").await? >= 1.0);
    locker.batch_execute("ROLLBACK").await?;
    all.await??;
    ensure!(count(direct, case.behind).await? == 1, "{}", case.behind);
    ensure!(count(direct, "ripen.dead_letter").await? == 0);
    pair.ripen.stop().await
}

#[tokio::test]
async fn a_locked_row_holds_up_no_other() -> anyhow::Result<()> {
    for conflict in ["merge", "database"] {
        only_what_is_locked_waits(Case {
            conflict,
            lock: "SELECT FROM one WHERE id = 1 FOR UPDATE",
            blocked: "UPDATE one SET v = 1 WHERE id = 1",
            behind: "one WHERE id = 1 AND v = 1",
            writes: &[
                "UPDATE one SET v = 1 WHERE id = 2",
                "DELETE FROM one WHERE id = 3",
            ],
            free: &["one WHERE id = 2 AND v = 1", "two WHERE id = 9 AND v = 1"],
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_locked_table_holds_up_no_other() -> anyhow::Result<()> {
    for conflict in ["merge", "database"] {
        only_what_is_locked_waits(Case {
            conflict,
            lock: "LOCK TABLE one",
            blocked: "UPDATE one SET v = 1 WHERE id = 1",
            behind: "one WHERE id = 1 AND v = 1",
            writes: &[],
            free: &["two WHERE id = 9 AND v = 1"],
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_insert_behind_another_of_its_key_holds_up_no_other() -> anyhow::Result<()> {
    only_what_is_locked_waits(Case {
        conflict: "merge",
        lock: "INSERT INTO one VALUES (21, 5)",
        blocked: "INSERT INTO one VALUES (21, 1)",
        behind: "one WHERE id = 21 AND v = 1",
        writes: &["INSERT INTO one VALUES (22, 1)"],
        free: &["one WHERE id = 22", "two WHERE id = 9 AND v = 1"],
    })
    .await
}
