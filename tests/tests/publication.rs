//! Being published has a price in Postgres: a table without replica identity refuses updates, and cannot become unlogged. Clients of Ripen must not pay it.

use anyhow::{Context, ensure};
use ripen_tests::postgres::{Options, Postgres};
use ripen_tests::{Ripen, wait};
use tokio_postgres::{Client, SimpleQueryMessage};

const SETTINGS: &str = "[[table]]\npattern = \"*.*\"\nmode = \"read-through\"";

/// What each does to a table `t` that is followed, and the statements that must work at once afterwards.
const CHANGES: &[(&str, &str)] = &[
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", "UPDATE t SET v = 2"),
    ("ALTER TABLE t DROP COLUMN id", "DELETE FROM t WHERE v = 1"),
    (
        "ALTER TABLE t REPLICA IDENTITY NOTHING",
        "UPDATE t SET v = 2",
    ),
    ("ALTER TABLE t SET UNLOGGED", "UPDATE t SET v = 2"),
    (
        "BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET v = 2; COMMIT",
        "UPDATE t SET v = 3",
    ),
    (
        "BEGIN; ALTER TABLE t REPLICA IDENTITY NOTHING; ROLLBACK",
        "UPDATE t SET v = 2",
    ),
    (
        "ALTER TABLE t SET UNLOGGED, DROP CONSTRAINT t_pkey",
        "TRUNCATE t",
    ),
];

#[tokio::test]
async fn a_followed_table_can_be_changed_as_if_it_were_not() -> anyhow::Result<()> {
    let (postgres, ripen) = start().await?;
    let (client, direct) = (ripen.connect().await?, postgres.connect().await?);
    for (change, after) in CHANGES {
        let table = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)";
        client.batch_execute(table).await?;
        until_followed(&direct, "t").await?;
        let said = || format!("{change}; {after}");
        client.batch_execute(change).await.with_context(said)?;
        client.batch_execute(after).await.with_context(said)?;
        client.batch_execute("DROP TABLE t").await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_changed_while_a_table_was_not_followed_is_not_served_from_before()
-> anyhow::Result<()> {
    let (postgres, ripen) = start().await?;
    let (client, direct) = (ripen.connect().await?, postgres.connect().await?);
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)";
    client.batch_execute(table).await?;
    until_served(&client).await?;
    client
        .batch_execute("ALTER TABLE t REPLICA IDENTITY NOTHING")
        .await?;
    direct.batch_execute("UPDATE t SET v = 2").await?;
    client
        .batch_execute("ALTER TABLE t REPLICA IDENTITY DEFAULT")
        .await?;
    let value = until_served(&client).await?;
    ensure!(value == "2", "served {value} from memory, Postgres has 2");
    Ok(())
}

#[tokio::test]
async fn what_ran_when_a_table_was_published_is_waited_for_by_the_next_process_too()
-> anyhow::Result<()> {
    let (postgres, mut ripen) = start().await?;
    let (long, direct) = (postgres.connect().await?, postgres.connect().await?);
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)";
    direct.batch_execute(table).await?;
    // Not told by the stream: the table is not published yet.
    let change = "BEGIN; UPDATE t SET v = 2";
    long.batch_execute(change).await?;
    until_followed(&direct, "t").await?;
    ripen.kill9().await?;
    ripen.restart().await?;
    let client = ripen.connect().await?;
    let value = first(&client, "SELECT v FROM t WHERE id = 1").await?;
    ensure!(value == "1", "{value}");
    long.batch_execute("COMMIT").await?;
    let value = until_served(&client).await?;
    ensure!(value == "2", "served {value} from memory, Postgres has 2");
    Ok(())
}

async fn start() -> anyhow::Result<(Postgres, Ripen)> {
    let postgres = Postgres::start(Options::default()).await?;
    let ripen = Ripen::start(&postgres.url(), &[("file", SETTINGS)]).await?;
    Ok((postgres, ripen))
}

async fn until_followed(direct: &Client, table: &str) -> anyhow::Result<()> {
    let sql = "SELECT FROM pg_publication_tables WHERE pubname = 'ripen' AND tablename = $1";
    wait::until("the table is published", || async {
        Ok(direct.query_opt(sql, &[&table]).await?.map(drop))
    })
    .await
}

/// Reads row 1 until it comes from memory, and answers its `v`.
async fn until_served(client: &Client) -> anyhow::Result<String> {
    wait::until("the row is served from memory", || async {
        let value = first(client, "SELECT v FROM t WHERE id = 1").await?;
        let route = first(client, "SHOW ripen.route").await?;
        Ok((route == "read").then_some(value))
    })
    .await
}

async fn first(client: &Client, sql: &str) -> anyhow::Result<String> {
    let said = client.simple_query(sql).await?;
    let row = said.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.context("no row")?.to_owned())
}
