//! A cancel request works at whatever node of a cluster it comes to, for what runs in Postgres and for what waits in Ripen; and only with the right secret.

use anyhow::ensure;
use ripen_tests::wire::{self, Wire, query, transcript};
use ripen_tests::{Cluster, wait};
use std::time::Duration;

const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "50ms"),
    ("barrier_timeout", "50s"),
];

fn server(cluster: &Cluster, node: usize) -> (&str, u16) {
    let place = cluster.node(node).place();
    (&place.host, place.port)
}

async fn log_in(cluster: &Cluster, node: usize) -> anyhow::Result<Wire> {
    let name = format!("client of node {node}");
    let parameters = [
        ("user", "postgres"),
        ("database", "postgres"),
        ("application_name", &name),
    ];
    Wire::connect_to(server(cluster, node), &parameters).await
}

/// Waits until so many backends of that node's client run a statement that contains these words.
async fn until_backends(
    cluster: &Cluster,
    node: usize,
    words: &str,
    count: i64,
) -> anyhow::Result<()> {
    let postgres = cluster.postgres.connect().await?;
    let name = format!("client of node {node}");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE '%' || $2 || '%' AND (state = 'active' OR $2 = '')";
    wait::until("the backends that were expected", || async {
        let found: i64 = postgres.query_one(sql, &[&name, &words]).await?.get(0);
        Ok((found == count).then_some(()))
    })
    .await
}

async fn ensure_cancelled(client: &mut Wire) -> anyhow::Result<()> {
    let told = transcript(&client.read_until_ready().await?);
    ensure!(
        told.contains("57014") && told.contains("canceling statement due to user request"),
        "{told}"
    );
    let alive = client.exchange(&query("SELECT 42")).await?;
    ensure!(alive.contains("42"), "{alive}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_may_come_to_any_node() -> anyhow::Result<()> {
    let schema = "CREATE TABLE cells (id int PRIMARY KEY, v bigint NOT NULL); INSERT INTO cells SELECT i, 0 FROM generate_series(0, 11) i";
    let cluster = Cluster::start(schema, 3, SETTINGS).await?;
    for at in [0, 1, 2] {
        for asked in [0, 1, 2] {
            what_runs_in_postgres(&cluster, at, asked).await?;
        }
    }
    for asked in [1, 2] {
        what_waits_in_ripen(&cluster, 0, asked).await?;
    }
    wrong_secrets(&cluster).await
}

/// The session has another backend by then than the one that its key was made by.
async fn what_runs_in_postgres(cluster: &Cluster, at: usize, asked: usize) -> anyhow::Result<()> {
    let mut client = log_in(cluster, at).await?;
    until_backends(cluster, at, "", 0).await?;
    client.send(&query("SELECT pg_sleep(600)")).await?;
    until_backends(cluster, at, "pg_sleep", 1).await?;
    wire::cancel(server(cluster, asked), client.key()?).await?;
    ensure_cancelled(&mut client).await?;
    drop(client);
    until_backends(cluster, at, "", 0).await
}

/// A statement that waits for a flush, which waits for somebody's lock.
async fn what_waits_in_ripen(cluster: &Cluster, at: usize, asked: usize) -> anyhow::Result<()> {
    let mut locker = cluster.postgres.connect().await?;
    let lock = locker.transaction().await?;
    lock.execute("SELECT FROM cells WHERE id = 3 FOR UPDATE", &[])
        .await?;
    let mut client = log_in(cluster, at).await?;
    let queued = client
        .exchange(&query("UPDATE cells SET v = v + 1 WHERE id = 3"))
        .await?;
    ensure!(queued.contains("UPDATE 1"), "{queued}");
    client.send(&query("SELECT sum(v) FROM cells")).await?;
    // It cannot end by itself, and whether it waits already is nobody's to say: asking again does no harm.
    let told = loop {
        wire::cancel(server(cluster, asked), client.key()?).await?;
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(500), client.read()).await {
            break told?;
        }
    };
    let told = told.map(|message| message.to_string()).unwrap_or_default();
    ensure!(told.contains("57014"), "{told}");
    client.read_until_ready().await?;
    lock.rollback().await?;
    let sum = client.exchange(&query("SELECT sum(v) FROM cells")).await?;
    ensure!(!sum.contains("ERROR"), "{sum}");
    drop(client);
    until_backends(cluster, at, "", 0).await
}

/// Nobody's statement is cancelled by who knows only its process number.
async fn wrong_secrets(cluster: &Cluster) -> anyhow::Result<()> {
    let locker = cluster.postgres.connect().await?;
    locker.execute("SELECT pg_advisory_lock(7)", &[]).await?;
    let mut client = log_in(cluster, 0).await?;
    client.send(&query("SELECT pg_advisory_lock(7)")).await?;
    until_backends(cluster, 0, "pg_advisory_lock", 1).await?;
    let (pid, secret) = client.key()?.split_at(4);
    let wrong: Vec<u8> = secret.iter().map(|byte| byte ^ 1).collect();
    for asked in 0..3 {
        for secret in [&wrong[..], &secret[..3], &[], &[0; 300]] {
            wire::cancel(server(cluster, asked), &[pid, secret].concat()).await?;
        }
    }
    locker.execute("SELECT pg_advisory_unlock(7)", &[]).await?;
    let told = transcript(&client.read_until_ready().await?);
    ensure!(told.contains("SELECT 1"), "{told}");
    Ok(())
}
