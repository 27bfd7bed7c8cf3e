//! A node that leaves its cluster sends its clients away first: a transaction that is open goes on to its end as ever, nobody new comes in, and the others find nothing held.

use anyhow::{Context, ensure};
use ripen_tests::{Cluster, wait};
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TABLE cells (id int PRIMARY KEY, v bigint NOT NULL); INSERT INTO cells SELECT i, 0 FROM generate_series(0, 11) i";
const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "50ms"),
    ("barrier_timeout", "50s"),
];

/// What the node tells clients that come by now.
async fn told(cluster: &Cluster, node: usize) -> Option<String> {
    let error = cluster.connect(node).await.err()?;
    Some(format!("{error:#}"))
}

async fn add(client: &Client, id: i32) -> anyhow::Result<()> {
    let sql = "UPDATE cells SET v = v + 1 WHERE id = $1";
    ensure!(client.execute(sql, &[&id]).await? == 1, "cell {id}");
    Ok(())
}

/// The client's transaction is open when its node is asked to leave, and ends later.
async fn transaction(cluster: &Cluster, client: &Client, idle: &Client) -> anyhow::Result<()> {
    wait::until("the idle client is sent away", || async {
        Ok(idle.is_closed().then_some(()))
    })
    .await?;
    let told = told(cluster, 2).await.context("a client was let in")?;
    ensure!(told.contains("leaving its cluster"), "{told}");
    // What it touches first only now must be known to all nodes, this one too.
    add(client, 2).await?;
    client
        .batch_execute("LOCK TABLE cells IN SHARE ROW EXCLUSIVE MODE; COMMIT")
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_leaves_when_the_transactions_of_its_clients_have_ended() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(SCHEMA, 3, SETTINGS).await?;
    let (client, idle) = (cluster.connect(2).await?, cluster.connect(2).await?);
    client
        .batch_execute("BEGIN; SELECT pg_backend_pid()")
        .await?;
    add(&client, 1).await?;
    let (left, ended) = tokio::join!(
        cluster.node(2).ask_node("leave"),
        transaction(&cluster, &client, &idle)
    );
    ended.with_context(|| cluster.logs())?;
    let left = left?;
    ensure!(left.status.success(), "{left:?}");
    cluster.gone(2).await?;

    let other = cluster.connect(0).await?;
    add(&other, 1).await?;
    add(&other, 2).await?;
    cluster.drained().await?;
    let postgres = cluster.postgres.connect().await?;
    let sql = "SELECT string_agg(v::text, ' ' ORDER BY id) FROM cells WHERE id IN (1, 2, 3)";
    let cells: String = postgres.query_one(sql, &[]).await?.get(0);
    ensure!(cells == "2 2 0", "{cells}");
    Ok(())
}
