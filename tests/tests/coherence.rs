//! Single exotic ways by which a statement could miss an acknowledged write, or a cached read a passed-through one. Nothing ripens by itself here, and what is
//! read afterwards is pending, so a forgotten barrier or hold shows every time.

use anyhow::{Context, ensure};
use ripen_tests::{Pair, postgres, wait};
use tokio_postgres::{Client, SimpleQueryMessage};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g;
    CREATE TABLE other (id int PRIMARY KEY, v int NOT NULL); INSERT INTO other SELECT g, 0 FROM generate_series(1, 100) g;
    CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v int NOT NULL);
    CREATE FUNCTION app.now() RETURNS int VOLATILE LANGUAGE sql AS 'UPDATE public.t SET v = 1 WHERE id = 4 RETURNING 1';
    CREATE FUNCTION replaced() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
    CREATE TABLE tree (id int PRIMARY KEY, above int REFERENCES tree ON DELETE CASCADE, v int);
    INSERT INTO tree VALUES (1, NULL, 0), (2, 1, 0), (3, 2, 0);
    CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE); INSERT INTO users VALUES (1, 'a'), (2, 'b');
    CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1);
    CREATE TABLE late (id int PRIMARY KEY, name text UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1, 'a');";

async fn pair() -> anyhow::Result<Pair> {
    let settings = [("write_behind", "public.*"), ("write_delay", "1h")];
    Pair::start(SCHEMA, &settings).await
}

/// The first column of the first row; `None` when there is no row.
async fn first(client: &Client, sql: &str) -> anyhow::Result<Option<String>> {
    let answers = client.simple_query(sql).await.context(sql.to_owned())?;
    Ok(answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

async fn run(client: &Client, texts: &[&str]) -> anyhow::Result<()> {
    for sql in texts {
        client.simple_query(sql).await.context((*sql).to_owned())?;
    }
    Ok(())
}

async fn queued(client: &Client, sql: &str) -> anyhow::Result<()> {
    run(client, &[sql]).await?;
    let route = first(client, "SHOW ripen.route").await?;
    ensure!(route.as_deref() == Some("write"), "{sql}: {route:?}");
    Ok(())
}

/// A row that is pending in another session's memory, changed by texts of one session whose last one is acknowledged.
async fn changed_by(pending: &str, texts: &[&str], read: &str) -> anyhow::Result<Option<String>> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    queued(&other, pending).await?;
    run(&pair.proxied, texts).await?;
    first(&other, read).await
}

#[tokio::test]
async fn rows_go_with_those_they_refer_to_in_their_own_table() -> anyhow::Result<()> {
    let pending = "UPDATE tree SET v = 1 WHERE id = 3";
    let read = "SELECT v FROM tree WHERE id = 3";
    let found = changed_by(pending, &["DELETE FROM tree WHERE id = 1"], read).await?;
    ensure!(found.is_none(), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_name_may_mean_another_table_after_ddl_in_the_same_transaction() -> anyhow::Result<()> {
    let texts = [
        "SET search_path = app, public",
        "BEGIN",
        "DROP TABLE app.t",
        "UPDATE t SET v = 1 WHERE id = 2",
        "COMMIT",
    ];
    let found = changed_by(
        "UPDATE t SET v = 5 WHERE id = 2",
        &texts,
        "SELECT v FROM t WHERE id = 2",
    )
    .await?;
    ensure!(found.as_deref() == Some("1"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_function_may_do_more_after_ddl_in_the_same_transaction() -> anyhow::Result<()> {
    let replace = "CREATE OR REPLACE FUNCTION replaced() RETURNS int VOLATILE LANGUAGE sql AS 'UPDATE t SET v = 1 WHERE id = 3 RETURNING 1'";
    let texts = ["BEGIN", replace, "SELECT replaced()", "COMMIT"];
    let found = changed_by(
        "UPDATE t SET v = 5 WHERE id = 3",
        &texts,
        "SELECT v FROM t WHERE id = 3",
    )
    .await?;
    ensure!(found.as_deref() == Some("1"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_built_in_function_may_be_hidden_after_set_in_a_transaction() -> anyhow::Result<()> {
    let texts = [
        "BEGIN",
        "SET LOCAL search_path = app, pg_catalog",
        "SELECT now()",
        "COMMIT",
    ];
    let found = changed_by(
        "UPDATE t SET v = 5 WHERE id = 4",
        &texts,
        "SELECT v FROM t WHERE id = 4",
    )
    .await?;
    ensure!(found.as_deref() == Some("1"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn constraints_look_at_more_than_the_snapshot() -> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    run(
        &pair.proxied,
        &["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"],
    )
    .await?;
    queued(&other, "DELETE FROM users WHERE id = 2").await?;
    run(
        &pair.proxied,
        &["INSERT INTO users VALUES (3, 'b')", "COMMIT"],
    )
    .await
}

#[tokio::test]
async fn what_is_checked_at_commit_sees_what_was_acknowledged_before_it() -> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    run(
        &pair.proxied,
        &["BEGIN", "INSERT INTO children VALUES (2, 7)"],
    )
    .await?;
    run(&other, &["INSERT INTO parents VALUES (7)"]).await?;
    run(
        &pair.proxied,
        &["COMMIT", "BEGIN", "DELETE FROM parents WHERE id = 1"],
    )
    .await?;
    run(&other, &["DELETE FROM children WHERE id = 1"]).await?;
    run(
        &pair.proxied,
        &["COMMIT", "BEGIN", "INSERT INTO late VALUES (2, 'a')"],
    )
    .await?;
    run(&other, &["DELETE FROM late WHERE id = 1"]).await?;
    run(&pair.proxied, &["COMMIT"]).await
}

#[tokio::test]
async fn a_second_begin_does_not_change_the_level() -> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    run(
        &pair.proxied,
        &["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN"],
    )
    .await?;
    queued(&other, "UPDATE t SET v = 1 WHERE id = 5").await?;
    let sum = first(&pair.proxied, "SELECT sum(v) FROM other").await?;
    ensure!(sum.as_deref() == Some("0"), "{sum:?}");
    let sum = first(&pair.proxied, "SELECT sum(v) FROM t").await?;
    ensure!(sum.as_deref() == Some("1"), "{sum:?}");
    Ok(())
}

#[tokio::test]
async fn an_exported_snapshot_holds_what_was_acknowledged_before_it() -> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    queued(&other, "UPDATE t SET v = 1 WHERE id = 6").await?;
    run(&pair.proxied, &["BEGIN"]).await?;
    let snapshot = first(&pair.proxied, "SELECT pg_export_snapshot()").await?;
    let set = format!(
        "SET TRANSACTION SNAPSHOT '{}'",
        snapshot.context("a snapshot")?
    );
    run(&other, &["BEGIN ISOLATION LEVEL REPEATABLE READ", &set]).await?;
    let sum = first(&other, "SELECT sum(v) FROM t").await?;
    ensure!(sum.as_deref() == Some("1"), "{sum:?}");
    Ok(())
}

/// What the second statement finds when the first waits for a lock under which a write is acknowledged.
async fn read_behind_a_lock(take: &[&str], give: &str, wait: &str) -> anyhow::Result<()> {
    use ripen_tests::wire::{self, Wire};
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    let read = "SELECT sum(v) FROM t";
    let pipeline: Vec<u8> = [wait, read]
        .iter()
        .flat_map(|sql| {
            [
                wire::parse("", sql, &[]),
                wire::bind("", "", &[], 0),
                wire::execute("", 0),
            ]
        })
        .flatten()
        .chain(wire::sync())
        .collect();
    let text = wire::query(&format!("{wait}; {read}"));
    for (round, (bytes, expected)) in [(pipeline, "1"), (text, "2")].iter().enumerate() {
        run(&other, take).await?;
        let mut waiting = Wire::connect(pair.ripen.port(), "postgres").await?;
        waiting.send(bytes).await?;
        ripen_tests::wait::until("it waits for the lock", || async {
            let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            Ok((first(&pair.direct, sql).await?.as_deref() == Some("1")).then_some(()))
        })
        .await?;
        run(
            &pair.proxied,
            &[&format!("UPDATE t SET v = 1 WHERE id = {}", 10 + round)],
        )
        .await?;
        run(&other, &[give]).await?;
        let answers = waiting.read_until_ready().await?;
        let last = answers
            .iter()
            .rfind(|message| message.tag == b'D')
            .context("a row")?;
        let found = last.body.last().map(|byte| char::from(*byte).to_string());
        ensure!(
            found.as_deref() == Some(expected),
            "{wait}: {}",
            wire::transcript(&answers)
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_comes_behind_a_lock_sees_what_was_acknowledged_under_it() -> anyhow::Result<()> {
    let lock = "SELECT pg_advisory_lock(1)";
    read_behind_a_lock(&[lock], "SELECT pg_advisory_unlock(1)", lock).await?;
    // By no key: else the row would be locked, and waited for, in memory.
    let row = "UPDATE other SET v = v WHERE id + 0 = 1";
    read_behind_a_lock(&["BEGIN", row], "COMMIT", row).await
}

#[tokio::test]
async fn a_prepared_transaction_can_be_ended_whatever_waits_for_it() -> anyhow::Result<()> {
    let options = postgres::Options::default().set("max_prepared_transactions", "5");
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "1h"),
        ("barrier_timeout", "2s"),
    ];
    let pair = Pair::start_with(options, SCHEMA, &settings).await?;
    let other = pair.ripen.connect().await?;
    for (round, end) in ["COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'"]
        .iter()
        .enumerate()
    {
        // Behind Ripen's back, so that nothing is held for it.
        run(
            &pair.direct,
            &[
                "BEGIN",
                "UPDATE t SET v = v + 1 WHERE id = 7",
                "PREPARE TRANSACTION 'x'",
            ],
        )
        .await?;
        queued(&other, "UPDATE t SET v = v + 10 WHERE id = 7").await?;
        run(&pair.proxied, &[end]).await?;
        let found = first(&pair.proxied, "SELECT sum(v) FROM t WHERE id = 7").await?;
        let expected = ["11", "21"][round];
        ensure!(found.as_deref() == Some(expected), "{found:?}");
    }
    Ok(())
}

const FUNCTION: &str = "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN UPDATE other SET v = v + 1 WHERE id = NEW.id; RETURN NEW; END'";
const TRIGGER: &str = "CREATE TRIGGER told AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION told()";

/// Starts a text that comes to wait for a lock in Postgres.
async fn begin_to_wait(
    pair: &Pair,
    sql: &'static str,
) -> anyhow::Result<tokio::task::JoinHandle<anyhow::Result<Option<String>>>> {
    let client = pair.ripen.connect().await?;
    let waiting = tokio::spawn(async move { first(&client, sql).await });
    ripen_tests::wait::until("it waits for the lock", || async {
        let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        Ok((first(&pair.direct, sql).await?.as_deref() == Some("1")).then_some(()))
    })
    .await?;
    Ok(waiting)
}

#[tokio::test]
async fn what_waits_behind_a_new_trigger_owns_what_the_trigger_writes() -> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    run(&pair.proxied, &[FUNCTION, "BEGIN", TRIGGER]).await?;
    let waiting = begin_to_wait(&pair, "UPDATE t SET v = 1 WHERE id = 8").await?;
    run(&other, &["UPDATE other SET v = 100 WHERE id = 8"]).await?;
    run(&pair.proxied, &["COMMIT"]).await?;
    waiting.await??;
    let found = first(&other, "SELECT v FROM other WHERE id = 8").await?;
    ensure!(found.as_deref() == Some("101"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn what_meets_a_trigger_made_after_it_began_owns_what_the_trigger_writes()
-> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    run(&other, &["SELECT pg_advisory_lock(1)"]).await?;
    let text = "SELECT pg_advisory_lock(1); UPDATE t SET v = 1 WHERE id = 9";
    let waiting = begin_to_wait(&pair, text).await?;
    run(&pair.proxied, &[FUNCTION, TRIGGER]).await?;
    let writer = pair.ripen.connect().await?;
    run(&writer, &["UPDATE other SET v = 100 WHERE id = 9"]).await?;
    run(&other, &["SELECT pg_advisory_unlock(1)"]).await?;
    waiting.await??;
    let found = first(&writer, "SELECT v FROM other WHERE id = 9").await?;
    ensure!(found.as_deref() == Some("101"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn what_waits_behind_a_view_sees_what_the_view_then_reads() -> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    let view = "CREATE OR REPLACE VIEW seen AS SELECT sum(v) AS v FROM";
    run(&pair.proxied, &[&format!("{view} t")]).await?;
    queued(&other, "UPDATE other SET v = 5 WHERE id = 10").await?;
    run(&pair.proxied, &["BEGIN", &format!("{view} other")]).await?;
    let waiting = begin_to_wait(&pair, "SELECT v FROM seen").await?;
    run(&pair.proxied, &["COMMIT"]).await?;
    let found = waiting.await??;
    ensure!(found.as_deref() == Some("5"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn an_index_in_the_making_holds_nobody_elses_rows() -> anyhow::Result<()> {
    let pair = pair().await?;
    let other = pair.ripen.connect().await?;
    let index = "CREATE INDEX ON t (v)";
    run(&pair.proxied, &["BEGIN", index]).await?;
    let _waiting = begin_to_wait(&pair, "UPDATE t SET v = 1 WHERE id = 8").await?;
    queued(&other, "UPDATE other SET v = 100 WHERE id = 8").await
}

/// What makes a table none of Ripen's any more may be done where Ripen does not see it beforehand.
#[tokio::test]
async fn what_is_pending_is_seen_when_its_table_may_not_be_cached_any_more() -> anyhow::Result<()> {
    for (hide, show) in [
        (
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
        ),
        ("CREATE TABLE kid () INHERITS (t)", "DROP TABLE kid"),
    ] {
        let pair = pair().await?;
        queued(&pair.proxied, "UPDATE t SET v = 1 WHERE id = 1").await?;
        queued(&pair.proxied, "UPDATE t SET v = 1 WHERE id = 2").await?;
        queued(&pair.proxied, "UPDATE t SET v = 1 WHERE id = 3").await?;
        run(&pair.direct, &[hide]).await?;
        let passes = async || {
            // Nothing of it is pending.
            first(&pair.proxied, "SELECT v FROM t WHERE id = 99").await?;
            let route = first(&pair.proxied, "SHOW ripen.route").await?;
            Ok((route.as_deref() == Some("pass")).then_some(()))
        };
        wait::until("Ripen knows", passes).await.context(hide)?;
        let v = first(&pair.proxied, "SELECT v FROM t WHERE id = 1").await?;
        ensure!(v.as_deref() == Some("1"), "{hide}: by key {v:?}");
        run(&pair.proxied, &["UPDATE t SET v = v + 1 WHERE id = 2"]).await?;
        let sum = first(&pair.proxied, "SELECT sum(v) FROM t").await?;
        ensure!(sum.as_deref() == Some("4"), "{hide}: sum {sum:?}");
        run(&pair.proxied, &["UPDATE t SET v = 5 WHERE id = 1"]).await?;
        run(&pair.direct, &[show]).await?;
        let cached = async || {
            let v = first(&pair.proxied, "SELECT v FROM t WHERE id = 1").await?;
            ensure!(v.as_deref() == Some("5"), "{show}: by key {v:?}");
            let route = first(&pair.proxied, "SHOW ripen.route").await?;
            Ok((route.as_deref() == Some("read")).then_some(()))
        };
        wait::until("Ripen knows", cached).await.context(show)?;
        let sum = first(&pair.proxied, "SELECT sum(v) FROM t").await?;
        ensure!(sum.as_deref() == Some("8"), "{show}: sum {sum:?}");
    }
    Ok(())
}
