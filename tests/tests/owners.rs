//! Clean rows among the nodes of a cluster: each is loaded from Postgres once and kept by its owner, others ask that one; a dead owner is done without, a new one is warmed by its peers.

use anyhow::ensure;
use ripen_tests::{Cluster, wait};
use tokio_postgres::Client;

const ROWS: i32 = 1500;
const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, v text NOT NULL);
    INSERT INTO items SELECT i, 'item ' || i FROM generate_series(0, 1499) i;
    CREATE TABLE singles (id int PRIMARY KEY, v text NOT NULL);
    INSERT INTO singles SELECT i, 'single ' || i FROM generate_series(0, 59) i;
    ANALYZE";

/// What all running nodes have counted.
async fn sum(cluster: &Cluster, name: &str) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for node in cluster.running() {
        sum += cluster.node(node).number(name).await?;
    }
    Ok(sum)
}

async fn clients(cluster: &Cluster) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for node in cluster.running() {
        clients.push(cluster.connect(node).await?);
    }
    Ok(clients)
}

/// Every node sees so many, and answers from memory.
async fn see_each_other(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    for node in cluster.running() {
        let ripen = cluster.node(node);
        wait::until("all nodes own rows", || async {
            let owners = ripen.number("owners").await?;
            let may_read = ripen.number("node_may_read").await?;
            Ok((owners == count as f64 && may_read == 1.0).then_some(()))
        })
        .await?;
        // A table is served when it is followed.
        let client = cluster.connect(node).await?;
        wait::until("rows are told from memory", || async {
            client
                .query("SELECT v FROM items WHERE id = -1", &[])
                .await?;
            client
                .query("SELECT v FROM singles WHERE id = -1", &[])
                .await?;
            let route = client.query_one("SHOW ripen.route", &[]).await?;
            let route: &str = route.get(0);
            Ok((route == "read").then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn read_all(client: &Client) -> anyhow::Result<()> {
    for first in (0..ROWS).step_by(50) {
        let ids: Vec<i32> = (first..first + 50).collect();
        let rows = client
            .query("SELECT id, v FROM items WHERE id = ANY($1)", &[&ids])
            .await?;
        ensure!(rows.len() == 50, "{} of 50 rows from {first}", rows.len());
        for row in rows {
            let (id, v): (i32, &str) = (row.get(0), row.get(1));
            ensure!(v == format!("item {id}"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_loaded_once_and_kept_by_their_owners() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(SCHEMA, 3, &[("near_share", "0")]).await?;
    see_each_other(&cluster, 3).await?;
    let clients = clients(&cluster).await?;

    // One by one, through all nodes: one load each, however many ask.
    let (loads, fallbacks) = (
        sum(&cluster, "loads").await?,
        sum(&cluster, "peer_fallback_rows").await?,
    );
    for id in 0..60 {
        for client in &clients {
            let row = client
                .query_one("SELECT v FROM singles WHERE id = $1", &[&id])
                .await?;
            ensure!(row.get::<_, &str>(0) == format!("single {id}"));
        }
    }
    let loads = sum(&cluster, "loads").await? - loads;
    let fallbacks = sum(&cluster, "peer_fallback_rows").await? - fallbacks;
    ensure!(
        loads <= 60.0 + fallbacks && fallbacks < 60.0,
        "{loads} loads of 60 rows, {fallbacks} not answered"
    );
    ensure!(sum(&cluster, "peer_lent_rows").await? > 60.0);

    // Each is kept once: together the nodes keep more than any of them.
    for client in &clients {
        read_all(client).await?;
    }
    let all = sum(&cluster, "cached_rows").await?;
    ensure!(all >= f64::from(ROWS), "{all} rows in memory");
    for node in cluster.running() {
        let kept = cluster.node(node).number("cached_rows").await?;
        ensure!(
            kept < 0.5 * f64::from(ROWS),
            "node {node} keeps {kept} of {ROWS} rows"
        );
    }
    let (loads, fallbacks) = (
        sum(&cluster, "loads").await?,
        sum(&cluster, "peer_fallback_rows").await?,
    );
    for client in &clients {
        read_all(client).await?;
    }
    let loads = sum(&cluster, "loads").await? - loads;
    let fallbacks = sum(&cluster, "peer_fallback_rows").await? - fallbacks;
    ensure!(
        loads <= fallbacks && fallbacks < 0.1 * f64::from(ROWS),
        "{loads} loads of rows that the cluster has, {fallbacks} not answered"
    );

    // A change through one node is seen through all at once, one of others soon.
    clients[0]
        .execute("UPDATE singles SET v = 'changed' WHERE id = 7", &[])
        .await?;
    for client in &clients {
        let row = client
            .query_one("SELECT v FROM singles WHERE id = 7", &[])
            .await?;
        ensure!(row.get::<_, &str>(0) == "changed");
    }
    let outside = cluster.postgres.connect().await?;
    outside
        .execute("UPDATE singles SET v = 'outside' WHERE id < 60", &[])
        .await?;
    for client in &clients {
        for id in 0..60 {
            wait::until("the change arrives", || async {
                let row = client
                    .query_one("SELECT v FROM singles WHERE id = $1", &[&id])
                    .await?;
                Ok((row.get::<_, &str>(0) == "outside").then_some(()))
            })
            .await?;
        }
    }

    // An owner dies: the others answer for its rows.
    let leader = cluster.leader().await?;
    let victim = (leader + 1) % 3;
    cluster.kill9(victim).await?;
    for (node, client) in clients.iter().enumerate() {
        if node != victim {
            read_all(client).await?;
        }
    }
    see_each_other(&cluster, 2).await?;
    cluster.restart(victim).await?;
    see_each_other(&cluster, 3).await?;
    read_all(&cluster.connect(victim).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_is_warmed_by_its_peers() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(SCHEMA, 3, &[]).await?;
    see_each_other(&cluster, 3).await?;
    for client in clients(&cluster).await? {
        read_all(&client).await?;
    }
    let newcomer = cluster.add().await?;
    see_each_other(&cluster, 4).await?;
    let (loads, fallbacks) = (
        sum(&cluster, "loads").await?,
        sum(&cluster, "peer_fallback_rows").await?,
    );
    read_all(&cluster.connect(newcomer).await?).await?;
    let ripen = cluster.node(newcomer);
    let (warmed, borrowed) = (
        ripen.number("peer_warmed_rows").await?,
        ripen.number("peer_borrowed_rows").await?,
    );
    ensure!(
        warmed > 0.15 * f64::from(ROWS) && borrowed > 0.9 * f64::from(ROWS),
        "{warmed} rows from those who had them before, {borrowed} in all"
    );
    let loads = sum(&cluster, "loads").await? - loads;
    let fallbacks = sum(&cluster, "peer_fallback_rows").await? - fallbacks;
    ensure!(
        loads <= fallbacks && fallbacks < 0.1 * f64::from(ROWS),
        "{loads} loads of rows that the cluster had, {fallbacks} not answered"
    );
    Ok(())
}
