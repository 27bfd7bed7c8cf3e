//! Transactions at READ COMMITTED through Ripen: whole blocks from memory, one commit group each, with Postgres's waits, errors and row counts; and what becomes of them when
//! something needs Postgres, when they are broken off, and when the process dies.

use anyhow::{Context, ensure};
use ripen_tests::{Both, Pair, wait};
use std::time::Duration;
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text);
    INSERT INTO t SELECT g, 10 * g, 'n' || g FROM generate_series(1, 9) g;
    CREATE TABLE u (a int, b text, v numeric(10, 2), tags int[], PRIMARY KEY (a, b));
    INSERT INTO u VALUES (1, 'x', 1.50, '{1,2}'), (2, 'y', NULL, NULL);
    CREATE TABLE checked (id int PRIMARY KEY, v int CHECK (v < 100), made timestamptz DEFAULT now())";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "100ms")];

async fn both() -> anyhow::Result<Both> {
    Both::start(SCHEMA, &["t", "u"], SETTINGS).await
}

#[tokio::test]
async fn a_block_sees_its_own_writes_and_commits_them_together() -> anyhow::Result<()> {
    let both = both().await?;
    both.same_from_memory(
        "a: BEGIN
         a: UPDATE t SET v = v + 1 WHERE id = 1
         a: UPDATE t SET v = v + 1, note = 'again' WHERE id = 1
         a: INSERT INTO t VALUES (20, 1, 'new')
         a: UPDATE t SET v = v * 2 WHERE id = 20
         a: DELETE FROM t WHERE id = 2
         a: INSERT INTO t (id, v) VALUES (2, 5)
         a: DELETE FROM t WHERE id = 3
         a: INSERT INTO t VALUES (21, 1)
         a: DELETE FROM t WHERE id = 21
         a: UPDATE u SET v = v + 1.25 WHERE a = 1 AND b = 'x'
         a: SELECT * FROM t WHERE id IN (1, 2, 3, 20, 21) ORDER BY id
         b: SELECT * FROM t WHERE id IN (1, 2, 3, 20, 21) ORDER BY id
         b: UPDATE t SET v = 0 WHERE id = 20
         a: COMMIT
         b: SELECT * FROM t WHERE id IN (1, 2, 3, 20, 21) ORDER BY id
         b: SELECT * FROM u WHERE a = 1 AND b = 'x'",
    )
    .await?;
    both.same_from_memory(
        "a: BEGIN
         a: UPDATE t SET v = 77 WHERE id = 5 RETURNING *
         a: INSERT INTO t VALUES (30, 3) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v
         a: INSERT INTO t VALUES (30, 4) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v RETURNING v
         a: UPDATE t SET v = 1 WHERE id = 99
         a: ROLLBACK
         a: SELECT * FROM t WHERE id IN (5, 30)
         a: COMMIT",
    )
    .await?;
    both.pair.ripen.number("pending_rows").await?;
    Ok(())
}

#[tokio::test]
async fn writers_wait_for_each_other_and_go_on_with_the_newest_row() -> anyhow::Result<()> {
    let both = both().await?;
    // A block behind a block, a lone statement behind that. (Which of two waiting goes on first, Postgres leaves to chance.)
    both.same_from_memory(
        "a: BEGIN
         b: BEGIN
         a: UPDATE t SET v = v + 1 WHERE id = 1
         b~ UPDATE t SET v = v * 2 WHERE id = 1 RETURNING v
         a: COMMIT
         b!
         c~ UPDATE t SET v = v + 1000 WHERE id = 1 RETURNING v
         b: SELECT v FROM t WHERE id = 1
         b: COMMIT
         c: SELECT v FROM t WHERE id = 1",
    )
    .await?;
    // The row does not satisfy the condition any more, or is gone, or did not satisfy it to begin with.
    both.same_from_memory(
        "a: BEGIN
         a: UPDATE t SET note = 'taken' WHERE id = 2
         a: DELETE FROM t WHERE id = 3
         b~ UPDATE t SET note = 'mine' WHERE id = 2 AND note = 'n2'
         c~ DELETE FROM t WHERE id = 3
         d: UPDATE t SET note = 'd' WHERE id = 2 AND note = 'taken'
         a: COMMIT
         b: SELECT * FROM t WHERE id = 2
         c: SELECT * FROM t WHERE id = 3",
    )
    .await?;
    // Who rolls back leaves the row as it was.
    both.same_from_memory(
        "a: BEGIN
         a: UPDATE t SET v = 0 WHERE id = 4
         b~ UPDATE t SET v = v + 1 WHERE id = 4 RETURNING v
         a: ROLLBACK
         b: SELECT v FROM t WHERE id = 4",
    )
    .await?;
    // Who waits for a row that is deleted does not find the one that is put in its place.
    both.same_from_memory(
        "a: BEGIN
         a: DELETE FROM t WHERE id = 8
         a: INSERT INTO t VALUES (8, 800)
         b~ UPDATE t SET v = 0 WHERE id = 8
         c: BEGIN
         c~ SELECT v FROM t WHERE id = 8 FOR UPDATE
         a: COMMIT
         b: SELECT v FROM t WHERE id = 8
         c: COMMIT",
    )
    .await?;
    // Several rows: those that satisfied the condition when the statement began.
    both.same_from_memory(
        "a: BEGIN
         a: UPDATE t SET v = 500 WHERE id = 6
         a: UPDATE t SET v = 0 WHERE id = 7
         b~ UPDATE t SET note = 'big' WHERE id IN (6, 7) AND v > 65 RETURNING id
         a: COMMIT
         b: SELECT * FROM t WHERE id IN (6, 7) ORDER BY id",
    )
    .await
}

#[tokio::test]
async fn inserts_wait_for_whoever_has_written_their_key() -> anyhow::Result<()> {
    let both = both().await?;
    both.same(
        "a: BEGIN
         a: INSERT INTO t VALUES (40, 1)
         b~ INSERT INTO t VALUES (40, 2)
         a: COMMIT
         b: SELECT v FROM t WHERE id = 40",
    )
    .await?;
    both.same_from_memory(
        "a: BEGIN
         a: INSERT INTO t VALUES (41, 1)
         b~ INSERT INTO t VALUES (41, 2)
         a: ROLLBACK
         b: SELECT v FROM t WHERE id = 41",
    )
    .await?;
    both.same_from_memory(
        "a: BEGIN
         a: DELETE FROM t WHERE id = 1
         b: BEGIN
         b~ INSERT INTO t VALUES (1, 7) ON CONFLICT (id) DO NOTHING
         a: COMMIT
         b: COMMIT
         b: SELECT v FROM t WHERE id = 1",
    )
    .await?;
    both.same_from_memory(
        "a: BEGIN
         a: INSERT INTO t VALUES (42, 1)
         b: UPDATE t SET v = 5 WHERE id = 42
         b~ INSERT INTO t VALUES (42, 7) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v RETURNING v
         a: COMMIT
         b: SELECT v FROM t WHERE id = 42",
    )
    .await
}

#[tokio::test]
async fn who_closes_a_circle_gets_a_deadlock() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let (a, b) = (pair.ripen.connect().await?, pair.ripen.connect().await?);
    for (client, id) in [(&a, 1), (&b, 2)] {
        client.batch_execute("BEGIN").await?;
        let own = format!("UPDATE t SET v = v + 1 WHERE id = {id}");
        client.batch_execute(&own).await?;
    }
    let waits = tokio::spawn(async move {
        let waited = a.batch_execute("UPDATE t SET v = v + 1 WHERE id = 2").await;
        (a, waited)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(!waits.is_finished(), "does not wait");
    let victim = b.batch_execute("UPDATE t SET v = v + 1 WHERE id = 1").await;
    let error = victim.err().context("no deadlock")?;
    ensure!(
        error.code().map(|code| code.code()) == Some("40P01"),
        "{error}"
    );
    let (a, waited) = waits.await?;
    waited.context("the other goes on at once")?;
    // The victim's transaction has failed, as Postgres words it.
    let failed = b.batch_execute("SELECT v FROM t WHERE id = 3").await;
    let code = failed.err().and_then(|error| error.code().cloned());
    ensure!(
        code.as_ref().map(|code| code.code()) == Some("25P02"),
        "{code:?}"
    );
    b.batch_execute("COMMIT").await?;
    a.batch_execute("COMMIT").await?;
    pair.flush().await?;
    let rows = pair
        .direct
        .query("SELECT v FROM t WHERE id IN (1, 2) ORDER BY id", &[]);
    let values: Vec<i32> = rows.await?.iter().map(|row| row.get(0)).collect();
    ensure!(values == [11, 21], "{values:?}");
    Ok(())
}

#[tokio::test]
async fn waits_end_with_their_timeouts_and_with_cancel_requests() -> anyhow::Result<()> {
    let both = both().await?;
    both.same(
        "b: SET lock_timeout = '200ms'
         c: SET statement_timeout = '200ms'
         a: BEGIN
         a: UPDATE t SET v = 0 WHERE id = 1
         b: UPDATE t SET v = 1 WHERE id = 1
         c: UPDATE t SET v = 1 WHERE id = 1
         b: BEGIN
         b: UPDATE t SET v = 1 WHERE id = 2
         b: UPDATE t SET v = 1 WHERE id = 1
         b: SELECT 1
         b: COMMIT
         a: COMMIT
         b: UPDATE t SET v = v + 2 WHERE id = 1
         c: UPDATE t SET v = v + 2 WHERE id = 1",
    )
    .await?;
    let pair = &both.pair;
    let holder = pair.ripen.connect().await?;
    holder.batch_execute("BEGIN; ").await?;
    holder
        .batch_execute("UPDATE t SET v = 0 WHERE id = 5")
        .await?;
    let waiter = pair.ripen.connect().await?;
    let cancel = waiter.cancel_token();
    let waits = tokio::spawn(async move {
        waiter
            .batch_execute("UPDATE t SET v = 1 WHERE id = 5")
            .await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cancel.cancel_query(tokio_postgres::NoTls).await?;
    let ended = tokio::time::timeout(wait::DEADLINE, waits).await??;
    let code = ended.err().and_then(|error| error.code().cloned());
    ensure!(
        code.as_ref().map(|code| code.code()) == Some("57014"),
        "{code:?}"
    );
    holder.batch_execute("ROLLBACK").await?;
    Ok(())
}

#[tokio::test]
async fn rows_are_locked_as_asked() -> anyhow::Result<()> {
    let both = both().await?;
    both.same_from_memory(
        "a: BEGIN
         a: SELECT v FROM t WHERE id = 1 FOR UPDATE
         b: SELECT v FROM t WHERE id = 1
         b~ UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v
         a: UPDATE t SET v = v * 10 WHERE id = 1
         a: COMMIT
         b: SELECT v FROM t WHERE id = 1",
    )
    .await?;
    both.same_from_memory(
        "a: BEGIN
         b: BEGIN
         c: BEGIN
         a: SELECT v FROM t WHERE id = 2 FOR SHARE
         b: SELECT v FROM t WHERE id = 2 FOR SHARE
         c~ SELECT v FROM t WHERE id = 2 FOR NO KEY UPDATE
         a: COMMIT
         b: COMMIT
         c: UPDATE t SET v = 0 WHERE id = 2
         c: COMMIT",
    )
    .await?;
    both.same_from_memory(
        "a: BEGIN
         a: UPDATE t SET note = 'x' WHERE id = 3
         b: BEGIN
         b: SELECT id FROM t WHERE id IN (3, 4, 5) FOR UPDATE SKIP LOCKED
         c: BEGIN
         c: SELECT id FROM t WHERE id = 3 FOR KEY SHARE
         c: COMMIT
         a: COMMIT
         b: COMMIT",
    )
    .await?;
    both.same_from_memory(
        "a: BEGIN
         a: SELECT v FROM t WHERE id = 6 FOR UPDATE
         b: BEGIN
         b~ SELECT v FROM t WHERE id = 6 AND note = 'n6' FOR UPDATE
         a: UPDATE t SET note = 'other', v = 1 WHERE id = 6
         a: COMMIT
         b: SELECT v FROM t WHERE id = 6 FOR UPDATE
         b: ROLLBACK",
    )
    .await?;
    both.same(
        "a: BEGIN
         a: SELECT v FROM t WHERE id = 7 FOR UPDATE
         b: BEGIN
         b: UPDATE t SET v = 0 WHERE id = 8
         b: SELECT v FROM t WHERE id = 7 FOR UPDATE NOWAIT
         b: SELECT 1
         b: COMMIT
         a: COMMIT",
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn savepoints_lead_back() -> anyhow::Result<()> {
    let both = both().await?;
    both.same_from_memory(
        "a: BEGIN
         a: UPDATE t SET v = 1 WHERE id = 1
         a: SAVEPOINT s
         a: UPDATE t SET v = 2 WHERE id = 1
         a: UPDATE t SET v = 2 WHERE id = 2
         a: INSERT INTO t VALUES (50, 1)
         b~ UPDATE t SET note = 'b' WHERE id = 2
         a: ROLLBACK TO SAVEPOINT s
         b: SELECT * FROM t WHERE id = 2
         a: SELECT * FROM t WHERE id IN (1, 2, 50) ORDER BY id
         a: SAVEPOINT s
         a: DELETE FROM t WHERE id = 3
         a: RELEASE s
         a: UPDATE t SET v = 3 WHERE id = 4
         a: ROLLBACK TO s
         a: SELECT * FROM t WHERE id IN (3, 4) ORDER BY id
         a: DELETE FROM t WHERE id = 5
         a: RELEASE s
         a: COMMIT",
    )
    .await?;
    // What is released stays; an unknown name is Postgres's to refuse, and whoever comes back from an error has what came before the savepoint.
    both.same_with_promotion(
        "a: BEGIN
         a: UPDATE t SET v = 100 WHERE id = 6
         a: SAVEPOINT \"Odd \"\" name\"
         a: UPDATE t SET v = 200 WHERE id = 6
         a: SAVEPOINT inner
         a: UPDATE t SET v = 300 WHERE id = 7
         a: INSERT INTO t VALUES (6, 0)
         a: SELECT 1
         a: ROLLBACK TO inner
         a: SELECT * FROM t WHERE id IN (6, 7) ORDER BY id
         a: ROLLBACK TO \"Odd \"\" name\"
         a: SELECT * FROM t WHERE id IN (6, 7) ORDER BY id
         a: RELEASE nowhere
         a: COMMIT",
    )
    .await
}

#[tokio::test]
async fn what_needs_postgres_moves_the_whole_block_there() -> anyhow::Result<()> {
    let both = both().await?;
    both.same_with_promotion(
        "a: BEGIN
         a: UPDATE t SET v = v + 5, note = NULL WHERE id = 1
         a: INSERT INTO t VALUES (60, 6, 'six')
         a: DELETE FROM t WHERE id = 2
         a: INSERT INTO t VALUES (2, 22)
         a: UPDATE u SET v = v + 1.25, tags = '{3}' WHERE a = 1 AND b = 'x'
         a: SELECT sum(v), count(*) FROM t
         a: UPDATE t SET v = v + 1 WHERE v > 50
         a: SELECT * FROM t WHERE id IN (1, 2, 60) ORDER BY id
         b: SELECT * FROM t WHERE id IN (1, 2, 60) ORDER BY id
         b: UPDATE t SET v = 0 WHERE id = 60
         b~ UPDATE t SET v = 0 WHERE id = 2
         a: COMMIT
         b: SELECT * FROM t WHERE id IN (1, 2, 60) ORDER BY id",
    )
    .await?;
    // Rolled back there, nothing is left.
    both.same_with_promotion(
        "a: BEGIN
         a: UPDATE t SET v = 0 WHERE id = 3
         a: SELECT count(*) FROM t
         a: ROLLBACK
         a: SELECT * FROM t WHERE id = 3",
    )
    .await?;
    // An error that Postgres words.
    both.same_with_promotion(
        "a: BEGIN
         a: INSERT INTO checked (id, v) VALUES (1, 5)
         a: UPDATE t SET v = 0 WHERE id = 4
         a: UPDATE checked SET v = 500 WHERE id = 1
         a: SELECT 1
         a: COMMIT
         a: SELECT id, v FROM checked
         a: SELECT * FROM t WHERE id = 4",
    )
    .await?;
    both.same_with_promotion(
        "a: BEGIN
         a: UPDATE t SET v = 0 WHERE id = 4
         a: SET LOCAL lock_timeout = '5s'
         a: SHOW lock_timeout
         a: COMMIT
         a: SHOW lock_timeout",
    )
    .await?;
    // What runs in between may end the session's statements, or not.
    both.same_with_promotion(
        "a: BEGIN
         a: UPDATE t SET v = 7 WHERE id = 4
         a: SELECT sum(v) FROM t
         a: COMMIT
         a: DO $$ BEGIN PERFORM 1; END $$
         a: BEGIN
         a: UPDATE t SET v = 8 WHERE id = 4
         a: SELECT sum(v) FROM t
         a: COMMIT
         a: DEALLOCATE ALL
         a: BEGIN
         a: UPDATE t SET v = 9 WHERE id = 4
         a: SELECT sum(v) FROM t
         a: COMMIT",
    )
    .await
}

#[tokio::test]
async fn a_block_steps_aside_for_whoever_comes_by_postgres() -> anyhow::Result<()> {
    let both = both().await?;
    // Its client does nothing meanwhile, so only the block's own move to Postgres lets the others see what Postgres would let them see.
    both.same_with_promotion(
        "a: BEGIN
         a: UPDATE t SET v = 1 WHERE id = 1
         b~ UPDATE t SET v = v + 100 WHERE id + 0 = 1
         c: SELECT count(*) FROM t
         a: UPDATE t SET v = 2 WHERE id = 2
         a: COMMIT
         b: SELECT * FROM t WHERE id = 1",
    )
    .await?;
    // The circle is closed across the two: Postgres sees it, since both are there.
    let plan = "a: BEGIN
         b: BEGIN
         a: UPDATE t SET v = 5 WHERE id = 5
         b: UPDATE t SET v = 6 WHERE v = 60
         b~ UPDATE t SET v = 6 WHERE id = 5
         a: ROLLBACK
         b: COMMIT";
    both.same(plan).await?;
    Ok(())
}

#[tokio::test]
async fn modes_that_are_postgres_s_business_stay_there() -> anyhow::Result<()> {
    let both = both().await?;
    both.same(
        "a: BEGIN ISOLATION LEVEL REPEATABLE READ
         a: SELECT v FROM t WHERE id = 1
         b: UPDATE t SET v = v + 1 WHERE id = 1
         a: SELECT v FROM t WHERE id = 1
         a: UPDATE t SET v = v + 1 WHERE id = 1
         a: ROLLBACK
         c: BEGIN READ ONLY
         c: SELECT v FROM t WHERE id = 1
         c: UPDATE t SET v = 1 WHERE id = 1
         c: COMMIT
         d: BEGIN
         d: SET TRANSACTION READ ONLY
         d: UPDATE t SET v = 1 WHERE id = 1
         d: COMMIT
         e: BEGIN
         e: SET TRANSACTION ISOLATION LEVEL REPEATABLE READ
         e: SELECT v FROM t WHERE id = 1
         b: UPDATE t SET v = v + 1 WHERE id = 1
         e: SELECT v FROM t WHERE id = 1
         e: COMMIT",
    )
    .await?;
    // Once something was asked, the level stands; a block that has asked nothing may still set it.
    both.same(
        "a: BEGIN
         a: SELECT v FROM t WHERE id = 1
         a: BEGIN ISOLATION LEVEL REPEATABLE READ
         a: SELECT v FROM t WHERE id = 1
         a: ROLLBACK
         b: BEGIN
         b: DELETE FROM t WHERE id = 99
         b: SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
         b: ROLLBACK
         c: BEGIN -- what follows is a comment
         c: SELECT v FROM t WHERE id = 1
         c: SELECT sum(v) FROM t WHERE v + 0 > 0
         c: COMMIT
         d: BEGIN
         d: SAVEPOINT s
         d: ROLLBACK TO SAVEPOINT s
         d: SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
         d: COMMIT",
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn now_is_when_the_block_began() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let client = &pair.proxied;
    client.batch_execute("BEGIN").await?;
    for id in 1..=2 {
        let insert = format!("INSERT INTO checked (id, v) VALUES ({id}, 1)");
        client.batch_execute(&insert).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.batch_execute("COMMIT").await?;
    client
        .batch_execute("INSERT INTO checked (id, v) VALUES (3, 1)")
        .await?;
    pair.flush().await?;
    let sql =
        "SELECT count(DISTINCT made), count(DISTINCT made) FILTER (WHERE id < 3) FROM checked";
    let row = pair.direct.query_one(sql, &[]).await?;
    let counts: (i64, i64) = (row.get(0), row.get(1));
    ensure!(counts == (2, 1), "{counts:?}");
    ensure!(pair.promotions().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_leaves_nothing() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let gone = pair.ripen.connect().await?;
    gone.batch_execute("BEGIN").await?;
    gone.batch_execute("UPDATE t SET v = 0 WHERE id = 1")
        .await?;
    drop(gone);
    let update = pair
        .proxied
        .batch_execute("UPDATE t SET v = v + 1 WHERE id = 1");
    tokio::time::timeout(wait::DEADLINE, update).await??;
    let row = pair.proxied.query_one("SELECT v FROM t WHERE id = 1", &[]);
    ensure!(row.await?.get::<_, i32>(0) == 11);
    Ok(())
}

#[tokio::test]
async fn an_outside_change_below_a_block_fails_it() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let client = &pair.proxied;
    client.batch_execute("BEGIN").await?;
    client
        .batch_execute("UPDATE t SET v = v * 2 WHERE id = 1")
        .await?;
    client
        .batch_execute("UPDATE t SET v = v + 1 WHERE id = 2")
        .await?;
    pair.direct
        .batch_execute("UPDATE t SET v = 1000 WHERE id IN (1, 2)")
        .await?;
    let look = pair.ripen.connect().await?;
    wait::until("the outside change", || async {
        let row = look.query_one("SELECT v FROM t WHERE id = 1", &[]).await?;
        Ok((row.get::<_, i32>(0) == 1000).then_some(()))
    })
    .await?;
    let code = client.batch_execute("COMMIT").await.err();
    let code = code.and_then(|error| error.code().cloned());
    ensure!(
        code.as_ref().map(|code| code.code()) == Some("40001"),
        "{code:?}"
    );
    // Increments go with it.
    client.batch_execute("BEGIN").await?;
    client
        .batch_execute("UPDATE t SET v = v + 1 WHERE id = 2")
        .await?;
    client.batch_execute("COMMIT").await?;
    pair.flush().await?;
    let row = pair.direct.query_one("SELECT v FROM t WHERE id = 2", &[]);
    ensure!(row.await?.get::<_, i32>(0) == 1001);
    Ok(())
}

/// Moves an amount from one account to another.
async fn transfer(
    client: &Client,
    from: i32,
    to: i32,
    number: i64,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    let take = format!("UPDATE accounts SET v = v - 1 WHERE id = {from}");
    client.batch_execute(&take).await?;
    let give = format!("UPDATE accounts SET v = v + 1 WHERE id = {to}");
    client.batch_execute(&give).await?;
    let note = format!("INSERT INTO done VALUES ({number})");
    client.batch_execute(&note).await?;
    client.batch_execute("COMMIT").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_middle_of_commits_leave_all_or_nothing() -> anyhow::Result<()> {
    let schema = "CREATE TABLE accounts (id int PRIMARY KEY, v int NOT NULL);
        INSERT INTO accounts SELECT g, 0 FROM generate_series(0, 7) g;
        CREATE TABLE done (n bigint PRIMARY KEY)";
    let mut pair = Pair::start(schema, SETTINGS).await?;
    let mut acknowledged: Vec<i64> = Vec::new();
    for round in 0..3i64 {
        pair.ripen
            .set_failpoints(Some(&format!("log-before-sync=kill@{}", 30 + 7 * round)));
        pair.ripen.kill9().await?;
        pair.ripen.restart().await?;
        // All connect before the first begins: the kill may come soon.
        let mut connected = Vec::new();
        for who in 0..4i64 {
            connected.push((who, pair.ripen.connect().await?));
        }
        let mut clients = Vec::new();
        for (who, client) in connected {
            clients.push(tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    let number = (round * 4 + who) * 1_000_000 + n;
                    // Always the lower account first, so nobody deadlocks.
                    let (from, to) = ((who + n) % 7, (who + n) % 7 + 1);
                    let moved = transfer(&client, from as i32, to as i32, number).await;
                    match moved {
                        Ok(()) => acknowledged.push(number),
                        Err(_) => break,
                    }
                }
                acknowledged
            }));
        }
        for client in clients {
            acknowledged.extend(client.await?);
        }
        pair.ripen.wait_death("log-before-sync").await?;
    }
    pair.ripen.set_failpoints(None);
    pair.ripen.restart().await?;
    pair.proxied = pair.ripen.connect().await?;
    pair.flush().await?;
    let rows = pair.direct.query("SELECT n FROM done", &[]).await?;
    let done: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(!acknowledged.is_empty(), "nobody has got anything done");
    for number in &acknowledged {
        ensure!(
            done.contains(number),
            "{number} was acknowledged and is lost"
        );
    }
    let mut expected = [0i32; 8];
    for number in &done {
        let (who, n) = ((number / 1_000_000) % 4, number % 1_000_000);
        let from = ((who + n) % 7) as usize;
        expected[from] -= 1;
        expected[from + 1] += 1;
    }
    let rows = pair.direct.query("SELECT v FROM accounts ORDER BY id", &[]);
    let values: Vec<i32> = rows.await?.iter().map(|row| row.get(0)).collect();
    ensure!(values == expected, "{values:?} {expected:?}");
    Ok(())
}
