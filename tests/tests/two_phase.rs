//! Prepared transactions outlive their sessions: until they end, wherever that is, what they touched is Postgres's, and nothing is acknowledged or answered for it.

use anyhow::{Context, ensure};
use ripen_tests::pair::queue;
use ripen_tests::postgres::Options;
use ripen_tests::{Pair, wait};
use tokio_postgres::{Client, SimpleQueryMessage};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g;
    CREATE TABLE other (id int PRIMARY KEY, v int NOT NULL); INSERT INTO other SELECT g, 0 FROM generate_series(1, 20) g";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];

async fn pair(prepared_max: &str) -> anyhow::Result<Pair> {
    pair_with(prepared_max, SETTINGS).await
}

async fn pair_with(prepared_max: &str, settings: &[(&str, &str)]) -> anyhow::Result<Pair> {
    let options = Options::default().set("max_prepared_transactions", prepared_max);
    Pair::start_with(options, SCHEMA, settings).await
}

async fn run(client: &Client, texts: &[&str]) -> anyhow::Result<()> {
    for sql in texts {
        client.simple_query(sql).await.context((*sql).to_owned())?;
    }
    Ok(())
}

/// The first column of the first row; `None` when there is no row.
async fn first(client: &Client, sql: &str) -> anyhow::Result<Option<String>> {
    let answers = client.simple_query(sql).await.context(sql.to_owned())?;
    Ok(answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

async fn route(client: &Client) -> anyhow::Result<String> {
    let route = first(client, "SHOW ripen.route").await?;
    route.context("a route")
}

/// Reads until the answer comes from memory.
async fn from_memory(client: &Client, sql: &str) -> anyhow::Result<Option<String>> {
    wait::until("it is answered from memory", || async {
        let found = first(client, sql).await?;
        Ok((route(client).await? == "read").then_some(found))
    })
    .await
}

async fn no_fence_is_left(pair: &Pair) -> anyhow::Result<()> {
    wait::until("no fence is left", || async {
        Ok((pair.ripen.number("fences_open").await? == 0.0).then_some(()))
    })
    .await
}

/// A write to a row that a prepared transaction `x` has deleted waits for its end, as it does in Postgres, and then counts what is there.
async fn waits_for_the_end(pair: &Pair, end: &str, by: &Client) -> anyhow::Result<()> {
    let writer = pair.ripen.connect().await?;
    let update = "UPDATE t SET v = v + 1 WHERE id = 1";
    let write = tokio::spawn(async move { writer.execute(update, &[]).await });
    wait::until("the write waits for the prepared transaction", || async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        let waits = first(&pair.direct, waiting).await?.as_deref() == Some("1");
        Ok((waits || write.is_finished()).then_some(()))
    })
    .await?;
    ensure!(!write.is_finished(), "the write was acknowledged");
    run(by, &[end]).await?;
    let changed = write.await??;
    let wanted = u64::from(end.starts_with("ROLLBACK"));
    ensure!(changed == wanted, "{end}: {changed} rows were changed");
    no_fence_is_left(pair).await?;
    from_memory(&pair.ripen.connect().await?, "SELECT v FROM t WHERE id = 1").await?;
    let dead = first(&pair.direct, "SELECT count(*) FROM ripen.dead_letter").await?;
    ensure!(dead.as_deref() == Some("0"), "{end}: {dead:?} dead letters");
    Ok(())
}

const DELETE: &[&str] = &[
    "BEGIN",
    "DELETE FROM t WHERE id = 1",
    "PREPARE TRANSACTION 'x'",
];

const AGAIN: &str = "INSERT INTO t VALUES (1, 0) ON CONFLICT DO NOTHING";

const ENDS: [&str; 2] = ["ROLLBACK PREPARED 'x'", "COMMIT PREPARED 'x'"];

#[tokio::test]
async fn a_write_waits_for_the_prepared_transaction_that_has_the_row() -> anyhow::Result<()> {
    let pair = pair("5").await?;
    for end in ENDS {
        for by in [&pair.proxied, &pair.direct] {
            run(&pair.proxied, DELETE).await?;
            waits_for_the_end(&pair, end, by).await?;
            run(&pair.direct, &[AGAIN]).await?;
            // What is inserted behind Ripen's back is to be known before it is deleted.
            wait::until("the row is there again", || {
                first(&pair.proxied, "SELECT v FROM t WHERE id = 1")
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_was_prepared_before_a_crash_still_has_its_rows() -> anyhow::Result<()> {
    // Other tables are not followed before all transactions have ended that run at the start, prepared ones too.
    let exclusive = "[[table]]\npattern = \"public.*\"\nmode = \"write-behind\"\nwrite_delay = \"1h\"\nexclusive = true";
    let mut pair = pair_with("5", &[("file", exclusive)]).await?;
    for end in ENDS {
        run(&pair.ripen.connect().await?, DELETE).await?;
        pair.ripen.kill9().await?;
        pair.ripen.restart().await?;
        let other = pair.ripen.connect().await?;
        from_memory(&other, "SELECT v FROM other WHERE id = 1").await?;
        waits_for_the_end(&pair, end, &pair.direct).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_text_prepared_that_nobody_read_still_has_its_rows() -> anyhow::Result<()> {
    let pair = pair("5").await?;
    let long = format!("{} --{}", DELETE.join("; "), " ".repeat(1 << 20));
    run(&pair.proxied, &[&long]).await?;
    // That session may have made anything that hides tables.
    let other = pair.ripen.connect().await?;
    wait::until("the rest is not held any more", || async {
        queue(&other, "UPDATE other SET v = 1 WHERE id = 1")
            .await
            .map(Some)
    })
    .await?;
    waits_for_the_end(&pair, ENDS[1], &pair.direct).await
}

#[tokio::test]
async fn what_is_committed_behind_our_back_is_seen_at_once() -> anyhow::Result<()> {
    let pair = pair("5").await?;
    for (value, update) in [(1, "WHERE id = 1"), (2, "WHERE v < 5 AND id < 3")] {
        let read = "SELECT v FROM t WHERE id = 1";
        let reader = pair.ripen.connect().await?;
        from_memory(&reader, read).await?;
        let update = format!("UPDATE t SET v = {value} {update}");
        run(
            &pair.proxied,
            &["BEGIN", &update, "PREPARE TRANSACTION 'x'"],
        )
        .await?;
        let before = first(&reader, read).await?;
        ensure!(before == Some((value - 1).to_string()), "{before:?}");
        run(&pair.direct, &["COMMIT PREPARED 'x'"]).await?;
        let after = first(&reader, read).await?;
        ensure!(after == Some(value.to_string()), "{update}: {after:?}");
        no_fence_is_left(&pair).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_could_not_be_prepared_is_not_held() -> anyhow::Result<()> {
    let pair = pair("0").await?;
    run(&pair.proxied, &DELETE[..2]).await?;
    let refused = pair.proxied.simple_query(DELETE[2]).await;
    ensure!(refused.is_err(), "it was prepared");
    no_fence_is_left(&pair).await?;
    queue(&pair.proxied, "UPDATE t SET v = 1 WHERE id = 1").await
}

#[tokio::test]
async fn a_schema_change_counts_from_the_moment_that_it_is_committed() -> anyhow::Result<()> {
    let pair = pair("5").await?;
    let function = "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN UPDATE other SET v = NEW.v WHERE id = NEW.id; RETURN NEW; END'";
    let trigger = "CREATE TRIGGER told AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION told()";
    let prepare = ["BEGIN", function, trigger, "PREPARE TRANSACTION 'x'"];
    run(&pair.proxied, &prepare).await?;
    let read = "SELECT v FROM other WHERE id = 2";
    let reader = pair.ripen.connect().await?;
    run(&pair.proxied, &["COMMIT PREPARED 'x'"]).await?;
    from_memory(&reader, read).await?;
    run(&pair.proxied, &["UPDATE t SET v = 7 WHERE id = 2"]).await?;
    let found = first(&reader, read).await?;
    ensure!(found.as_deref() == Some("7"), "{found:?}");
    Ok(())
}
