//! Tables that are held whole: loaded before anybody asks, followed by log and WAL, loaded again when they are lost; whatever is asked of them, and whatever is not there, memory says.

use anyhow::{Context, ensure};
use ripen_tests::answers::{at_once, route, rows};
use ripen_tests::{Pair, Ripen, wait};

const SCHEMA: &str = "CREATE TABLE kinds (id int PRIMARY KEY, name text COLLATE \"C\" NOT NULL, rank int, note text);
    INSERT INTO kinds SELECT g, 'kind ' || g, g % 7, 'n' || g % 3 FROM generate_series(1, 300) g;
    CREATE TABLE plain (id int PRIMARY KEY, rank int);
    INSERT INTO plain VALUES (1, 1);";

/// Nothing ripens by itself.
const RESIDENT: &str = "write_behind = [\"public.*\"]\nwrite_delay = \"1h\"\n[[table]]\npattern = \"public.kinds\"\nresident = true";

/// Memory says what Postgres says, once the stream has come as far.
async fn follows(pair: &Pair, sql: &str) -> anyhow::Result<()> {
    let real = rows(&pair.direct, sql).await?;
    wait::until("memory says what Postgres says", || async {
        let told = rows(&pair.proxied, sql).await?;
        Ok((told == real && route(&pair.proxied).await?.0 == "read").then_some(()))
    })
    .await
    .with_context(|| format!("{sql}: {real:?}"))
}

/// Nobody has asked for it, and it is there.
async fn whole(ripen: &Ripen, rows: f64) -> anyhow::Result<()> {
    wait::until("the table is in memory", || async {
        let (sets, there) = (ripen.number("sets").await?, ripen.number("set_rows").await?);
        Ok((sets == 1.0 && there == rows).then_some(()))
    })
    .await
}

async fn start(settings: &str) -> anyhow::Result<Pair> {
    Pair::start(SCHEMA, &[("file", settings)]).await
}

const ASKED: &[&str] = &[
    "SELECT * FROM kinds ORDER BY id",
    "SELECT id FROM kinds WHERE rank = 3 ORDER BY id",
    "SELECT id, name FROM kinds WHERE name > 'kind 29' AND note = 'n1' ORDER BY name DESC LIMIT 5",
    "SELECT count(*), min(name), sum(rank) FROM kinds",
    "SELECT count(*) FROM kinds WHERE rank IN (1, 2)",
    "SELECT EXISTS (SELECT 1 FROM kinds WHERE rank = 9)",
    "SELECT name FROM kinds WHERE id = 17",
    "SELECT name FROM kinds WHERE id = 1700",
];

#[tokio::test]
async fn a_resident_table_is_there_before_anybody_asks() -> anyhow::Result<()> {
    let pair = start(RESIDENT).await?;
    whole(&pair.ripen, 300.0).await?;
    for sql in ASKED {
        follows(&pair, sql).await?;
    }
    let (loads, misses) = (
        pair.ripen.number("loads").await?,
        pair.ripen.number("misses").await?,
    );
    for sql in ASKED {
        ensure!(
            at_once(&pair.proxied, sql).await? == rows(&pair.direct, sql).await?,
            "{sql}"
        );
    }
    // What is not there is known not to be.
    for id in 1000..1020 {
        let sql = format!("SELECT name FROM kinds WHERE id = {id}");
        ensure!(at_once(&pair.proxied, &sql).await?.is_empty(), "{sql}");
    }
    ensure!(
        pair.ripen.number("loads").await? == loads,
        "something was loaded"
    );
    ensure!(
        pair.ripen.number("misses").await? == misses,
        "something was missed"
    );
    rows(&pair.proxied, "SELECT id FROM plain WHERE rank = 1").await?;
    let (way, why) = route(&pair.proxied).await?;
    ensure!(way == "pass" && why.starts_with("no-key"), "{way} {why}");
    Ok(())
}

#[tokio::test]
async fn pending_rows_are_in_it_at_once() -> anyhow::Result<()> {
    let pair = start(RESIDENT).await?;
    whole(&pair.ripen, 300.0).await?;
    let (sql, other) = (
        "SELECT id FROM kinds WHERE rank = 99 ORDER BY id",
        pair.ripen.connect().await?,
    );
    follows(&pair, sql).await?;
    let steps: [(&str, &[&str]); 5] = [
        ("INSERT INTO kinds VALUES (301, 'new', 99)", &["301"]),
        ("UPDATE kinds SET rank = 99 WHERE id = 5", &["5", "301"]),
        ("DELETE FROM kinds WHERE id = 301", &["5"]),
        ("INSERT INTO kinds VALUES (302, 'newer', 99)", &["5", "302"]),
        ("UPDATE kinds SET rank = 1 WHERE id = 5", &["302"]),
    ];
    for (change, there) in steps {
        rows(&pair.proxied, change).await?;
        ensure!(route(&pair.proxied).await?.0 == "write", "{change}");
        let told = at_once(&other, sql).await?;
        let told: Vec<&str> = told.iter().filter_map(|row| row[0].as_deref()).collect();
        ensure!(told == there, "{change}: {told:?}");
    }
    ensure!(at_once(&other, "SELECT count(*) FROM kinds").await?[0][0].as_deref() == Some("301"));
    ensure!(
        at_once(&other, "SELECT id FROM kinds WHERE id = 301")
            .await?
            .is_empty()
    );
    ensure!(
        rows(&pair.direct, sql).await?.is_empty(),
        "nothing is in Postgres yet"
    );
    pair.flush().await?;
    follows(&pair, "SELECT * FROM kinds ORDER BY id").await
}

#[tokio::test]
async fn what_others_write_is_in_it() -> anyhow::Result<()> {
    let pair = start(RESIDENT).await?;
    whole(&pair.ripen, 300.0).await?;
    let changes = [
        "INSERT INTO kinds VALUES (400, 'out', 1)",
        "UPDATE kinds SET rank = 70 WHERE rank = 3",
        "UPDATE kinds SET id = 500 WHERE id = 400",
        "DELETE FROM kinds WHERE id < 20",
        "ALTER TABLE kinds ADD COLUMN more int DEFAULT 3",
        "TRUNCATE kinds",
        "INSERT INTO kinds SELECT g, 'again', g FROM generate_series(1, 50) g",
    ];
    for change in changes {
        pair.direct.batch_execute(change).await?;
        follows(&pair, "SELECT * FROM kinds ORDER BY id")
            .await
            .context(change)?;
        follows(&pair, "SELECT name FROM kinds WHERE id = 400")
            .await
            .context(change)?;
    }
    // By statements that pass through, too.
    rows(
        &pair.proxied,
        "UPDATE kinds SET rank = 5 WHERE name = 'again'",
    )
    .await?;
    let sql = "SELECT count(*) FROM kinds WHERE rank = 5";
    let told = rows(&pair.proxied, sql).await?;
    ensure!(told[0][0].as_deref() == Some("50"), "{told:?}");
    follows(&pair, sql).await
}

#[tokio::test]
async fn a_lost_one_is_loaded_again() -> anyhow::Result<()> {
    let mut pair = start(RESIDENT).await?;
    whole(&pair.ripen, 300.0).await?;
    wait::until("the slot is gone", || async {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
        rows(&pair.direct, end).await?;
        let dropping = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        let dropped = rows(&pair.direct, dropping).await;
        // Nobody will ever tell this.
        let change = "INSERT INTO kinds VALUES (600, 'untold', 6)";
        Ok(match dropped {
            Ok(slots) if !slots.is_empty() => Some(pair.direct.batch_execute(change).await?),
            _ => None,
        })
    })
    .await?;
    follows(&pair, "SELECT * FROM kinds ORDER BY id").await?;
    whole(&pair.ripen, 301.0).await?;
    rows(&pair.proxied, "UPDATE kinds SET rank = 99 WHERE id = 600").await?;
    pair.ripen.kill9().await?;
    pair.ripen.restart().await?;
    pair.proxied = pair.ripen.connect().await?;
    whole(&pair.ripen, 301.0).await?;
    let told = wait::until("what was pending is in it", || async {
        let told = rows(&pair.proxied, "SELECT id FROM kinds WHERE rank = 99").await?;
        Ok((route(&pair.proxied).await?.0 == "read").then_some(told))
    })
    .await?;
    ensure!(told.len() == 1, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_cannot_be_held_says_so() -> anyhow::Result<()> {
    let pair = start(&format!("resident_rows_max = 299\n{RESIDENT}")).await?;
    wait::until("it is told that there are too many rows", || async {
        let told = pair
            .ripen
            .log()
            .contains("more rows than resident_rows_max");
        Ok(told.then_some(()))
    })
    .await?;
    let told = rows(&pair.proxied, "SELECT count(*) FROM kinds").await?;
    ensure!(told[0][0].as_deref() == Some("300"), "{told:?}");
    let (way, why) = route(&pair.proxied).await?;
    ensure!(
        way == "pass" && why.starts_with("resident-too-large"),
        "{way} {why}"
    );
    rows(&pair.direct, "DELETE FROM kinds WHERE id = 7").await?;
    follows(&pair, "SELECT count(*) FROM kinds").await?;
    let upstream = pair.postgres.url();
    let aged = "[[table]]\npattern = \"public.kinds\"\nresident = true\nexpiry = \"1min\"";
    let mut refused = Ripen::start_unready(&upstream, &[("file", aged)])?;
    let why = refused.wait_refusal().await?;
    ensure!(
        why.contains("a table with an expiry cannot be held whole"),
        "{why}"
    );
    Ok(())
}
