//! Postgres fails over to an asynchronous standby that lacks the last commits. Nothing that was acknowledged through Ripen is lost, done twice, or missing in what is read from then on.

use anyhow::{Context, ensure};
use ripen_tests::pair::queue;
use ripen_tests::postgres::{self, Options, Postgres, Standby, Stop};
use ripen_tests::{Cluster, Ripen, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, w int NOT NULL);
    INSERT INTO t SELECT g, 0, 7 FROM generate_series(1, 20) g";

const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "20ms"),
    ("upstream_wait", "1s"),
    ("barrier_timeout", "40s"),
    ("standbys", "two"),
];

/// Reads through Ripen for as long as the test goes on, each time as somebody who comes anew: from memory, and past it. Nothing older than acknowledged may be seen.
struct Watchers {
    acknowledged: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Watchers {
    fn start(urls: &[String]) -> Watchers {
        let mut watchers = Watchers {
            acknowledged: Arc::default(),
            stop: Arc::default(),
            answers: Arc::default(),
            tasks: Vec::new(),
        };
        let questions = [
            "SELECT n FROM t WHERE id = 1",
            "SELECT n FROM t WHERE id + 0 = 1",
        ];
        for (url, sql) in urls
            .iter()
            .flat_map(|url| questions.map(|sql| (url.clone(), sql)))
        {
            let (acknowledged, stop) = (watchers.acknowledged.clone(), watchers.stop.clone());
            let answers = watchers.answers.clone();
            watchers.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    // Postgres is away for a while: who comes may be refused.
                    let Ok(found) = ask(&url, sql).await else {
                        continue;
                    };
                    ensure!(
                        i64::from(found) >= before,
                        "{sql} at {url}: {found} after {before}"
                    );
                    answers.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            }));
        }
        watchers
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    fn total(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await??;
        }
        ensure!(
            self.answers.load(Ordering::SeqCst) > 20,
            "nobody was answered"
        );
        Ok(())
    }
}

async fn ask(url: &str, sql: &str) -> anyhow::Result<i32> {
    let client = postgres::connect(url).await?;
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Adds one to the row that watchers read.
async fn add(client: &Client, watchers: &Watchers) -> anyhow::Result<()> {
    let sql = "UPDATE t SET n = n + 1 WHERE id = 1";
    client.batch_execute(sql).await?;
    watchers.acknowledge();
    Ok(())
}

async fn until_queued(client: &Client) -> anyhow::Result<()> {
    wait::until("writes are queued", || async {
        let sql = "UPDATE t SET w = w WHERE id = 20";
        client.batch_execute(sql).await?;
        let route = client.query_one("SHOW ripen.route", &[]).await?;
        Ok((route.get::<_, &str>(0) == "write").then_some(()))
    })
    .await
}

/// What somebody else writes, seen in memory. Answers the connection by which it was written.
async fn change_outside(primary: &Postgres, client: &Client) -> anyhow::Result<Client> {
    let outside = primary.connect().await?;
    outside
        .batch_execute("UPDATE t SET w = 99 WHERE id = 5")
        .await?;
    wait::until("the outside change is seen", || async {
        let row = client
            .query_one("SELECT w FROM t WHERE id = 5", &[])
            .await?;
        Ok((row.get::<_, i32>(0) == 99).then_some(()))
    })
    .await?;
    Ok(outside)
}

/// The standby gets nothing more; writes of all kinds are flushed to the primary alone.
async fn write_what_will_be_lost(
    client: &Client,
    standby: &Standby,
    primary: &Postgres,
    watchers: &Watchers,
) -> anyhow::Result<()> {
    standby.caught_up(primary).await?;
    standby.stop_receiving().await?;
    let outside = change_outside(primary, client).await?;
    for round in 0..4 {
        add(client, watchers).await?;
        add(client, watchers).await?;
        for sql in [
            format!("INSERT INTO t VALUES ({}, {round}, 1)", 100 + round),
            format!("UPDATE t SET w = {round} WHERE id = 3"),
            format!("DELETE FROM t WHERE id = {}", 10 + round),
        ] {
            client.batch_execute(&sql).await.context(sql)?;
        }
        client.batch_execute("CALL ripen.flush()").await?;
    }
    client
        .batch_execute("UPDATE t SET n = 50 WHERE id = 101")
        .await?;
    client.batch_execute("CALL ripen.flush()").await?;
    let there = outside
        .query_one("SELECT n FROM t WHERE id = 1", &[])
        .await?;
    ensure!(i64::from(there.get::<_, i32>(0)) == watchers.total());
    Ok(())
}

/// In Postgres, in memory, and in all that was read meanwhile.
async fn all_is_there(
    promoted: &Postgres,
    ripen: &Ripen,
    watchers: Watchers,
) -> anyhow::Result<()> {
    let log = || ripen.log();
    is_whole(promoted, &watchers).await.with_context(log)?;
    memory_is_postgress(&ripen.url()).await.with_context(log)?;
    watchers.end().await.with_context(log)
}

async fn is_whole(server: &Postgres, watchers: &Watchers) -> anyhow::Result<()> {
    let client = server.connect().await?;
    let rows = client
        .query("SELECT id, n, w FROM t ORDER BY id", &[])
        .await?;
    let found: Vec<(i32, i32, i32)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let total = i32::try_from(watchers.total())?;
    let mut expected: Vec<(i32, i32, i32)> = (1..=20)
        .filter(|id| !(10..14).contains(id))
        .map(|id| match id {
            1 => (1, total, 7),
            3 => (3, 0, 3),
            id => (id, 0, 7),
        })
        .collect();
    expected.extend([(100, 0, 1), (101, 50, 1), (102, 2, 1), (103, 3, 1)]);
    ensure!(found == expected, "{found:?} is not {expected:?}");
    let letters = client
        .query_one("SELECT count(*) FROM ripen.dead_letter", &[])
        .await?;
    ensure!(letters.get::<_, i64>(0) == 0, "there are dead letters");
    Ok(())
}

/// Also those that a failover has lost, of others.
async fn memory_is_postgress(url: &str) -> anyhow::Result<()> {
    wait::until("reads are answered from memory again", || async {
        let client = postgres::connect(url).await?;
        let row = client
            .query_one("SELECT w FROM t WHERE id = 5", &[])
            .await?;
        let route = client.query_one("SHOW ripen.route", &[]).await?;
        let (w, route): (i32, &str) = (row.get(0), route.get(0));
        ensure!(w == 7, "a change of others that was lost is seen: {w}");
        Ok((route == "read").then_some(()))
    })
    .await
}

async fn a_node_alone(slot_survives: bool) -> anyhow::Result<()> {
    let mut primary = Postgres::start_primary(Options::default()).await?;
    primary.connect().await?.batch_execute(SCHEMA).await?;
    let mut standby = primary.standby("two").await?;
    let ripen = Ripen::start(&primary.url(), SETTINGS).await?;
    let client = ripen.connect().await?;
    until_queued(&client).await?;
    let watchers = Watchers::start(&[ripen.url()]);
    add(&client, &watchers).await?;
    client.batch_execute("CALL ripen.flush()").await?;
    wait::until("nothing is kept that the standby has", || async {
        Ok((ripen.number("kept_flushes").await? == 0.0).then_some(()))
    })
    .await?;
    write_what_will_be_lost(&client, &standby, &primary, &watchers).await?;
    ensure!(ripen.number("kept_flushes").await? >= 5.0);
    ensure!(ripen.number("kept_bytes").await? > 0.0);

    let slot = primary.slot_of("postgres").await?;
    primary.stop(Stop::Kill).await?;
    // Where nothing is pending, no statement waits for a flush.
    let quiet = slot_survives;
    if !quiet {
        add(&client, &watchers).await?;
    }
    // As it comes with a failover slot, or a copied one.
    let slots: &[&str] = if slot_survives { &[&slot] } else { &[] };
    standby.move_to(&primary, slots).await?;
    if !quiet {
        add(&client, &watchers).await?;
    }
    let promoted = standby.promote().await?;
    if !quiet {
        add(&client, &watchers).await?;
    }
    let passed = wait::until("statements pass through", || async {
        Ok(Some(
            ask(&ripen.url(), "SELECT n FROM t WHERE id + 0 = 1").await?,
        ))
    })
    .await
    .with_context(|| ripen.log())?;
    ensure!(i64::from(passed) == watchers.total());
    ensure!(ripen.number("rewritten_flushes").await? >= 5.0);
    add(&client, &watchers).await?;
    wait::until("the queue drains", || async {
        let client = ripen.connect().await?;
        Ok(Some(client.batch_execute("CALL ripen.flush()").await?))
    })
    .await?;
    all_is_there(&promoted, &ripen, watchers).await
}

#[tokio::test]
async fn what_a_promoted_standby_lacks_is_written_again() -> anyhow::Result<()> {
    a_node_alone(false).await
}

#[tokio::test]
async fn memory_is_read_anew_though_the_slot_survived() -> anyhow::Result<()> {
    a_node_alone(true).await
}

#[tokio::test]
async fn three_nodes_see_nothing_older_than_acknowledged() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_on_primary(SCHEMA, 3, SETTINGS).await?;
    let mut standby = cluster.postgres.standby("two").await?;
    let nodes: Vec<String> = (0..3).map(|node| cluster.url(node)).collect();
    let leader = cluster.leader().await?;
    let other = (leader + 1) % 3;
    let client = cluster.connect(other).await?;
    until_queued(&client).await?;
    let watchers = Watchers::start(&nodes);
    write_what_will_be_lost(&client, &standby, &cluster.postgres, &watchers).await?;
    // Whoever leads next has all that is kept.
    cluster.kill9(leader).await?;
    add(&client, &watchers).await?;
    cluster.leader().await?;
    cluster.postgres.stop(Stop::Kill).await?;
    add(&client, &watchers).await?;
    standby.move_to(&cluster.postgres, &[]).await?;
    let promoted = standby.promote().await?;
    add(&client, &watchers).await?;
    wait::until("statements pass through", || async {
        let passed = ask(&nodes[other], "SELECT n FROM t WHERE id + 0 = 1").await?;
        ensure!(i64::from(passed) == watchers.total(), "{passed} is old");
        Ok(Some(()))
    })
    .await
    .with_context(|| cluster.logs())?;
    add(&client, &watchers).await?;
    cluster.drained().await?;
    is_whole(&promoted, &watchers)
        .await
        .with_context(|| cluster.logs())?;
    for node in cluster.running() {
        memory_is_postgress(&nodes[node])
            .await
            .with_context(|| cluster.logs())?;
    }
    watchers.end().await.with_context(|| cluster.logs())
}

#[tokio::test]
async fn a_restart_writes_again_what_was_lost_while_ripen_was_away() -> anyhow::Result<()> {
    let mut primary = Postgres::start_primary(Options::default()).await?;
    primary.connect().await?.batch_execute(SCHEMA).await?;
    let mut standby = primary.standby("two").await?;
    let mut ripen = Ripen::start(&primary.url(), SETTINGS).await?;
    let client = ripen.connect().await?;
    until_queued(&client).await?;
    let watchers = Watchers::start(&[]);
    write_what_will_be_lost(&client, &standby, &primary, &watchers).await?;
    ripen.kill9().await?;
    primary.stop(Stop::Kill).await?;
    standby.move_to(&primary, &[]).await?;
    let promoted = standby.promote().await?;
    ripen.restart().await?;
    let passed = ask(&ripen.url(), "SELECT n FROM t WHERE id + 0 = 1").await?;
    ensure!(i64::from(passed) == watchers.total(), "{passed} is old");
    is_whole(&promoted, &watchers)
        .await
        .with_context(|| ripen.log())
}

#[tokio::test]
async fn without_standbys_what_is_lost_is_named() -> anyhow::Result<()> {
    let settings: Vec<(&str, &str)> = SETTINGS
        .iter()
        .copied()
        .filter(|(key, _)| *key != "standbys")
        .collect();
    let mut primary = Postgres::start_primary(Options::default()).await?;
    primary.connect().await?.batch_execute(SCHEMA).await?;
    let mut standby = primary.standby("two").await?;
    let ripen = Ripen::start(&primary.url(), &settings).await?;
    let client = ripen.connect().await?;
    until_queued(&client).await?;
    standby.caught_up(&primary).await?;
    standby.stop_receiving().await?;
    let update = "UPDATE t SET n = n + 1 WHERE id = 1";
    client.batch_execute(update).await?;
    client.batch_execute("CALL ripen.flush()").await?;
    ensure!(ripen.number("kept_flushes").await? == 0.0);
    primary.stop(Stop::Kill).await?;
    standby.move_to(&primary, &[]).await?;
    let _promoted = standby.promote().await?;
    wait::until("the loss is noticed", || async {
        let client = ripen.connect().await?;
        client
            .batch_execute("UPDATE t SET n = n + 1 WHERE id = 2")
            .await?;
        client.batch_execute("CALL ripen.flush()").await?;
        let noticed = ripen.log().contains("Postgres has lost flushes");
        Ok(noticed.then_some(()))
    })
    .await
    .with_context(|| ripen.log())
}

#[tokio::test]
async fn writers_wait_for_a_standby_that_is_away() -> anyhow::Result<()> {
    let settings: Vec<(&str, &str)> = SETTINGS
        .iter()
        .copied()
        .chain([("max_pending_bytes", "64KiB"), ("pending_wait", "200ms")])
        .collect();
    let primary = Postgres::start_primary(Options::default()).await?;
    primary.connect().await?.batch_execute(SCHEMA).await?;
    let standby = primary.standby("two").await?;
    let ripen = Ripen::start(&primary.url(), &settings).await?;
    let client = ripen.connect().await?;
    until_queued(&client).await?;
    standby.stop_receiving().await?;
    let update = "UPDATE t SET n = n + 1 WHERE id = 1";
    let mut done = 0;
    let refused = loop {
        match client.batch_execute(update).await {
            Ok(()) => done += 1,
            Err(refused) => break refused,
        }
        client.batch_execute("CALL ripen.flush()").await?;
        ensure!(done < 10_000, "nobody waits");
    };
    let state = refused.code().map(|code| code.code().to_owned());
    ensure!(state.as_deref() == Some("53000"), "{refused:?}");
    wait::until("it is told who is away", || async {
        let seen = client.query_one("SHOW ripen.standbys", &[]).await?;
        let (name, connected): (&str, Option<&str>) = (seen.get(0), seen.get(1));
        ensure!(name == "two", "{name}");
        Ok((connected == Some("false")).then_some(()))
    })
    .await?;
    standby.receive().await?;
    wait::until("the standby has caught up", || async {
        let kept = ripen.number("kept_flushes").await?;
        Ok((kept == 0.0).then_some(()))
    })
    .await?;
    client.batch_execute(update).await?;
    client.batch_execute("CALL ripen.flush()").await?;
    let found = ask(&primary.url(), "SELECT n FROM t WHERE id = 1").await?;
    ensure!(found == done + 1, "{found} is not {done} + 1");
    Ok(())
}

/// Whoever asks for Postgres is led on from here: new connections to where it points, old ones stay where they are.
async fn forwarder(target: Arc<AtomicU64>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let to = target.load(Ordering::SeqCst) as u16;
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", to)).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    Ok(port)
}

/// The former primary lives on, and Ripen's connections to it, too.
#[tokio::test]
async fn a_former_primary_that_lives_on_is_left() -> anyhow::Result<()> {
    let primary = Postgres::start_primary(Options::default()).await?;
    primary.connect().await?.batch_execute(SCHEMA).await?;
    let standby = primary.standby("two").await?;
    let target = Arc::new(AtomicU64::new(primary.port().into()));
    let port = forwarder(target.clone()).await?;
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let ripen = Ripen::start(&url, SETTINGS).await?;
    let client = ripen.connect().await?;
    until_queued(&client).await?;
    let stays = ripen.connect().await?;
    let passed = "SELECT n FROM t WHERE id + 0 = 1";
    stays.query_one(passed, &[]).await?;
    let watchers = Watchers::start(&[ripen.url()]);
    write_what_will_be_lost(&client, &standby, &primary, &watchers).await?;
    let promoted = standby.promote().await?;
    target.store(promoted.port().into(), Ordering::SeqCst);
    for _ in 0..20 {
        add(&client, &watchers).await?;
    }
    wait::until("statements pass through to the new one", || async {
        let found = ask(&ripen.url(), passed).await?;
        ensure!(i64::from(found) == watchers.total(), "{found} is old");
        let there = ask(&promoted.url(), passed).await?;
        Ok((i64::from(there) == watchers.total()).then_some(()))
    })
    .await
    .with_context(|| ripen.log())?;
    add(&client, &watchers).await?;
    let left = stays.query_one(passed, &[]).await;
    let state = left
        .err()
        .and_then(|left| Some(left.code()?.code().to_owned()));
    ensure!(state.as_deref() == Some("57P01"), "{state:?}");
    ripen
        .connect()
        .await?
        .batch_execute("CALL ripen.flush()")
        .await?;
    all_is_there(&promoted, &ripen, watchers).await
}

/// What was a dead letter is one again; what rests on a row that is not what it was becomes one; the rest follows in its order.
#[tokio::test]
async fn dead_letters_and_conflicts_are_kept_again() -> anyhow::Result<()> {
    let settings: Vec<(&str, &str)> = SETTINGS
        .iter()
        .copied()
        .filter(|(key, _)| *key != "write_delay")
        .chain([("conflict", "database"), ("write_delay", "1h")])
        .collect();
    let mut primary = Postgres::start_primary(Options::default()).await?;
    primary.connect().await?.batch_execute(SCHEMA).await?;
    let mut standby = primary.standby("two").await?;
    let ripen = Ripen::start(&primary.url(), &settings).await?;
    let client = ripen.connect().await?;
    until_queued(&client).await?;
    client.batch_execute("CALL ripen.flush()").await?;
    standby.caught_up(&primary).await?;
    standby.stop_receiving().await?;
    let outside = change_outside(&primary, &client).await?;
    for sql in [
        "UPDATE t SET n = 5 WHERE id = 5",
        "INSERT INTO t VALUES (200, 1, 1)",
        "UPDATE t SET w = 1 WHERE id = 3",
    ] {
        queue(&client, sql).await?;
    }
    outside
        .batch_execute("INSERT INTO t VALUES (200, 2, 2)")
        .await?;
    client.batch_execute("CALL ripen.flush()").await?;
    queue(&client, "UPDATE t SET w = 2 WHERE id = 3").await?;
    client.batch_execute("CALL ripen.flush()").await?;
    let states = "SELECT string_agg(sqlstate, ' ' ORDER BY sqlstate) FROM ripen.dead_letter";
    let before = outside.query_one(states, &[]).await?;
    ensure!(
        before
            .get::<_, Option<&str>>(0)
            .is_some_and(|states| !states.contains(' '))
    );
    primary.stop(Stop::Kill).await?;
    standby.move_to(&primary, &[]).await?;
    let promoted = standby.promote().await?;
    wait::until("Postgres is back", || async {
        ask(&ripen.url(), "SELECT n FROM t WHERE id + 0 = 1").await?;
        Ok(Some(()))
    })
    .await
    .with_context(|| ripen.log())?;
    let there = promoted.connect().await?;
    let states = there.query_one(states, &[]).await?;
    ensure!(
        states.get::<_, Option<&str>>(0) == Some("40001 55000"),
        "{:?}",
        states.get::<_, Option<&str>>(0)
    );
    let sql = "SELECT string_agg(concat(id, ':', n, ':', w), ' ' ORDER BY id) FROM t WHERE id IN (3, 5, 200)";
    for client in [there, ripen.connect().await?] {
        let rows = client.query_one(sql, &[]).await?;
        let rows: &str = rows.get(0);
        ensure!(rows == "3:0:2 5:0:7", "{rows}");
    }
    let row = ripen
        .connect()
        .await?
        .query_one("SELECT n, w FROM t WHERE id = 5", &[])
        .await?;
    ensure!((row.get::<_, i32>(0), row.get::<_, i32>(1)) == (0, 7));
    Ok(())
}

/// Somebody is faster than Ripen on the new primary, and keeps a row locked: who comes waits in bounds, is told why not, and never sees what was before.
#[tokio::test]
async fn nobody_is_let_in_before_all_is_there() -> anyhow::Result<()> {
    let settings: Vec<(&str, &str)> = SETTINGS
        .iter()
        .copied()
        .filter(|(key, _)| *key != "barrier_timeout")
        .chain([("barrier_timeout", "1s")])
        .collect();
    let mut primary = Postgres::start_primary(Options::default()).await?;
    primary.connect().await?.batch_execute(SCHEMA).await?;
    let standby = primary.standby("two").await?;
    let target = Arc::new(AtomicU64::new(primary.port().into()));
    let port = forwarder(target.clone()).await?;
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let mut ripen = Ripen::start(&url, &settings).await?;
    let client = ripen.connect().await?;
    until_queued(&client).await?;
    let watchers = Watchers::start(&[ripen.url()]);
    write_what_will_be_lost(&client, &standby, &primary, &watchers).await?;
    primary.stop(Stop::Kill).await?;
    let promoted = standby.promote().await?;
    let faster = promoted.connect().await?;
    faster
        .batch_execute("BEGIN; SELECT * FROM t WHERE id = 3 FOR UPDATE")
        .await?;
    target.store(promoted.port().into(), Ordering::SeqCst);
    let passed = "SELECT n FROM t WHERE id + 0 = 1";
    wait::until("a statement is refused", || async {
        let Err(error) = ask(&ripen.url(), passed).await else {
            anyhow::bail!("it is answered");
        };
        let error = error.downcast_ref::<tokio_postgres::Error>();
        let code = error.and_then(|error| error.code());
        Ok(code
            .is_some_and(|code| code.code() == "57P03")
            .then_some(()))
    })
    .await
    .with_context(|| ripen.log())?;
    // In the middle of it.
    ripen.kill9().await?;
    ripen.restart_unready()?;
    for _ in 0..10 {
        ensure!(ask(&ripen.url(), passed).await.is_err(), "it is answered");
    }
    faster.batch_execute("COMMIT").await?;
    ripen.wait_ready().await?;
    wait::until("statements pass through", || async {
        let found = ask(&ripen.url(), passed).await?;
        ensure!(i64::from(found) == watchers.total(), "{found} is old");
        Ok(Some(()))
    })
    .await
    .with_context(|| ripen.log())?;
    is_whole(&promoted, &watchers)
        .await
        .with_context(|| ripen.log())?;
    watchers.end().await.with_context(|| ripen.log())
}
