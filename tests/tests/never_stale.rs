//! Never stale: many sessions mix cached reads, queued writes and statements that pass through, while somebody else writes to Postgres directly. Each group of three rows has one
//! writer at a time who gives all three the same, increasing value; so every read must show three equal values, none older than the newest acknowledged before the read began,
//! none newer than the newest begun. Values that are rolled back are marked and must never be seen.
//!
//! `RIPEN_SECONDS` sets the duration, `RIPEN_SEED` repeats the choices of a run (not its timing).

mod stale;

use anyhow::ensure;
use ripen_tests::postgres::{self, Options};
use ripen_tests::{Pair, wait};
use stale::model::{GROUPS, Model};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SCHEMA: &str = "
    CREATE TABLE cells (id int PRIMARY KEY, grp int NOT NULL, v bigint NOT NULL, o bigint NOT NULL);
    CREATE INDEX ON cells (grp);
    INSERT INTO cells SELECT g, g / 3, 0, 0 FROM generate_series(0, 29) g;
    CREATE TABLE others (id int PRIMARY KEY, o bigint NOT NULL);
    INSERT INTO others SELECT g, 0 FROM generate_series(0, 9) g;
    CREATE FUNCTION put(g int, n bigint) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN UPDATE cells SET v = n WHERE grp = g; END $$;";

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn run(settings: &[(&str, &str)], sessions: u64, time: Duration) -> anyhow::Result<()> {
    let seed = setting("RIPEN_SEED").unwrap_or_else(rand::random);
    let mut all = vec![("write_behind", "public.*")];
    all.extend_from_slice(settings);
    let options = Options::default().set("max_prepared_transactions", "10");
    let pair = Pair::start_with(options, SCHEMA, &all).await?;
    let model = Arc::new(Model::default());
    let mut tasks = Vec::new();
    for n in 0..sessions {
        let client = pair.ripen.connect().await?;
        tasks.push(tokio::spawn(stale::session::run(
            client,
            seed ^ (n + 1),
            model.clone(),
        )));
    }
    let disturb = tokio::spawn(disturb(pair.postgres.url(), model.clone()));
    let measure = tokio::spawn(measure(
        pair.postgres.url(),
        pair.ripen.url(),
        model.clone(),
    ));
    let end = Instant::now() + time;
    while Instant::now() < end && !model.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    model.stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await?;
    }
    let changes = disturb.await??;
    let mut staleness = measure.await??;
    staleness.sort();
    let at = |part: usize| staleness.get(staleness.len() * part / 100).copied();
    let _ = writeln!(
        std::io::stderr(),
        "RIPEN_SEED={seed} {settings:?}: {} statements {:?}, {changes} outside changes, staleness p50 {:?} p99 {:?} of {}",
        model.statements(),
        model.kinds(),
        at(50),
        at(99),
        staleness.len()
    );
    let mut from_memory = 0.0;
    for name in ["hits", "writes", "misses"] {
        let number = pair.ripen.number(name).await?;
        let _ = writeln!(std::io::stderr(), "{name} from memory: {number}");
        from_memory += if name == "hits" { number } else { 0.0 };
    }
    // The measure alone reads on and on from memory; the sessions must, too.
    ensure!(
        from_memory > model.statements() as f64 / 10.0,
        "RIPEN_SEED={seed} only {from_memory} rows of {} statements came from memory: nothing was tried",
        model.statements()
    );
    let wrong = model.wrong();
    ensure!(
        wrong.is_empty(),
        "RIPEN_SEED={seed} {} violations, first:\n{}\n{}",
        wrong.len(),
        wrong[..wrong.len().min(10)].join("\n"),
        pair.ripen.log()
    );
    finally_equal(&pair, &model).await
}

/// After a flush Postgres and Ripen show the last value of each group.
async fn finally_equal(pair: &Pair, model: &Model) -> anyhow::Result<()> {
    pair.flush().await?;
    for client in [&pair.direct, &pair.proxied] {
        for (grp, group) in model.groups.iter().enumerate() {
            let grp = i32::try_from(grp)?;
            let (a, b, c) = (grp * 3, grp * 3 + 1, grp * 3 + 2);
            let sql = "SELECT v FROM cells WHERE id IN ($1, $2, $3)";
            let rows = client.query(sql, &[&a, &b, &c]).await?;
            let values: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            let acked = group.acked.load(Ordering::SeqCst);
            ensure!(
                values == [acked; 3],
                "group {grp} is {values:?}, not {acked}"
            );
        }
    }
    Ok(())
}

/// Changes another column of the same rows, in Postgres directly.
async fn disturb(url: String, model: Arc<Model>) -> anyhow::Result<u64> {
    let client = postgres::connect(&url).await?;
    let mut changes = 0;
    while !model.stop.load(Ordering::SeqCst) {
        let id = rand::random_range(0..GROUPS as i32 * 3);
        changes += client
            .execute("UPDATE cells SET o = o + 1 WHERE id = $1", &[&id])
            .await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(changes)
}

/// How long a change made in Postgres directly takes to be seen through Ripen.
async fn measure(
    direct: String,
    proxied: String,
    model: Arc<Model>,
) -> anyhow::Result<Vec<Duration>> {
    let (direct, proxied) = (
        postgres::connect(&direct).await?,
        postgres::connect(&proxied).await?,
    );
    let (mut times, mut n) = (Vec::new(), 0_i64);
    while !model.stop.load(Ordering::SeqCst) {
        n += 1;
        let id = rand::random_range(0..10);
        direct
            .execute("UPDATE others SET o = $2 WHERE id = $1", &[&id, &n])
            .await?;
        let begun = Instant::now();
        let (proxied, model) = (&proxied, &model);
        wait::until("an outside change is seen", || async move {
            for _ in 0..1000 {
                let sql = "SELECT o FROM others WHERE id = $1";
                let o: i64 = proxied.query_one(sql, &[&id]).await?.get(0);
                if o == n {
                    return Ok(Some(()));
                }
                if o > n {
                    model.report(format!("others {id}: {o}, but only {n} was written"));
                }
            }
            Ok(None)
        })
        .await?;
        times.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(times)
}

fn duration() -> Duration {
    Duration::from_secs(setting("RIPEN_SECONDS").unwrap_or(30)) / 3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_writes_are_never_stale() -> anyhow::Result<()> {
    let settings = [("write_delay", "100ms"), ("batch_factor", "1")];
    run(&settings, 10, duration()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_writes_that_ripen_alone_are_never_stale() -> anyhow::Result<()> {
    let settings = [("write_delay", "50ms"), ("batch_factor", "0")];
    run(&settings, 10, duration()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_writes_are_never_stale() -> anyhow::Result<()> {
    run(&[("write_delay", "0s")], 10, duration()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resident_tables_are_never_stale() -> anyhow::Result<()> {
    let settings = [("write_delay", "50ms"), ("resident", "true")];
    run(&settings, 10, duration()).await
}

/// Outside transactions move amounts between the two rows of a pair. Single rows are dropped from memory all the time (a passed-through transaction
/// locks them), so that one row of a pair is often just loaded and the other is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_transactions_are_seen_whole() -> anyhow::Result<()> {
    let schema = "CREATE TABLE pairs (id int PRIMARY KEY, v bigint NOT NULL, o bigint NOT NULL);
        INSERT INTO pairs SELECT g, 0, 0 FROM generate_series(0, 19) g;";
    let pair = Pair::start_with(Options::default(), schema, &[]).await?;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let client = postgres::connect(&pair.postgres.url()).await?;
        tasks.push(tokio::spawn(transfer(client, stop.clone())));
        let client = pair.ripen.connect().await?;
        tasks.push(tokio::spawn(touch(client, stop.clone())));
    }
    let begun = Instant::now();
    let (mut whole, mut halves) = (0_u64, Vec::new());
    while begun.elapsed() < duration() {
        let first = rand::random_range(0..10) * 2;
        let sql = "SELECT v FROM pairs WHERE id IN ($1, $2)";
        let rows = pair.proxied.query(sql, &[&first, &(first + 1)]).await?;
        let values: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        if values.iter().sum::<i64>() == 0 {
            whole += 1;
        } else {
            halves.push(values);
        }
    }
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await??;
    }
    let (hits, misses) = (
        pair.ripen.number("hits").await?,
        pair.ripen.number("misses").await?,
    );
    ensure!(
        hits > 100.0 && misses > 100.0,
        "{hits} hits, {misses} misses: nothing was tried"
    );
    ensure!(
        halves.is_empty(),
        "{whole} reads saw whole transactions, {} did not: {halves:?}",
        halves.len()
    );
    Ok(())
}

async fn transfer(
    mut client: tokio_postgres::Client,
    stop: Arc<std::sync::atomic::AtomicBool>,
) -> anyhow::Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let first = rand::random_range(0..10) * 2;
        let transaction = client.transaction().await?;
        let add = "UPDATE pairs SET v = v + $2 WHERE id = $1";
        transaction.execute(add, &[&first, &1_i64]).await?;
        transaction.execute(add, &[&(first + 1), &-1_i64]).await?;
        transaction.commit().await?;
    }
    Ok(())
}

async fn touch(
    client: tokio_postgres::Client,
    stop: Arc<std::sync::atomic::AtomicBool>,
) -> anyhow::Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let id = rand::random_range(0..20);
        client
            .execute("UPDATE pairs SET o = o + 1 WHERE id = $1", &[&id])
            .await?;
    }
    Ok(())
}
