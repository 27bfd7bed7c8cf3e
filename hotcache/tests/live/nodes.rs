//! Several nodes on one database: each has a slot of its own.

use super::following::{Following, catalog, oid};
use super::prepared;
use anyhow::Result;
use ripen_hotcache::slots::{self, Leftovers};
use std::collections::BTreeSet;
use tokio_postgres::Client;

async fn make_slot(client: &Client, name: &str, plugin: &str) -> Result<()> {
    let sql = "SELECT pg_create_logical_replication_slot($1::text::name, $2::text::name)";
    client.execute(sql, &[&name, &plugin]).await?;
    Ok(())
}

async fn slots(client: &Client) -> Result<Vec<String>> {
    let sql = "SELECT slot_name::text FROM pg_replication_slots ORDER BY 1";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn slots_of_nodes_that_are_gone_are_dropped() -> Result<()> {
    let (server, client) = prepared(&["max_replication_slots = 20"]).await?;
    let (member, gone, reading) = (
        slots::of_node("my_slot", 1)?,
        slots::of_node("my_slot", 2)?,
        slots::of_node("my_slot", u64::MAX)?,
    );
    let foreign = [
        "my_slot_x",
        "my_slot_00000000000000023",
        "myxslot_0000000000000002",
        "other",
    ];
    for name in [&member, &gone, "my_slot"].into_iter().chain(foreign) {
        make_slot(&client, name, "pgoutput").await?;
    }
    let of_another_plugin = slots::of_node("my_slot", 3)?;
    make_slot(&client, &of_another_plugin, "test_decoding").await?;
    let mut following = Following::begin_on(
        &reading,
        &server,
        "postgres",
        catalog(&client, 1).await?,
        true,
    )?;
    following.connected().await?;

    let keep = BTreeSet::from([member.clone()]);
    let leftovers = slots::drop_others(&client, "my_slot", &keep).await?;
    let expected = Leftovers {
        dropped: set(&[&gone, "my_slot"]),
        in_use: set(&[&reading]),
    };
    assert_eq!(leftovers, expected);
    following.stop().await?;
    let leftovers = slots::drop_others(&client, "my_slot", &keep).await?;
    assert!(leftovers.dropped.is_empty());
    let mut left = foreign.to_vec();
    left.extend([member.as_str(), &of_another_plugin]);
    left.sort_unstable();
    assert_eq!(slots(&client).await?, left);
    Ok(())
}

#[tokio::test]
async fn each_node_follows_on_its_own() -> Result<()> {
    let (server, client) = prepared(&["max_wal_senders = 10"]).await?;
    let t = oid(&client, "t").await?;
    let mut nodes = Vec::new();
    for node in 1..=3 {
        let slot = slots::of_node("ripen", node)?;
        let catalog = catalog(&client, 1).await?;
        nodes.push(Following::begin_on(
            &slot, &server, "postgres", catalog, false,
        )?);
    }
    for node in &mut nodes {
        assert!(!node.connected().await?);
    }
    client
        .batch_execute("INSERT INTO t VALUES (1, 'a', '')")
        .await?;
    for node in &mut nodes {
        assert_eq!(node.transaction().await?.rows[0].row, super::row(t, 1));
    }
    assert_eq!(slots(&client).await?.len(), 3);
    for node in nodes {
        node.stop().await?;
    }
    Ok(())
}
