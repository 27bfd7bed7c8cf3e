//! Rows that refer to others: they are queued where what they refer to is in Postgres, and Postgres's word counts wherever it is not.

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_tests::pair::queue;
use ripen_tests::postgres::Options;
use ripen_tests::{Pair, Postgres, Ripen, postgres, wait};
use std::fmt::Write;
use tokio_postgres::{Client, SimpleQueryMessage};

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];

const SCHEMA: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE, state text);
    CREATE TABLE items (shop text, no int, name text, PRIMARY KEY (shop, no));
    CREATE TABLE lines (id int PRIMARY KEY, ord int REFERENCES orders, no int, shop varchar(9), FOREIGN KEY (no, shop) REFERENCES items (no, shop));
    CREATE TABLE tree (id int PRIMARY KEY, above int REFERENCES tree DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO customers VALUES (1, 'a'), (2, 'b');
    INSERT INTO items VALUES ('x', 1, 'i'), ('x', 2, 'j');
    INSERT INTO orders VALUES (100, 1, 'new');
    INSERT INTO tree VALUES (1, NULL);";

async fn state(client: &Client, sql: &str) -> Option<String> {
    let error = client.simple_query(sql).await.err()?;
    Some(error.code()?.code().to_owned())
}

async fn count(client: &Client, sql: &str) -> anyhow::Result<i64> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

#[tokio::test]
async fn a_row_whose_parents_are_there_is_queued() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let client = &pair.proxied;
    for sql in [
        "INSERT INTO orders (customer) VALUES (1) RETURNING id",
        "INSERT INTO orders (id, customer) VALUES (200, 1), (201, 2), (202, 1)",
        "INSERT INTO lines VALUES (1, 100, 1, 'x')",
        "INSERT INTO lines VALUES (2, NULL, 1, NULL)",
        "UPDATE lines SET no = 2, shop = 'x' WHERE id = 2",
        "UPDATE lines SET ord = NULL WHERE id = 1",
        "UPDATE lines SET ord = 100 WHERE id = 1",
        "INSERT INTO lines VALUES (1, 100, 2, 'x') ON CONFLICT (id) DO UPDATE SET ord = excluded.ord",
        "INSERT INTO tree VALUES (2, 1)",
        "UPDATE orders SET state = 'paid' WHERE id = 200",
    ] {
        queue(client, sql).await?;
    }
    let there = "SELECT count(*) FROM lines";
    ensure!(count(&pair.direct, there).await? == 0);
    pair.flush().await?;
    ensure!(count(&pair.direct, there).await? == 2);
    let sum = "SELECT count(*) FROM orders WHERE state IS DISTINCT FROM 'new'";
    ensure!(count(&pair.direct, sum).await? == 4);
    let letters = "SELECT count(*) FROM ripen.dead_letter";
    ensure!(count(&pair.direct, letters).await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_row_whose_parents_are_not_there_is_refused_by_postgres() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let client = &pair.proxied;
    let refused = Some("23503".to_owned());
    for sql in [
        "INSERT INTO orders (customer) VALUES (3) RETURNING id",
        "INSERT INTO orders (id, customer) VALUES (300, 1), (301, 9)",
        "INSERT INTO lines VALUES (1, 100, 3, 'x')",
        "INSERT INTO tree VALUES (9, 8)",
        "UPDATE orders SET customer = 5 WHERE id = 100",
    ] {
        ensure!(state(client, sql).await == refused, "{sql}");
    }
    // What is not there yet, is there for what comes after it.
    queue(client, "INSERT INTO customers VALUES (3, 'c')").await?;
    client
        .simple_query("INSERT INTO orders VALUES (300, 3)")
        .await?;
    ensure!(count(&pair.direct, "SELECT count(*) FROM orders WHERE id = 300").await? == 1);
    // A row that refers to itself.
    client
        .simple_query("INSERT INTO tree VALUES (5, 5)")
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_is_referred_to_by_pending_rows_stays_or_takes_them_along() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    let client = &pair.proxied;
    queue(client, "INSERT INTO lines VALUES (1, 100, 1, 'x')").await?;
    let delete = "DELETE FROM items WHERE shop = 'x' AND no = 1";
    ensure!(state(client, delete).await.as_deref() == Some("23503"));
    ensure!(
        state(client, "UPDATE items SET no = 7 WHERE no = 1")
            .await
            .as_deref()
            == Some("23503")
    );
    queue(client, "INSERT INTO orders (id, customer) VALUES (400, 2)").await?;
    client
        .simple_query("DELETE FROM customers WHERE id = 2")
        .await?;
    ensure!(count(client, "SELECT count(*) FROM orders WHERE id = 400").await? == 0);
    ensure!(count(&pair.direct, "SELECT count(*) FROM orders WHERE id = 400").await? == 0);
    let again = "INSERT INTO orders (id, customer) VALUES (401, 2)";
    ensure!(state(client, again).await.as_deref() == Some("23503"));
    let letters = "SELECT count(*) FROM ripen.dead_letter";
    ensure!(count(&pair.direct, letters).await? == 0);
    Ok(())
}

/// While somebody is about to delete the parent, a child waits for him in Postgres, as it would without Ripen.
#[tokio::test]
async fn a_child_waits_for_who_is_at_its_parent() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    for (end, expected) in [("ROLLBACK", None), ("COMMIT", Some("23503"))] {
        let other = pair.ripen.connect().await?;
        other
            .batch_execute("BEGIN; DELETE FROM customers WHERE id = 2")
            .await?;
        let inserting = pair.ripen.connect().await?;
        let id = if expected.is_none() { 500 } else { 501 };
        let sql = format!("INSERT INTO orders (id, customer) VALUES ({id}, 2)");
        let inserting = tokio::spawn(async move { state(&inserting, &sql).await });
        wait::until("the child waits in Postgres", || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO orders%'";
            Ok((count(&pair.direct, waiting).await? == 1).then_some(()))
        })
        .await?;
        other.batch_execute(end).await?;
        ensure!(inserting.await?.as_deref() == expected, "{end}");
    }
    Ok(())
}

#[tokio::test]
async fn a_parent_that_vanishes_behind_ripens_back_makes_a_dead_letter() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    queue(&pair.proxied, "INSERT INTO lines VALUES (1, NULL, 2, 'x')").await?;
    queue(&pair.proxied, "INSERT INTO lines VALUES (2, NULL, 1, 'x')").await?;
    pair.direct
        .batch_execute("DELETE FROM items WHERE no = 2")
        .await?;
    pair.flush().await?;
    ensure!(count(&pair.direct, "SELECT count(*) FROM lines").await? == 1);
    let letters = "SELECT count(*) FROM ripen.dead_letter WHERE sqlstate = '23503'";
    ensure!(count(&pair.direct, letters).await? == 1);
    Ok(())
}

const RANDOM: &str = "
    CREATE TABLE p (id int PRIMARY KEY, v int);
    CREATE TABLE q (a int, b text, v int, PRIMARY KEY (b, a));
    CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE, a int, b text, v int DEFAULT 7,
        FOREIGN KEY (a, b) REFERENCES q (a, b) ON DELETE SET NULL, CHECK (v < 90));
    CREATE TABLE d (id int PRIMARY KEY, c int NOT NULL REFERENCES c, above int REFERENCES d);
    INSERT INTO p SELECT g, 0 FROM generate_series(1, 6) g;
    INSERT INTO q SELECT g, 't', 0 FROM generate_series(1, 6) g;";

fn statement(random: &mut StdRng) -> String {
    let mut id = || random.random_range(1..9);
    let (a, b, c, d) = (id(), id(), id(), id());
    let maybe = |n: i32| {
        if n == 8 {
            "NULL".to_owned()
        } else {
            n.to_string()
        }
    };
    match random.random_range(0..22) {
        0..4 => format!(
            "INSERT INTO c (id, p, a, b) VALUES ({a}, {}, {}, 't')",
            maybe(b),
            maybe(c)
        ),
        4 => format!(
            "INSERT INTO c VALUES ({a}, {b}, NULL, 't', {c}) ON CONFLICT (id) DO UPDATE SET p = excluded.p, v = c.v + 1 RETURNING *"
        ),
        5 => format!("INSERT INTO c (id, p) VALUES ({a}, {b}), ({c}, {d}) ON CONFLICT DO NOTHING"),
        6..9 => format!(
            "INSERT INTO d VALUES ({a}, {b}, {}) ON CONFLICT (id) DO UPDATE SET c = excluded.c RETURNING id, c",
            maybe(c)
        ),
        9..11 => format!("UPDATE c SET p = {} WHERE id IN ({b}, {c})", maybe(a)),
        11 => format!("UPDATE c SET a = {a}, b = 't' WHERE id = {b} AND v < {c}0"),
        12 => format!("UPDATE c SET v = v + {a}0 WHERE id = {b} RETURNING v"),
        13 => format!("UPDATE d SET above = {} WHERE id = {b}", maybe(a)),
        14 => format!("DELETE FROM d WHERE id = {a} RETURNING *"),
        15 => format!("DELETE FROM c WHERE id = {a}"),
        16 => format!("DELETE FROM p WHERE id = {a}"),
        17 => format!("DELETE FROM q WHERE a = {a} AND b = 't'"),
        18 => format!("INSERT INTO p VALUES ({a}, {b}) ON CONFLICT (id) DO UPDATE SET v = p.v + 1"),
        19 => format!("INSERT INTO q VALUES ({a}, 't', {b}) ON CONFLICT DO NOTHING"),
        20 => format!("SELECT * FROM c WHERE id = {a}"),
        _ => "SELECT * FROM c ORDER BY id".to_owned(),
    }
}

/// What a client sees: rows, counts, or the error with its words.
async fn said(client: &Client, sql: &str) -> String {
    let mut out = String::new();
    match client.simple_query(sql).await {
        Ok(messages) => {
            for message in messages {
                let _ = match message {
                    SimpleQueryMessage::Row(row) => {
                        let values: Vec<_> = (0..row.len()).map(|at| row.get(at)).collect();
                        writeln!(out, "{values:?}")
                    }
                    SimpleQueryMessage::CommandComplete(rows) => writeln!(out, "{rows} rows"),
                    _ => Ok(()),
                };
            }
        }
        Err(error) => {
            let told = error.as_db_error();
            // Which of several rows stands in the way first is a matter of where they lie on disk: the detail tells.
            let told = told.map(|e| (e.code().code(), e.message(), e.constraint()));
            let _ = writeln!(out, "{told:?}");
        }
    }
    out
}

/// Random statements, one after another, say the same on Postgres and through Ripen; most of those that may be are queued.
#[tokio::test]
async fn random_statements_over_foreign_keys_say_the_same() -> anyhow::Result<()> {
    let seed = std::env::var("RIPEN_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    let server = Postgres::start(Options::default()).await?;
    let (one, other) = (
        server.create_database("direct").await?,
        server.create_database("proxied").await?,
    );
    let (plain, behind) = (
        postgres::connect(&one).await?,
        postgres::connect(&other).await?,
    );
    plain.batch_execute(RANDOM).await?;
    behind.batch_execute(RANDOM).await?;
    let settings = [("write_behind", "public.*"), ("write_delay", "30ms")];
    let ripen = Ripen::start(&other, &settings).await?;
    let client = ripen.connect().await?;
    let mut random = StdRng::seed_from_u64(seed);
    let (mut writes, mut queued) = (0, 0);
    for n in 0..1500 {
        let sql = statement(&mut random);
        let (expected, found) = (said(&plain, &sql).await, said(&client, &sql).await);
        ensure!(
            expected == found,
            "RIPEN_SEED={seed} statement {n}\n{sql}\n{expected}{found}{}",
            ripen.log()
        );
        let route = client.query_one("SHOW ripen.route", &[]).await?;
        let eligible =
            sql.contains("INTO c") || sql.contains("INTO d") || sql.starts_with("UPDATE");
        if eligible && !expected.contains("Some(") {
            writes += 1;
            queued += usize::from(route.get::<_, &str>(0) == "write");
        }
    }
    client.batch_execute("CALL ripen.flush()").await?;
    for table in ["p", "q", "c", "d"] {
        let all = format!("SELECT * FROM {table} x ORDER BY x");
        ensure!(
            said(&plain, &all).await == said(&behind, &all).await,
            "RIPEN_SEED={seed} {table}"
        );
    }
    let letters = count(&behind, "SELECT count(*) FROM ripen.dead_letter")
        .await
        .context("letters")?;
    ensure!(letters == 0, "RIPEN_SEED={seed}: {letters} dead letters");
    ensure!(
        queued * 2 > writes,
        "RIPEN_SEED={seed}: only {queued} of {writes} were queued"
    );
    Ok(())
}
