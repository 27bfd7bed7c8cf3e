//! Several databases of one Postgres, each with a Ripen of its own: replication slots belong to the whole server, and none of them takes another's.

use anyhow::{Context, ensure};
use ripen_tests::postgres::{self, Options};
use ripen_tests::{Postgres, Ripen, wait};
use tokio_postgres::Client;

const SCHEMA: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t VALUES (1, 0)";

/// A new database with the schema: its URL.
async fn database(postgres: &Postgres, name: &str) -> anyhow::Result<String> {
    let url = postgres.create_database(name).await?;
    postgres::connect(&url).await?.batch_execute(SCHEMA).await?;
    Ok(url)
}

/// The row's value, and whether memory told it.
async fn read(client: &Client) -> anyhow::Result<(i32, bool)> {
    let v = client
        .query_one("SELECT v FROM t WHERE id = 1", &[])
        .await?;
    let route = client.query_one("SHOW ripen.route", &[]).await?;
    Ok((v.get(0), route.get::<_, &str>(0) == "read"))
}

/// What others write to the database arrives in this one's memory.
async fn follows(ripen: &Ripen, url: &str) -> anyhow::Result<()> {
    let (client, direct) = (ripen.connect().await?, postgres::connect(url).await?);
    wait::until("the row is in memory", || async {
        Ok(read(&client).await?.1.then_some(()))
    })
    .await
    .with_context(|| ripen.log())?;
    let sql = "UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v";
    let written: i32 = direct.query_one(sql, &[]).await?.get(0);
    wait::until("the new value is in memory", || async {
        Ok((read(&client).await? == (written, true)).then_some(()))
    })
    .await
    .with_context(|| ripen.log())
}

#[tokio::test]
async fn each_database_of_a_server_is_followed() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    let (first, second) = (
        database(&postgres, "first").await?,
        database(&postgres, "Second-2").await?,
    );
    let mut one = Ripen::start(&first, &[]).await?;
    let mut two = Ripen::start(&second, &[]).await?;
    follows(&one, &first).await?;
    follows(&two, &second).await?;
    let mut names = [
        postgres.slot_of("first").await?,
        postgres.slot_of("Second-2").await?,
    ];
    names.sort();
    ensure!(postgres.slots().await? == names);
    // One that stops takes its own slot along, and only that.
    two.stop().await?;
    let left = postgres.slot_of("first").await?;
    ensure!(postgres.slots().await? == [left]);
    follows(&one, &first).await?;
    one.stop().await?;
    ensure!(postgres.slots().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_slot_of_the_name_that_all_had_before_is_gone_on_with() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    let url = database(&postgres, "shop").await?;
    let before = "SELECT pg_create_logical_replication_slot('ripen', 'pgoutput')";
    let direct = postgres::connect(&url).await?;
    // As one of an earlier version leaves it: behind its publication.
    direct.batch_execute("CREATE PUBLICATION ripen").await?;
    direct.execute(before, &[]).await?;
    let other = database(&postgres, "other").await?;
    let mut ripen = Ripen::start(&url, &[]).await?;
    let beside = Ripen::start(&other, &[]).await?;
    follows(&ripen, &url).await?;
    follows(&beside, &other).await?;
    let others = postgres.slot_of("other").await?;
    ensure!(postgres.slots().await? == ["ripen".to_owned(), others.clone()]);
    ripen.stop().await?;
    ensure!(postgres.slots().await? == std::slice::from_ref(&others));
    ripen.restart().await?;
    follows(&ripen, &url).await?;
    let mut names = [others, postgres.slot_of("shop").await?];
    names.sort();
    ensure!(postgres.slots().await? == names);
    Ok(())
}

#[tokio::test]
async fn a_name_that_another_database_has_is_refused_in_words_and_left_alone() -> anyhow::Result<()>
{
    let postgres = Postgres::start(Options::default()).await?;
    let (first, second) = (
        database(&postgres, "first").await?,
        database(&postgres, "second").await?,
    );
    let mut one = Ripen::start(&first, &[("slot", "mine")]).await?;
    follows(&one, &first).await?;
    let mut two = Ripen::start(&second, &[("slot", "mine")]).await?;
    let told = wait::until("it says why it does not follow", || async {
        let shown = two
            .connect()
            .await?
            .query("SHOW ripen.hotcache", &[])
            .await?;
        let obstacle = shown
            .iter()
            .find(|row| row.get::<_, &str>(0) == "hotcache_obstacle")
            .context("hotcache_obstacle is not shown")?;
        let why: String = obstacle.get(1);
        Ok((!why.is_empty()).then_some(why))
    })
    .await?;
    for words in ["\"mine\"", "belongs to database \"first\"", "set \"slot\""] {
        ensure!(told.contains(words), "{told}");
        ensure!(two.log().contains(words), "{}", two.log());
    }
    // Nobody reads the slot now; it is the other's all the same.
    one.kill9().await?;
    two.stop().await?;
    ensure!(postgres.slots().await? == ["mine"]);
    one.restart().await?;
    follows(&one, &first).await?;
    Ok(())
}
