//! One node of a cluster reads Postgres's WAL for all: there is one slot and one reader of it, what others write reaches every node, and whatever happens to who reads it or to who is
//! told, nothing is missed and nothing old is shown.

use anyhow::{Context, ensure};
use ripen_tests::postgres::Stop;
use ripen_tests::{Cluster, wait};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO t SELECT g, 0 FROM generate_series(0, 19) g;
    CREATE TABLE wide (id int PRIMARY KEY, body text NOT NULL);
    INSERT INTO wide VALUES (1, '');";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.t"), ("write_delay", "100ms")];

const READ: &str = "SELECT v FROM t WHERE id = $1";

/// A cluster of three of which any one may be lost.
async fn three() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(SCHEMA, 3, SETTINGS).await?;
    let node = cluster.leader().await?;
    wait::until("any one may be lost", || async {
        let answer = cluster.node(node).admin("/safe").await?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })
    .await
    .with_context(|| cluster.logs())?;
    Ok(cluster)
}

async fn value(client: &Client, id: i32) -> anyhow::Result<i32> {
    Ok(client.query_one(READ, &[&id]).await?.get(0))
}

/// Waits until a node answers all rows from memory.
async fn warm(cluster: &Cluster, node: usize, client: &Client) -> anyhow::Result<()> {
    let warm = wait::until("all rows are answered from memory", || async {
        let before = cluster.node(node).number("hits").await?;
        for id in 0..20 {
            value(client, id).await?;
        }
        let after = cluster.node(node).number("hits").await?;
        Ok((after - before >= 20.0).then_some(()))
    });
    warm.await
        .with_context(|| format!("node {node}\n{}", cluster.logs()))
}

/// Waits until a node answers that all rows have this value, from memory.
async fn shows(cluster: &Cluster, node: usize, client: &Client, v: i32) -> anyhow::Result<()> {
    let shown = wait::until("the outside change is in memory", || async {
        for id in 0..20 {
            let found = value(client, id).await?;
            ensure!(found == v, "row {id} is {found}, not {v}");
        }
        Ok(Some(()))
    });
    shown
        .await
        .with_context(|| format!("node {node}\n{}", cluster.logs()))?;
    warm(cluster, node, client).await
}

async fn clients(cluster: &Cluster, nodes: &[usize]) -> anyhow::Result<Vec<(usize, Client)>> {
    let mut clients = Vec::new();
    for node in nodes {
        clients.push((*node, cluster.connect(*node).await?));
    }
    for (node, client) in &clients {
        warm(cluster, *node, client).await?;
    }
    Ok(clients)
}

/// How many read slots.
async fn readers(cluster: &Cluster) -> anyhow::Result<i64> {
    let sql = "SELECT count(*) FROM pg_stat_replication";
    let direct = cluster.postgres.connect().await?;
    Ok(direct.query_one(sql, &[]).await?.get(0))
}

async fn one_slot(cluster: &Cluster) -> anyhow::Result<()> {
    let name = cluster.postgres.slot_of("postgres").await?;
    wait::until("one slot, read by one", || async {
        let slots = cluster.postgres.slots().await?;
        ensure!(slots == [name.clone()], "{slots:?}");
        Ok((readers(cluster).await? == 1).then_some(()))
    })
    .await
}

async fn reading(cluster: &Cluster) -> anyhow::Result<Vec<usize>> {
    let mut reading = Vec::new();
    for node in cluster.running() {
        if cluster.node(node).number("hotcache_reads_slot").await? > 0.0 {
            reading.push(node);
        }
    }
    Ok(reading)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_reads_the_slot_and_all_hear_of_it() -> anyhow::Result<()> {
    let cluster = three().await?;
    let direct = cluster.postgres.connect().await?;
    let leader = cluster.leader().await?;
    wait::until("the leader reads the slot and tells two", || async {
        ensure!(reading(&cluster).await? == [leader]);
        let told = cluster.node(leader).number("hotcache_relay_nodes").await?;
        Ok((told == 2.0).then_some(()))
    })
    .await
    .with_context(|| cluster.logs())?;
    one_slot(&cluster).await?;
    let clients = clients(&cluster, &[0, 1, 2]).await?;
    for v in 1..6 {
        direct.execute("UPDATE t SET v = $1", &[&v]).await?;
        for (node, client) in &clients {
            shows(&cluster, *node, client, v).await?;
        }
    }
    for node in cluster.running() {
        let late = cluster.node(node).number("outside_staleness_p50_seconds");
        let ms = late.await? * 1000.0;
        let role = if node == leader { "reads" } else { "hears" };
        // Measured, not judged.
        let _ = writeln!(
            std::io::stderr(),
            "listener: who {role} has an outside change after {ms:.1} ms (median)"
        );
    }
    // A fence around the whole table falls on each node when it has heard of a mark of its own.
    for (_, client) in &clients {
        let sql = "UPDATE t SET v = v + 1 WHERE clock_timestamp() IS NOT NULL";
        client.batch_execute(sql).await?;
    }
    for (node, client) in &clients {
        shows(&cluster, *node, client, 8).await?;
    }
    // As a node of an earlier version left it.
    let sql = "SELECT pg_create_logical_replication_slot('ripen_00000000000000ab', 'pgoutput')";
    direct.query(sql, &[]).await?;
    one_slot(&cluster).await
}

/// Writes 1, 2, 3 … into all rows, behind everybody's back.
struct Outside {
    stop: Arc<AtomicBool>,
    writes: tokio::task::JoinHandle<anyhow::Result<i32>>,
}

impl Outside {
    fn begin(direct: Client) -> Outside {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writes = tokio::spawn(async move {
            let mut v = 0;
            while !stopped.load(Ordering::SeqCst) {
                v += 1;
                direct.execute("UPDATE t SET v = $1", &[&v]).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(v)
        });
        Outside { stop, writes }
    }

    async fn end(self) -> anyhow::Result<i32> {
        self.stop.store(true, Ordering::SeqCst);
        self.writes.await?
    }
}

/// Waits until a node shows a value that was not there when this began.
async fn goes_on(cluster: &Cluster, client: &Client) -> anyhow::Result<()> {
    let direct = cluster.postgres.connect().await?;
    let now = value(&direct, 0).await?;
    wait::until("outside changes arrive", || async {
        Ok((value(client, 0).await? > now).then_some(()))
    })
    .await
    .with_context(|| cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leader_goes_on_where_the_killed_one_was() -> anyhow::Result<()> {
    let mut cluster = three().await?;
    let direct = cluster.postgres.connect().await?;
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let clients = clients(&cluster, &others).await?;
    let outside = Outside::begin(cluster.postgres.connect().await?);
    for (_, client) in &clients {
        goes_on(&cluster, client).await?;
    }
    cluster.kill9(leader).await?;
    for (_, client) in &clients {
        goes_on(&cluster, client).await?;
    }
    let last = outside.end().await?;
    let next = cluster.leader().await?;
    wait::until("the next leader reads the slot", || async {
        Ok((reading(&cluster).await? == [next]).then_some(()))
    })
    .await
    .with_context(|| cluster.logs())?;
    for (node, client) in &clients {
        shows(&cluster, *node, client, last).await?;
        let resyncs = cluster.node(*node).number("hotcache_resyncs").await?;
        ensure!(
            resyncs == 0.0,
            "node {node} has dropped what it had\n{}",
            cluster.logs()
        );
    }
    one_slot(&cluster).await?;
    cluster.restart(leader).await?;
    let back = cluster.connect(leader).await?;
    direct.execute("UPDATE t SET v = -1", &[]).await?;
    shows(&cluster, leader, &back, -1).await?;
    one_slot(&cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_memory_is_served_by_all_while_postgres_and_the_leader_are_away()
-> anyhow::Result<()> {
    let mut cluster = three().await?;
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let clients = clients(&cluster, &others).await?;
    cluster.postgres.stop(Stop::Immediate).await?;
    for (node, client) in &clients {
        warm(&cluster, *node, client).await?;
    }
    cluster.kill9(leader).await?;
    cluster.leader().await?;
    for (node, client) in &clients {
        shows(&cluster, *node, client, 0).await?;
    }
    cluster.postgres.start_again().await?;
    let direct = cluster.postgres.connect().await?;
    direct.execute("UPDATE t SET v = 1", &[]).await?;
    for (node, client) in &clients {
        shows(&cluster, *node, client, 1).await?;
        let resyncs = cluster.node(*node).number("hotcache_resyncs").await?;
        ensure!(resyncs == 0.0, "node {node} has dropped what it had");
    }
    one_slot(&cluster).await
}

/// Postgres stops only when its reader has told it that everything is taken, and the reader waits for a node that does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_can_be_restarted_while_a_node_stands_still() -> anyhow::Result<()> {
    let mut cluster = three().await?;
    let leader = cluster.leader().await?;
    let follower = (leader + 1) % 3;
    let clients = clients(&cluster, &[0, 1, 2]).await?;
    cluster.pause(follower).await?;
    let direct = cluster.postgres.connect().await?;
    direct.execute("UPDATE t SET v = 1", &[]).await?;
    drop(direct);
    cluster.postgres.stop(Stop::Fast).await?;
    cluster.postgres.start_again().await?;
    cluster.resume(follower).await?;
    let direct = cluster.postgres.connect().await?;
    direct.execute("UPDATE t SET v = 2", &[]).await?;
    for (node, client) in &clients {
        shows(&cluster, *node, client, 2).await?;
    }
    one_slot(&cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_loses_the_slot() -> anyhow::Result<()> {
    let mut cluster = three().await?;
    let direct = cluster.postgres.connect().await?;
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let others = clients(&cluster, &others).await?;
    let paused = clients(&cluster, &[leader]).await?;
    cluster.pause(leader).await?;
    let next = cluster.leader().await?;
    direct.execute("UPDATE t SET v = 1", &[]).await?;
    for (node, client) in &others {
        shows(&cluster, *node, client, 1).await?;
    }
    ensure!(reading(&cluster).await? == [next]);
    cluster.resume(leader).await?;
    for _ in 0..100 {
        let v = value(&paused[0].1, 3).await?;
        ensure!(v == 1, "{v} is old\n{}", cluster.logs());
    }
    direct.execute("UPDATE t SET v = 2", &[]).await?;
    for (node, client) in others.iter().chain(&paused) {
        shows(&cluster, *node, client, 2).await?;
    }
    one_slot(&cluster).await
}

/// Pauses a follower, lets `outside` write 1 into all rows, and looks that it shows nothing else from then on. Answers how often it has dropped what it had.
async fn after_a_pause(outside: &[&str]) -> anyhow::Result<f64> {
    let mut cluster = three().await?;
    let direct = cluster.postgres.connect().await?;
    let leader = cluster.leader().await?;
    let (follower, witness) = ((leader + 1) % 3, (leader + 2) % 3);
    let clients = clients(&cluster, &[follower, witness]).await?;
    cluster.pause(follower).await?;
    // Longer than its lease lasts.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for sql in outside {
        direct.batch_execute(sql).await?;
    }
    shows(&cluster, witness, &clients[1].1, 1).await?;
    cluster.resume(follower).await?;
    for _ in 0..200 {
        let v = value(&clients[0].1, 3).await?;
        ensure!(v == 1, "{v} is old\n{}", cluster.logs());
    }
    shows(&cluster, follower, &clients[0].1, 1).await?;
    direct.execute("UPDATE t SET v = 2", &[]).await?;
    shows(&cluster, follower, &clients[0].1, 2).await?;
    cluster.node(follower).number("hotcache_resyncs").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_stood_still_hears_what_it_missed() -> anyhow::Result<()> {
    let resyncs = after_a_pause(&["UPDATE t SET v = 1"]).await?;
    ensure!(resyncs == 0.0, "it has dropped what it had");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_more_than_is_kept_begins_anew() -> anyhow::Result<()> {
    // Each of some 3 MB, six of them more than what is kept.
    let large = "UPDATE wide SET body = (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 100000))";
    let outside = [
        large,
        large,
        large,
        large,
        large,
        large,
        "UPDATE t SET v = 1",
    ];
    let resyncs = after_a_pause(&outside).await?;
    ensure!(resyncs > 0.0, "it cannot have heard all of it");
    Ok(())
}

/// Until then the next leader may find the slot where there was no publication yet, and make it anew.
async fn past_its_beginning(direct: &Client) -> anyhow::Result<()> {
    let sql = "SELECT pg_current_wal_lsn()::text";
    let now: String = direct.query_one(sql, &[]).await?.get(0);
    wait::until("the slot has moved on", || async {
        let sql =
            "SELECT 1 FROM pg_replication_slots WHERE confirmed_flush_lsn >= $1::text::pg_lsn";
        Ok(direct.query_opt(sql, &[&now]).await?.map(drop))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_goes_with_the_last_node() -> anyhow::Result<()> {
    let mut cluster = three().await?;
    let direct = cluster.postgres.connect().await?;
    one_slot(&cluster).await?;
    past_its_beginning(&direct).await?;
    let leader = cluster.leader().await?;
    cluster.stop(leader).await?;
    cluster.settled().await?;
    one_slot(&cluster).await?;
    let left = cluster.running();
    cluster.stop(left[0]).await?;
    let names = cluster.postgres.slots().await?;
    ensure!(names.len() == 1, "{names:?}\n{}", cluster.logs());
    cluster.stop(left[1]).await?;
    let names = cluster.postgres.slots().await?;
    ensure!(
        names.is_empty() && readers(&cluster).await? == 0,
        "{names:?}"
    );
    Ok(())
}
