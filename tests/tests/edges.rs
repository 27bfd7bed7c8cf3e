//! Corners of the queue and the hot cache, each of which once lost, repeated or hid a write.

use anyhow::{Context, ensure};
use ripen_tests::pair::queue;
use ripen_tests::postgres::Options;
use ripen_tests::{Pair, Postgres, Ripen, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL); INSERT INTO t SELECT g, 0, 0 FROM generate_series(1, 20) g";

async fn row(client: &Client, id: i32) -> anyhow::Result<(i32, i32)> {
    let row = client
        .query_one("SELECT a, b FROM t WHERE id = $1", &[&id])
        .await?;
    Ok((row.get(0), row.get(1)))
}

#[tokio::test]
async fn a_barrier_reaches_behind_rows_whose_changes_cancelled_out() -> anyhow::Result<()> {
    let settings = [SETTINGS, &[("write_max_batch", "1")]].concat();
    let pair = Pair::start(SCHEMA, &settings).await?;
    for id in [101, 102] {
        queue(&pair.proxied, &format!("INSERT INTO t VALUES ({id}, 1, 1)")).await?;
        queue(&pair.proxied, &format!("DELETE FROM t WHERE id = {id}")).await?;
    }
    queue(&pair.proxied, "UPDATE t SET a = 7 WHERE id = 1").await?;
    let sum = "SELECT sum(a)::int FROM t";
    let sum = pair.proxied.query_one(sum, &[]).await?;
    ensure!(sum.get::<_, i32>(0) == 7);
    Ok(())
}

#[tokio::test]
async fn what_is_too_large_for_the_queue_passes_through() -> anyhow::Result<()> {
    let schema = "CREATE TABLE big (id int PRIMARY KEY, v text NOT NULL); INSERT INTO big VALUES (1, repeat('x', 1 << 25))";
    let pair = Pair::start(schema, SETTINGS).await?;
    let append =
        "INSERT INTO big VALUES (1, 'y') ON CONFLICT (id) DO UPDATE SET v = big.v || excluded.v";
    queue(&pair.proxied, append).await?;
    let double = "UPDATE big SET v = v || v WHERE id = 1";
    pair.proxied.batch_execute(double).await?;
    let route = pair.proxied.query_one("SHOW ripen.route", &[]).await?;
    ensure!(route.get::<_, &str>(0) != "write", "{route:?}");
    let bytes = "SELECT length(v) FROM big WHERE id = 1";
    let bytes = pair.direct.query_one(bytes, &[]).await?;
    ensure!(bytes.get::<_, i32>(0) == 2 * ((1 << 25) + 1));
    Ok(())
}

#[tokio::test]
async fn a_replayed_dead_letter_changes_only_what_it_assigned() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    queue(&pair.proxied, "UPDATE t SET a = 5 WHERE id = 1").await?;
    queue(&pair.proxied, "UPDATE t SET a = a + 5 WHERE id = 2").await?;
    // Behind Ripen's back, so that what it has acknowledged is refused.
    let forbid = "ALTER TABLE t ADD CONSTRAINT small CHECK (a < 5)";
    pair.direct.batch_execute(forbid).await?;
    pair.flush().await?;
    let letters = "SELECT id FROM ripen.dead_letter WHERE resolution IS NULL ORDER BY id";
    let letters: Vec<i64> = pair
        .direct
        .query(letters, &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    ensure!(letters.len() == 2, "{letters:?}");
    pair.proxied
        .batch_execute("ALTER TABLE t DROP CONSTRAINT small")
        .await?;
    wait::until("writes are queued again", || async {
        Ok(queue(&pair.proxied, "UPDATE t SET b = 9 WHERE id = 1")
            .await
            .ok())
    })
    .await?;
    queue(&pair.proxied, "UPDATE t SET a = 100 WHERE id = 2").await?;
    for letter in letters {
        pair.proxied
            .batch_execute(&format!("CALL ripen.replay({letter})"))
            .await?;
    }
    for id in [1, 2] {
        let wanted = [(5, 9), (105, 0)][id as usize - 1];
        let found = row(&pair.proxied, id).await?;
        ensure!(found == wanted, "memory has {found:?}, wanted {wanted:?}");
    }
    pair.flush().await?;
    for id in [1, 2] {
        let wanted = [(5, 9), (105, 0)][id as usize - 1];
        let found = row(&pair.direct, id).await?;
        ensure!(found == wanted, "Postgres has {found:?}, wanted {wanted:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_replay_cut_short_has_happened_or_can_be_repeated() -> anyhow::Result<()> {
    let mut pair = Pair::start(SCHEMA, SETTINGS).await?;
    let places = ["replay-written", "replay-before-commit", "replay-committed"];
    let ends = ["kill", "cut"];
    let cases = places.iter().flat_map(|place| ends.map(|end| (place, end)));
    for (id, (place, end)) in (1..).zip(cases) {
        let add = format!("UPDATE t SET a = a + 5 WHERE id = {id}");
        queue(&pair.ripen.connect().await?, &add).await?;
        let forbid = "ALTER TABLE t ADD CONSTRAINT small CHECK (a < 5) NOT VALID";
        pair.direct.batch_execute(forbid).await?;
        pair.ripen
            .connect()
            .await?
            .batch_execute("CALL ripen.flush()")
            .await?;
        pair.direct
            .batch_execute("ALTER TABLE t DROP CONSTRAINT small")
            .await?;
        let letter: i64 = pair
            .direct
            .query_one("SELECT max(id) FROM ripen.dead_letter", &[])
            .await?
            .get(0);
        pair.ripen.kill9().await?;
        pair.ripen.set_failpoints(Some(&format!("{place}={end}")));
        pair.ripen.restart().await?;
        let replay = format!("CALL ripen.replay({letter})");
        let replayed = pair.ripen.connect().await?.batch_execute(&replay).await;
        let committed = *place == "replay-committed";
        ensure!(
            replayed.is_ok() == (committed && end == "cut"),
            "{place} {end}: {replayed:?}"
        );
        pair.ripen.set_failpoints(None);
        if end == "kill" {
            pair.ripen.wait_death(place).await?;
            pair.ripen.restart().await?;
        }
        let client = pair.ripen.connect().await?;
        let repeated = client.batch_execute(&replay).await;
        ensure!(repeated.is_ok() != committed, "{place} {end}: {repeated:?}");
        for client in [&client, &pair.direct] {
            let found = row(client, id).await?;
            ensure!(found == (5, 0), "{place} {end}: {found:?}");
        }
        // A new process has no fence of the replay's up.
        pair.ripen.kill9().await?;
        pair.ripen.restart().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_count_of_flushes_does_not_end_the_flushing() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let steps = [
        // As Postgres restored from a backup would have it, and one from before Ripen was there.
        "UPDATE ripen.progress SET applied = 0",
        "DELETE FROM ripen.progress",
    ];
    for (round, step) in steps.into_iter().enumerate() {
        for _ in 0..3 {
            queue(&pair.proxied, "UPDATE t SET a = a + 1 WHERE id = 1").await?;
            pair.flush().await?;
        }
        pair.direct.batch_execute(step).await?;
        queue(&pair.proxied, "UPDATE t SET a = a + 1 WHERE id = 1").await?;
        let flushed = tokio::time::timeout(wait::DEADLINE / 4, pair.flush()).await;
        flushed.context(step)?.context(step)?;
        let wanted = 4 * (round as i32 + 1);
        ensure!(row(&pair.direct, 1).await?.0 == wanted, "{step}");
        ensure!(row(&pair.proxied, 1).await?.0 == wanted, "{step}");
    }
    Ok(())
}

/// Carries everything between Ripen and Postgres, but cuts and refuses replication connections while `away` says so.
async fn relay(listener: TcpListener, to: u16, away: watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        let (mut ripen, _) = listener.accept().await?;
        let mut postgres = TcpStream::connect(("127.0.0.1", to)).await?;
        let mut away = away.clone();
        tokio::spawn(async move {
            let mut first = vec![0; 4096];
            let length = ripen.read(&mut first).await?;
            let replicates = first[..length]
                .windows(11)
                .any(|part| part == b"replication");
            postgres.write_all(&first[..length]).await?;
            tokio::select! {
                _ = away.wait_for(|away| *away && replicates) => {}
                _ = tokio::io::copy_bidirectional(&mut ripen, &mut postgres) => {}
            }
            anyhow::Ok(())
        });
    }
}

#[tokio::test]
async fn memory_grows_old_while_the_stream_is_away_and_postgres_is_not() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    let direct = postgres.connect().await?;
    direct.batch_execute(SCHEMA).await?;
    // Soon enough Postgres sees that the other side of the slot is gone.
    direct
        .batch_execute("ALTER SYSTEM SET wal_sender_timeout = '3s'")
        .await?;
    direct.batch_execute("SELECT pg_reload_conf()").await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable",
        listener.local_addr()?.port()
    );
    let (away, watched) = watch::channel(false);
    tokio::spawn(relay(listener, postgres.port(), watched));
    let ripen = Ripen::start(&url, &[("max_staleness", "1s")]).await?;
    let client = ripen.connect().await?;
    let read = || async {
        let found = row(&client, 1).await?;
        let route = client.query_one("SHOW ripen.route", &[]).await?;
        anyhow::Ok((found, route.get::<_, String>(0)))
    };
    wait::until("the row is read from memory", || async {
        Ok((read().await? == ((0, 0), "read".to_owned())).then_some(()))
    })
    .await?;
    away.send(true)?;
    direct
        .batch_execute("UPDATE t SET a = 1 WHERE id = 1")
        .await?;
    wait::until("the row is not read from memory any more", || async {
        Ok((read().await?.0 == (1, 0)).then_some(()))
    })
    .await?;
    away.send(false)?;
    wait::until("the row is read from memory again", || async {
        Ok((read().await? == ((1, 0), "read".to_owned())).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_guarded_row_whose_table_has_another_key_now_is_a_dead_letter() -> anyhow::Result<()> {
    let settings = [SETTINGS, &[("conflict", "database")]].concat();
    let schema = format!(
        "{SCHEMA}; CREATE TABLE other (id int PRIMARY KEY, v int); INSERT INTO other VALUES (1, 0)"
    );
    let pair = Pair::start(&schema, &settings).await?;
    queue(&pair.proxied, "UPDATE t SET a = 5 WHERE id = 1").await?;
    queue(&pair.proxied, "UPDATE other SET v = 5 WHERE id = 1").await?;
    pair.direct
        .batch_execute("ALTER TABLE t ALTER id TYPE bigint")
        .await?;
    let flushed = tokio::time::timeout(wait::DEADLINE / 4, pair.flush()).await;
    flushed.context("the flush never ends")??;
    let dead = "SELECT count(*) FROM ripen.dead_letter WHERE resolution IS NULL";
    ensure!(pair.direct.query_one(dead, &[]).await?.get::<_, i64>(0) == 1);
    let other = "SELECT v FROM other WHERE id = 1";
    ensure!(pair.direct.query_one(other, &[]).await?.get::<_, i32>(0) == 5);
    Ok(())
}

#[tokio::test]
async fn barriers_get_their_turn_while_there_is_always_something_ripe() -> anyhow::Result<()> {
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "1ms"),
        ("barrier_timeout", "5s"),
    ];
    let pair = Pair::start(SCHEMA, &settings).await?;
    let (stop, stopped) = watch::channel(false);
    let mut writers = Vec::new();
    for id in 1..=4 {
        let (client, stopped) = (pair.ripen.connect().await?, stopped.clone());
        writers.push(tokio::spawn(async move {
            let update = format!("UPDATE t SET a = a + 1 WHERE id = {id}");
            while !*stopped.borrow() {
                client.batch_execute(&update).await?;
            }
            anyhow::Ok(())
        }));
    }
    for _ in 0..20 {
        pair.proxied.query_one("SELECT sum(b) FROM t", &[]).await?;
    }
    stop.send(true)?;
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

#[tokio::test]
async fn a_write_that_waited_through_a_schema_change_is_decided_under_the_new_schema()
-> anyhow::Result<()> {
    let schema = format!("{SCHEMA}; CREATE TABLE u (id int PRIMARY KEY, v int)");
    let pair = Pair::start(&schema, SETTINGS).await?;
    queue(&pair.proxied, "UPDATE t SET a = 1 WHERE id = 2").await?;
    // All loads that are made at once wait for this lock, and the others for them.
    let locker = pair.connect_direct().await?;
    let lock = "BEGIN; LOCK TABLE u IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await?;
    let mut readers = Vec::new();
    for id in 1..=4 {
        let client = pair.ripen.connect().await?;
        let read = async move { client.query("SELECT v FROM u WHERE id = $1", &[&id]).await };
        readers.push(tokio::spawn(read));
        wait::until("the load waits for the lock", || async {
            let waits =
                "SELECT count(*) FROM pg_locks WHERE relation = 'u'::regclass AND NOT granted";
            let waiting = pair.direct.query_one(waits, &[]).await?.get::<_, i64>(0);
            Ok((waiting == i64::from(id)).then_some(()))
        })
        .await?;
    }
    let misses = pair.ripen.number("misses").await?;
    let writer = pair.ripen.connect().await?;
    let update = "UPDATE t SET a = 9 WHERE id = 1";
    let write = tokio::spawn(async move { writer.batch_execute(update).await });
    // A read that comes later waits for the same row, and is counted.
    let reader = pair.ripen.connect().await?;
    let read = async move { reader.query("SELECT a FROM t WHERE id = 1", &[]).await };
    readers.push(tokio::spawn(read));
    wait::until("the write waits for its row", || async {
        Ok((pair.ripen.number("misses").await? > misses).then_some(()))
    })
    .await?;
    let forbid = "ALTER TABLE t ADD CONSTRAINT small CHECK (a < 5)";
    pair.proxied.batch_execute(forbid).await?;
    wait::until("the table is not fenced any more", || async {
        Ok((pair.ripen.number("fences_open").await? == 0.0).then_some(()))
    })
    .await?;
    locker.batch_execute("ROLLBACK").await?;
    let refused = write.await?.err().context("the write was acknowledged")?;
    ensure!(
        refused.code().is_some_and(|code| code.code() == "23514"),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test]
async fn who_is_taken_over_says_so_and_ends_in_order() -> anyhow::Result<()> {
    let mut pair = Pair::start(SCHEMA, SETTINGS).await?;
    let settings = [SETTINGS, &[("slot", "other")]].concat();
    queue(&pair.proxied, "UPDATE t SET a = 1 WHERE id = 1").await?;
    pair.ripen.signal("-STOP").await?;
    // What keeps a second one out is lost with its connection.
    let unclaim = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'";
    pair.direct.query(unclaim, &[]).await?;
    let other = Ripen::start(&pair.postgres.url(), &settings).await?;
    pair.ripen.signal("-CONT").await?;
    let flushed = pair.flush().await;
    ensure!(
        flushed.is_err(),
        "the flush of who was taken over succeeded"
    );
    wait::until("the first Ripen ends", || {
        let running = pair.ripen.is_running();
        async move { Ok((!running).then_some(())) }
    })
    .await?;
    let log = pair.ripen.log();
    ensure!(log.contains("another Ripen has taken over"), "{log}");
    ensure!(!log.contains("panicked"), "{log}");
    queue(&other.connect().await?, "UPDATE t SET a = 2 WHERE id = 2").await
}
