//! Several nodes on one database: what they left when each had a slot of its own, and how they hand one slot over.

use super::following::{Following, catalog, oid};
use super::server::Server;
use super::{TABLES, prepared};
use anyhow::{Result, ensure};
use ripen_cachestore::{advisory, migrate};
use ripen_hotcache::Event;
use ripen_hotcache::publication::{self, Author, Others, PublicationError, Published, Wish};
use ripen_hotcache::relay::Claim;
use ripen_hotcache::slots::{self, Leftovers};
use ripen_pg::ids::{Lsn, TableOid};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

async fn make_slot(client: &Client, name: &str, plugin: &str) -> Result<()> {
    let sql = "SELECT pg_create_logical_replication_slot($1::text::name, $2::text::name)";
    client.execute(sql, &[&name, &plugin]).await?;
    Ok(())
}

/// As earlier versions named the slot of a node.
fn of_node(slot: &str, node: u64) -> String {
    format!("{slot}_{node:016x}")
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
        of_node("my_slot", 1),
        of_node("my_slot", 2),
        of_node("my_slot", u64::MAX),
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
    let of_another_plugin = of_node("my_slot", 3);
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
        let slot = of_node("ripen", node);
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

/// The slot's position, and who reads it.
async fn slot(client: &Client) -> Result<(Lsn, Option<i32>)> {
    let sql = "SELECT confirmed_flush_lsn::text, active_pid FROM pg_replication_slots";
    let row = client.query_one(sql, &[]).await?;
    Ok((row.get::<_, &str>(0).parse()?, row.get(1)))
}

#[tokio::test]
async fn the_next_leader_takes_the_slot_and_tells_again_what_others_may_lack() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    let taken = Arc::new(AtomicU64::new(0));
    let begin =
        |catalog, claim, leads| Following::begin_for_all(&server, catalog, claim, &taken, leads);
    let mut first = begin(catalog(&client, 1).await?, None, true)?;
    let event = first.next().await?;
    let Event::Connected {
        resumed: false,
        system_id,
        timeline,
        position,
        ..
    } = event
    else {
        panic!("{event:?}");
    };
    for id in 1..=2 {
        let sql = "INSERT INTO t VALUES ($1, 'a', '')";
        client.execute(sql, &[&id]).await?;
    }
    let lacking = first.transaction().await?;
    let known = first.transaction().await?;
    ensure!(slot(&client).await?.0 == position, "not all have taken it");
    let claim = Claim {
        lineage: 1,
        history: 1,
        system_id,
        timeline,
        complete: known.commit,
    };

    // The first has not given the slot up, and only who leads for certain takes it away.
    let mut unsure = begin(catalog(&client, 1).await?, Some(claim), false)?;
    for _ in 0..3 {
        let event = unsure.next().await?;
        ensure!(matches!(event, Event::Disconnected { .. }), "{event:?}");
    }
    unsure.stop().await?;
    let reader = slot(&client).await?.1;
    let mut next = begin(catalog(&client, 1).await?, Some(claim), true)?;
    ensure!(next.connected().await?, "nothing was missed");
    let told = [next.transaction().await?, next.transaction().await?];
    assert_eq!(told, [lacking, known.clone()]);
    ensure!(slot(&client).await?.1 != reader);
    first.stop().await?;

    // What all have taken is acknowledged, and is not told again.
    taken.store(known.commit.0, Ordering::SeqCst);
    next.stop().await?;
    ensure!(slot(&client).await?.0 == known.commit);
    let behind = Claim {
        complete: position,
        ..claim
    };
    let mut late = begin(catalog(&client, 1).await?, Some(behind), true)?;
    ensure!(!late.connected().await?, "the slot has gone past it");
    late.stop().await
}

/// As one node of several makes it.
async fn publish(
    client: &mut Client,
    node: u64,
    tables: &[TableOid],
    but: &[TableOid],
) -> Result<Published, PublicationError> {
    let wish = || Wish {
        tables: tables.iter().copied().collect(),
        others: Others::Stay {
            but: but.iter().copied().collect(),
        },
        in_turn: false,
    };
    publication::ensure(client, "ripen", Author(node), &wish).await
}

async fn members(client: &Client) -> Result<BTreeSet<TableOid>> {
    let sql =
        "SELECT r.prrelid FROM pg_publication_rel r WHERE r.prrelid <> 'ripen.progress'::regclass";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| TableOid(row.get(0))).collect())
}

/// Until somebody waits for a lock.
async fn until_blocked(client: &Client) -> Result<()> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
        ensure!(Instant::now() < deadline, "nobody waits for a lock");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn nodes_that_start_at_once_make_one_publication() -> Result<()> {
    let server = Server::start(&[]).await?;
    let admin = server.client().await?;
    admin.batch_execute(TABLES).await?;
    let start = async |node: u64, tables: Vec<TableOid>| -> Result<Published> {
        migrate::migrate(&server.url("postgres").parse()?).await?;
        let mut client = server.client().await?;
        Ok(publish(&mut client, node, &tables, &[]).await?)
    };
    let (t, g) = (oid(&admin, "t").await?, oid(&admin, "g").await?);
    for _ in 0..10 {
        let (first, second, third) = tokio::try_join!(
            start(1, vec![t, g]),
            start(2, vec![t]),
            start(3, vec![g, t])
        )?;
        assert_eq!(members(&admin).await?, BTreeSet::from([t, g]));
        for (published, wanted) in [(&first, 2), (&second, 1), (&third, 2)] {
            assert_eq!(published.followed.len() + published.added.len(), wanted);
            assert_eq!(published.added.is_empty(), published.horizon.is_none());
        }
        let adders = [&first, &second, &third].map(|published| published.added.contains(&t));
        assert_eq!(adders.iter().filter(|added| **added).count(), 1);
        publication::drop(&admin, "ripen").await?;
        admin.batch_execute("DROP SCHEMA ripen CASCADE").await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_locked_when_nothing_is_to_be_changed() -> Result<()> {
    let (server, mut client) = prepared(&[]).await?;
    let (t, g) = (oid(&client, "t").await?, oid(&client, "g").await?);
    let mut other = server.client().await?;
    let locks = other.transaction().await?;
    let sql = format!(
        "SELECT pg_advisory_xact_lock({}); LOCK TABLE t, g, ripen.progress IN SHARE ROW EXCLUSIVE MODE",
        advisory::PUBLICATION
    );
    locks.batch_execute(&sql).await?;
    for tables in [&[t, g][..], &[t]] {
        let published = publish(&mut client, 1, tables, &[]).await?;
        assert_eq!(published.followed.len(), tables.len());
    }
    // What stays is not locked when something else comes.
    locks.rollback().await?;
    let locks = other.transaction().await?;
    let sql = "LOCK TABLE t, ripen.progress IN SHARE ROW EXCLUSIVE MODE";
    locks.batch_execute(sql).await?;
    assert!(publish(&mut client, 1, &[t], &[g]).await?.horizon.is_some());
    assert!(
        publish(&mut client, 1, &[t, g], &[])
            .await?
            .added
            .contains(&g)
    );
    Ok(())
}

#[tokio::test]
async fn who_must_not_miss_a_change_waits_for_its_turn() -> Result<()> {
    let (server, mut client) = prepared(&[]).await?;
    let t = oid(&client, "t").await?;
    let (mut other, watcher) = (server.client().await?, server.client().await?);
    let turn = other.transaction().await?;
    let sql = format!(
        "SELECT pg_advisory_xact_lock({}); ALTER PUBLICATION ripen DROP TABLE t",
        advisory::PUBLICATION
    );
    turn.batch_execute(&sql).await?;
    let wish = || Wish {
        tables: BTreeSet::from([t]),
        others: Others::Stay {
            but: BTreeSet::new(),
        },
        in_turn: true,
    };
    let ensured = publication::ensure(&mut client, "ripen", Author(1), &wish);
    let commit = async {
        until_blocked(&watcher).await?;
        Ok::<_, anyhow::Error>(turn.commit().await?)
    };
    let (published, committed) = tokio::join!(ensured, commit);
    committed?;
    let published = published?;
    assert!(published.added.contains(&t) && published.followed.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_stranger_who_changes_it_at_the_same_time_is_no_error() -> Result<()> {
    let (server, mut client) = prepared(&[]).await?;
    let (t, g) = (oid(&client, "t").await?, oid(&client, "g").await?);
    let (mut stranger, watcher) = (server.client().await?, server.client().await?);
    for (before, change) in [
        (
            "DROP PUBLICATION ripen",
            "CREATE PUBLICATION ripen FOR TABLE g",
        ),
        (
            "ALTER PUBLICATION ripen SET (publish = 'insert')",
            "ALTER PUBLICATION ripen SET (publish = 'update')",
        ),
        (
            "ALTER PUBLICATION ripen DROP TABLE t",
            "DROP PUBLICATION ripen",
        ),
    ] {
        client.batch_execute(before).await?;
        let transaction = stranger.transaction().await?;
        transaction.batch_execute(change).await?;
        let commit = async {
            until_blocked(&watcher).await?;
            Ok::<_, anyhow::Error>(transaction.commit().await?)
        };
        let tables = [t, g];
        let (published, committed) = tokio::join!(publish(&mut client, 1, &tables, &[]), commit);
        committed?;
        assert!(published?.added.contains(&t), "{change}");
        assert_eq!(members(&client).await?, BTreeSet::from(tables), "{change}");
    }
    Ok(())
}

#[tokio::test]
async fn tables_that_leave_the_publication_say_so_in_the_stream() -> Result<()> {
    let (server, mut client) = prepared(&[]).await?;
    let (t, g) = (oid(&client, "t").await?, oid(&client, "g").await?);
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;
    let insert = async |client: &Client, id: i32| -> Result<()> {
        let sql = "INSERT INTO t VALUES ($1, 'a', '')";
        client.execute(sql, &[&id]).await?;
        Ok(())
    };
    insert(&client, 1).await?;
    publication::withdraw(&mut client, "ripen", Author(5), &[t]).await?;
    insert(&client, 2).await?;
    publish(&mut client, 6, &[t], &[g]).await?;
    insert(&client, 3).await?;
    let mut told = Vec::new();
    while told.len() < 4 {
        told.push(
            following
                .until(|event| match event {
                    Event::Transaction(transaction) => {
                        Some(format!("{:?}", transaction.rows[0].row))
                    }
                    Event::Withdrawn { author, tables, .. } => {
                        Some(format!("{author:?} {tables:?}"))
                    }
                    _ => None,
                })
                .await?,
        );
    }
    let row = |id| format!("{:?}", super::row(t, id));
    let expected = [
        row(1),
        format!("{:?} {:?}", Author(5), [t]),
        format!("{:?} {:?}", Author(6), [g]),
        row(3),
    ];
    assert_eq!(told, expected);
    // What is not there leaves nothing to tell.
    publication::withdraw(&mut client, "ripen", Author(5), &[g]).await?;
    insert(&client, 4).await?;
    assert_eq!(following.transaction().await?.rows[0].row, super::row(t, 4));
    following.stop().await
}
