//! Nothing acknowledged is lost, doubled or reordered wherever on the way of a write the process dies or a connection breaks: every named place of the
//! log, the state machine, the flush, its settling at a start, and the snapshot, one after the other. `nothing_lost.rs` itself leaves the moment to chance.

use super::crash::{Crash, Plan};
use anyhow::{Context, ensure};
use ripen_tests::postgres::Options;
use ripen_tests::{Pair, wait};

const PLAN: Plan = Plan {
    rounds: 1,
    write_delay: "100ms",
    batch_factor: "0.5",
    logs: 1,
};

/// Places that every write or flush comes by, and how often before it is the last time: a start writes the log and flushes too.
const ON_THE_WAY: &[(&str, u32)] = &[
    ("write-decided", 40),
    ("log-before-write", 40),
    ("log-before-sync", 40),
    ("log-synced", 40),
    ("entry-applied", 40),
    ("write-applied", 40),
    ("flush-before-start", 2),
    ("flush-started", 2),
    ("flush-before-begin", 2),
    ("flush-begun", 2),
    ("flush-written", 2),
    ("flush-before-commit", 2),
    ("flush-committed", 2),
    ("flush-before-end", 2),
    ("flush-ended", 2),
];

/// Places of a start. What was open or done when the process before died comes first.
const AT_THE_START: &[(&str, &str)] = &[
    ("flush-started", "settle-begun"),
    ("flush-written", "settle-taken-over"),
    ("flush-committed", "settle-taken-over"),
    ("flush-before-commit", "settle-ended"),
    ("flush-before-end", "settle-ended"),
];

/// Where a flush's connection can break. After each, it must be found out whether the flush is in Postgres.
const CUTS: &[&str] = &[
    "flush-before-begin",
    "flush-begun",
    "flush-written",
    "flush-before-commit",
    "flush-committed",
];

async fn start(seed: u64) -> anyhow::Result<Crash> {
    Crash::start(PLAN, seed).await
}

/// Kills what runs, and starts it with that in its environment; it may die before it is ready.
async fn begin(crash: &mut Crash, failpoints: &str) -> anyhow::Result<()> {
    if crash.pair.ripen.is_running() {
        crash.pair.ripen.kill9().await?;
    }
    crash.pair.ripen.set_failpoints(Some(failpoints));
    crash.pair.ripen.restart_unready()
}

/// Starts without failpoints, and compares what every writer was told with what Postgres has.
async fn compare(crash: &mut Crash, what: &str) -> anyhow::Result<()> {
    crash.pair.ripen.set_failpoints(None);
    crash.pair.ripen.restart().await?;
    crash.rest().await;
    crash.check(what).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_process_dies_on_the_way_of_a_write() -> anyhow::Result<()> {
    let mut crash = start(1).await?;
    for (place, times) in ON_THE_WAY {
        begin(&mut crash, &format!("{place}=kill@{times}")).await?;
        crash.write().await;
        crash.pair.ripen.wait_death(place).await?;
        compare(&mut crash, place).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_next_process_dies_while_it_settles() -> anyhow::Result<()> {
    let mut crash = start(2).await?;
    for (first, then) in AT_THE_START {
        begin(&mut crash, &format!("{first}=kill@3")).await?;
        crash.write().await;
        crash.pair.ripen.wait_death(first).await?;
        begin(&mut crash, &format!("{then}=kill")).await?;
        crash.pair.ripen.wait_death(then).await?;
        compare(&mut crash, &format!("{first}, {then}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_process_dies_in_a_snapshot() -> anyhow::Result<()> {
    let mut crash = start(3).await?;
    for place in [
        "snapshot-begun",
        "snapshot-synced",
        "snapshot-renamed",
        "log-purged",
    ] {
        begin(&mut crash, &format!("{place}=kill@2, small-log=on")).await?;
        crash.write().await;
        crash.pair.ripen.wait_death(place).await?;
        compare(&mut crash, place).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_connection_breaks_in_a_flush() -> anyhow::Result<()> {
    let mut crash = start(4).await?;
    for place in CUTS {
        begin(&mut crash, &format!("{place}=cut@2")).await?;
        crash.write().await;
        crash.cut(place).await?;
        crash.rest().await;
        let what = format!("{place} cut");
        // Under the same process, which goes on.
        crash.check(&what).await?;
        ensure!(crash.pair.ripen.is_running(), "{what}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_process_dies_while_it_asks_for_an_outcome() -> anyhow::Result<()>
{
    let mut crash = start(5).await?;
    begin(&mut crash, "flush-committed=cut@2, flush-unknown=kill").await?;
    crash.write().await;
    crash.pair.ripen.wait_death("flush-unknown").await?;
    compare(&mut crash, "flush-unknown").await
}

const REFUSED: i64 = 1000;

/// Queues increments and inserts, one of which an outside writer makes impossible before it is flushed.
async fn queue_with_a_guilty_one(pair: &Pair, round: i64) -> anyhow::Result<()> {
    let client = pair.ripen.connect().await?;
    for step in 0..10 {
        let id = if step == 6 {
            REFUSED + round
        } else {
            round * 10 + step
        };
        let insert = "INSERT INTO notes VALUES ($1, 'grid')";
        let inserted = client.execute(insert, &[&id]).await?;
        let count = "UPDATE counters SET v = v + 1 WHERE id = $1";
        let counted = client.execute(count, &[&(step % 3)]).await?;
        ensure!((inserted, counted) == (1, 1), "{id}");
    }
    let queued = client.query_one("SHOW ripen.route", &[]).await?;
    ensure!(queued.get::<_, &str>(0) == "write", "{queued:?}");
    let outside = "INSERT INTO notes VALUES ($1, 'outside')";
    pair.direct.execute(outside, &[&(REFUSED + round)]).await?;
    Ok(())
}

/// All but the guilty one is there once, and that one in the dead letters once.
async fn compare_with_dead_letters(pair: &Pair, rounds: i64, what: &str) -> anyhow::Result<()> {
    let ask = async |sql: &str| {
        pair.direct
            .query_one(sql, &[])
            .await
            .map(|row| row.get::<_, i64>(0))
    };
    let grid = ask("SELECT count(*) FROM notes WHERE who = 'grid'").await?;
    let outside = ask("SELECT count(*) FROM notes WHERE who = 'outside'").await?;
    let counted = ask("SELECT sum(v)::bigint FROM counters").await?;
    let letters = ask("SELECT count(*) FROM ripen.dead_letter").await?;
    let keys =
        ask("SELECT count(DISTINCT changes->0->'key'->>'id') FROM ripen.dead_letter").await?;
    ensure!(
        (grid, outside, counted, letters, keys)
            == (rounds * 9, rounds, rounds * 10, rounds, rounds),
        "{what}: {grid} of {} inserts, {outside} outside, {counted} counted, {letters} dead letters of {keys} rows\n{}",
        rounds * 9,
        pair.ripen.log()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_written_once_whatever_breaks_in_between() -> anyhow::Result<()> {
    let schema = "CREATE TABLE notes (id bigint PRIMARY KEY, who text NOT NULL);
        CREATE TABLE counters (id bigint PRIMARY KEY, v bigint NOT NULL); INSERT INTO counters VALUES (0, 0), (1, 0), (2, 0)";
    // Nothing ripens by itself: each round's flush is asked for.
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "1h"),
        ("upstream_wait", "1s"),
    ];
    let mut pair = Pair::start_with(Options::default(), schema, &settings).await?;
    let places = [
        "flush-bisecting",
        "flush-written",
        "flush-buried",
        "flush-committed",
        "flush-before-end",
    ];
    let actions = places
        .iter()
        .flat_map(|place| [(*place, "kill"), (*place, "cut")]);
    let mut rounds = 0;
    for (place, action) in actions.filter(|points| *points != ("flush-before-end", "cut")) {
        let what = format!("{place}={action}");
        pair.ripen.set_failpoints(Some(&what));
        pair.ripen.kill9().await?;
        pair.ripen.restart().await?;
        queue_with_a_guilty_one(&pair, rounds)
            .await
            .with_context(|| what.clone())?;
        rounds += 1;
        let client = pair.ripen.connect().await?;
        // Lost with the process, or answered.
        let flushed = client.batch_execute("CALL ripen.flush()").await;
        if action == "kill" {
            pair.ripen.wait_death(place).await?;
            pair.ripen.set_failpoints(None);
            pair.ripen.restart().await?;
            pair.ripen
                .connect()
                .await?
                .batch_execute("CALL ripen.flush()")
                .await?;
        } else {
            flushed.with_context(|| what.clone())?;
            ensure!(
                pair.ripen
                    .log()
                    .contains(&format!("failpoint {place}: Cut")),
                "{what}"
            );
        }
        compare_with_dead_letters(&pair, rounds, &what).await?;
    }
    // Readers see what Postgres has, not what was refused.
    let client = pair.ripen.connect().await?;
    for round in 0..rounds {
        wait::until("the outside row is seen", || async {
            let sql = "SELECT who FROM notes WHERE id = $1";
            let row = client.query_one(sql, &[&(REFUSED + round)]).await?;
            Ok((row.get::<_, &str>(0) == "outside").then_some(()))
        })
        .await?;
    }
    Ok(())
}
