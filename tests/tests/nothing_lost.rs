//! Nothing acknowledged is lost, doubled, reordered or torn: writers at work while Ripen is killed with SIGKILL and Postgres is stopped without a
//! checkpoint, at random moments; what Postgres holds afterwards is compared with what each writer was told. Never trusts Ripen's own word about it.
//!
//! `RIPEN_ROUNDS` sets the rounds, `RIPEN_SEED` repeats the choices of a run (not its timing).

mod crash;
#[path = "crash/failpoints.rs"]
mod failpoints;

use anyhow::{Context, ensure};
use crash::{Crash, Plan};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_tests::postgres::{Options, Stop};
use ripen_tests::{Pair, wait};
use std::io::Write;
use std::time::{Duration, Instant};

fn rounds() -> u32 {
    let rounds = std::env::var("RIPEN_ROUNDS").ok();
    rounds.and_then(|text| text.parse().ok()).unwrap_or(12)
}

fn seed() -> u64 {
    let seed = std::env::var("RIPEN_SEED").ok();
    seed.and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random)
}

async fn survive(plan: Plan) -> anyhow::Result<()> {
    let seed = seed();
    let _ = writeln!(std::io::stderr(), "RIPEN_SEED={seed} {plan:?}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut crash = Crash::start(plan, seed).await?;
    for round in 0..plan.rounds {
        let kind = rng.random_range(0..10);
        crash.write().await;
        crash.pass(rng.random_range(50..700)).await;
        let logs = rng.random_range(1..=plan.logs).to_string();
        let ripen = &mut crash.pair.ripen;
        ripen.replace_settings(&["logs"], &[("logs", &logs)]);
        match kind {
            0..=4 => {
                crash.pair.ripen.kill9().await?;
                crash.pair.ripen.restart().await?;
            }
            5..=6 => {
                crash.pair.postgres.stop(Stop::Immediate).await?;
                crash.pass(rng.random_range(0..500)).await;
                crash.pair.postgres.start_again().await?;
            }
            7 => {
                crash.pair.postgres.stop(Stop::Immediate).await?;
                crash.pair.ripen.kill9().await?;
                crash.pair.postgres.start_again().await?;
                crash.pair.ripen.restart().await?;
            }
            8 => {
                crash.pair.ripen.kill9().await?;
                crash.pair.postgres.stop(Stop::Immediate).await?;
                crash.pair.ripen.restart_unready()?;
                crash.pass(rng.random_range(0..500)).await;
                crash.pair.postgres.start_again().await?;
                crash.pair.ripen.wait_ready().await?;
            }
            _ => {
                crash.pair.ripen.kill9().await?;
                crash.pair.ripen.restart_unready()?;
                crash.pass(rng.random_range(0..200)).await;
                crash.pair.ripen.kill9().await?;
                crash.pair.ripen.restart().await?;
            }
        }
        crash.pass(rng.random_range(0..300)).await;
        crash.rest().await;
        let what = format!("RIPEN_SEED={seed} round {round} kind {kind}");
        crash.check(&what).await?;
    }
    let _ = writeln!(std::io::stderr(), "{}", crash.sum());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_everything_is_flushed_whole() -> anyhow::Result<()> {
    let rounds = rounds().div_ceil(2);
    survive(Plan {
        rounds,
        write_delay: "200ms",
        batch_factor: "1",
        logs: 1,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_only_ripe_rows_are_flushed() -> anyhow::Result<()> {
    let rounds = rounds() / 2;
    survive(Plan {
        rounds,
        write_delay: "60ms",
        batch_factor: "0",
        logs: 1,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_tables_go_from_log_to_log() -> anyhow::Result<()> {
    let rounds = rounds();
    survive(Plan {
        rounds,
        write_delay: "150ms",
        batch_factor: "1",
        logs: 4,
    })
    .await
}

#[tokio::test]
async fn writes_go_on_while_postgres_is_away() -> anyhow::Result<()> {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g";
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "200ms"),
        ("upstream_wait", "1s"),
        ("barrier_timeout", "2s"),
    ];
    let mut pair = Pair::start_with(Options::default(), schema, &settings).await?;
    let client = &pair.proxied;
    let read = "SELECT v FROM t WHERE id = 1";
    wait::until("reads are answered from memory", || async {
        client.query_one(read, &[]).await?;
        Ok((pair.ripen.number("hits").await? > 0.0).then_some(()))
    })
    .await?;
    for id in 1..=10 {
        client
            .query_one("SELECT v FROM t WHERE id = $1", &[&id])
            .await?;
    }
    client
        .execute("UPDATE t SET v = 1 WHERE id = 1", &[])
        .await?;
    pair.postgres.stop(Stop::Immediate).await?;
    for id in 2..=10 {
        let changed = client
            .execute("UPDATE t SET v = v + 5 WHERE id = $1", &[&id])
            .await
            .with_context(|| format!("update of row {id}\n{}", pair.ripen.log()))?;
        ensure!(changed == 1);
    }
    for (id, wanted) in [(1, 1), (2, 5), (10, 5)] {
        let row = client
            .query_one("SELECT v FROM t WHERE id = $1", &[&id])
            .await
            .with_context(|| format!("read of row {id}"))?;
        ensure!(row.get::<_, i32>(0) == wanted, "row {id}");
    }
    for sql in [
        "SELECT count(*) FROM t",
        "SELECT v FROM t WHERE id = 15",
        "UPDATE t SET v = 2 WHERE v > 100",
    ] {
        let begun = Instant::now();
        let error = client.batch_execute(sql).await;
        ensure!(error.is_err(), "{sql} succeeds without Postgres");
        ensure!(
            begun.elapsed() < Duration::from_secs(8),
            "{sql} took {:?}",
            begun.elapsed()
        );
        let error = error.err();
        let code = error
            .as_ref()
            .and_then(|error| error.code().map(|code| code.code().to_owned()));
        let clear = code
            .as_deref()
            .is_some_and(|code| ["08", "57", "53"].contains(&&code[..2]));
        ensure!(clear, "{sql}: {error:?}");
        if client.is_closed() {
            anyhow::bail!("{sql} ended the session: {error:?}");
        }
    }
    // What is in the log survives a kill while Postgres is away.
    pair.ripen.kill9().await?;
    pair.ripen.restart_unready()?;
    pair.postgres.start_again().await?;
    pair.ripen.wait_ready().await?;
    let direct = pair.connect_direct().await?;
    wait::until("the queue drains", || async {
        let row = direct.query_one("SELECT sum(v) FROM t", &[]).await?;
        Ok((row.get::<_, i64>(0) == 46).then_some(()))
    })
    .await
}
