//! Each acknowledged row arrives once, whoever dies or is away meanwhile.

use super::ask::{SCHEMA, SOON, STILL, route, shown};
use anyhow::ensure;
use ripen_tests::pair::queue;
use ripen_tests::postgres::{self, Options, Stop};
use ripen_tests::{Cluster, Pair, wait};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_process_dies() -> anyhow::Result<()> {
    let mut pair = Pair::start(SCHEMA, STILL).await?;
    let places = [
        None,
        Some("flush-started"),
        Some("flush-written"),
        Some("flush-before-commit"),
        Some("flush-committed"),
        Some("flush-before-end"),
        Some("flush-ended"),
    ];
    for (round, place) in places.into_iter().enumerate() {
        if let Some(place) = place {
            pair.ripen.kill9().await?;
            pair.ripen.set_failpoints(Some(&format!("{place}=kill@1")));
            pair.ripen.restart().await?;
        }
        let client = pair.ripen.connect().await?;
        for n in 1..=3 {
            let row = format!("('r{round}', {n}), ('r{round}', {n})");
            queue(&client, &format!("INSERT INTO log (what, n) VALUES {row}")).await?;
        }
        let in_block = format!(
            "BEGIN; UPDATE t SET v = v + 1 WHERE id = 1; INSERT INTO log (what, n) VALUES ('b{round}', 1); COMMIT"
        );
        for statement in in_block.split("; ") {
            client.batch_execute(statement).await?;
        }
        match place {
            None => pair.ripen.kill9().await?,
            Some(place) => {
                // The process dies under it.
                let _ = client.batch_execute("CALL ripen.flush()").await;
                pair.ripen.wait_death(place).await?;
            }
        }
        pair.ripen.set_failpoints(None);
        pair.ripen.restart().await?;
        let client = pair.ripen.connect().await?;
        let here = format!(
            "SELECT string_agg(n::text, ' ' ORDER BY n) FROM log WHERE what IN ('r{round}', 'b{round}')"
        );
        let found = shown(&client, &here).await?;
        ensure!(found == "1 1 1 2 2 3 3", "{place:?}: {found}");
    }
    let v = shown(&pair.direct, "SELECT v, (SELECT count(*) FROM log) FROM t").await?;
    ensure!(v == "7 49", "{v}");
    Ok(())
}

#[tokio::test]
async fn rows_are_taken_while_postgres_is_away() -> anyhow::Result<()> {
    let schema = "CREATE TABLE log (what text)";
    let mut pair = Pair::start_with(Options::default(), schema, STILL).await?;
    let log = |what: &str| format!("INSERT INTO log VALUES ('{what}')");
    queue(&pair.proxied, &log("before")).await?;
    pair.postgres.stop(Stop::Immediate).await?;
    pair.proxied.batch_execute(&log("meanwhile")).await?;
    pair.ripen.kill9().await?;
    pair.ripen.restart_unready()?;
    let client = wait::until("clients are let in", || async {
        let Ok(client) = pair.ripen.connect().await else {
            return Ok(None);
        };
        let taken = client.batch_execute(&log("stranded")).await;
        Ok(taken.is_ok().then_some(client))
    })
    .await?;
    pair.postgres.start_again().await?;
    pair.ripen.wait_ready().await?;
    client.batch_execute("CALL ripen.flush()").await?;
    let direct = pair.connect_direct().await?;
    let found = shown(&direct, "SELECT what FROM log ORDER BY 1").await?;
    ensure!(found == "before, meanwhile, stranded", "{found}");
    Ok(())
}

/// Inserts a row after the other, each with a text of its own, until told to stop. Answers those that were acknowledged, and those of which nobody has said.
async fn keep_inserting(
    url: String,
    name: String,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let (mut acknowledged, mut unknown) = (Vec::new(), Vec::new());
    let mut client = postgres::connect(&url).await?;
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let row = format!("{name}-{n}");
        let sql = format!("INSERT INTO log (what) VALUES ('{row}')");
        match client.batch_execute(&sql).await {
            Ok(()) => acknowledged.push(row),
            Err(_) => {
                unknown.push(row);
                match postgres::connect(&url).await {
                    Ok(another) => client = another,
                    Err(_) => break,
                }
            }
        }
    }
    Ok((acknowledged, unknown))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_appends_each_row_once_although_its_leader_dies() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(SCHEMA, 3, SOON).await?;
    let leader = cluster.settled().await?;
    for node in cluster.running() {
        let client = cluster.connect(node).await?;
        wait::until("inserts are queued", || async {
            client
                .batch_execute("INSERT INTO log (what) VALUES ('probe')")
                .await?;
            Ok(route(&client).await?.starts_with("write").then_some(()))
        })
        .await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for (number, node) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
        let name = format!("{number}");
        writers.push(tokio::spawn(keep_inserting(
            cluster.url(node),
            name,
            stop.clone(),
        )));
    }
    let direct = cluster.postgres.connect().await?;
    let many = async |rows: i64| {
        wait::until("rows arrive", || async {
            let found: i64 = shown(&direct, "SELECT count(*) FROM log").await?.parse()?;
            Ok((found >= rows).then_some(found))
        })
        .await
    };
    let before = many(100).await?;
    cluster.kill9(leader).await?;
    many(before + 200).await?;
    stop.store(true, Ordering::SeqCst);
    let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for writer in writers {
        let (known, doubtful) = writer.await??;
        acknowledged.extend(known);
        unknown.extend(doubtful);
    }
    let client = cluster.connect(cluster.running()[0]).await?;
    client.batch_execute("CALL ripen.flush()").await?;
    let sql = "SELECT what FROM log WHERE what <> 'probe'";
    let mut there = BTreeSet::new();
    for row in direct.query(sql, &[]).await? {
        let row: String = row.get(0);
        ensure!(
            acknowledged.contains(&row) || unknown.contains(&row),
            "{row}"
        );
        ensure!(there.insert(row.clone()), "{row} is there twice");
    }
    let lost: Vec<&String> = acknowledged.difference(&there).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    ensure!(acknowledged.len() > 200, "{}", acknowledged.len());
    let letters = shown(&direct, "SELECT count(*) FROM ripen.dead_letter").await?;
    ensure!(letters == "0", "{letters} dead letters");
    Ok(())
}
