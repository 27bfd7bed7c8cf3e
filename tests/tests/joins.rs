//! Joins along primary keys, answered from memory: what Postgres says, whatever was written by whom; and a row is never shown beside what its parent was before it.

#[path = "joins/random.rs"]
mod random;

use anyhow::{Context, ensure};
use ripen_tests::answers::{Rows, at_once, from_memory, route, rows, run, sorted};
use ripen_tests::{Cluster, Pair, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE regions (id int PRIMARY KEY, name text, boss int);
    CREATE TABLE customers (id int PRIMARY KEY, region int, name varchar(20) COLLATE \"C\", mood mood, v numeric(8,2));
    CREATE TABLE moods (id mood PRIMARY KEY, n int);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer int REFERENCES customers, backup int, parent bigint, amount numeric, at timestamptz, doc jsonb, code uuid);
    CREATE TABLE lines (orders bigint, n int, sku text, PRIMARY KEY (orders, n));
    CREATE TABLE notes (id int PRIMARY KEY, orders bigint, n int, code uuid, said text);
    CREATE TABLE codes (id uuid PRIMARY KEY, v bpchar(4));
    CREATE INDEX ON orders (customer); CREATE INDEX ON customers (region); CREATE INDEX ON notes (orders, n);
    INSERT INTO regions SELECT g, 'r' || g, g % 4 * 3 FROM generate_series(0, 5) g;
    INSERT INTO customers SELECT g, nullif(g % 8, 7), 'c' || g, (ARRAY['sad', 'ok', 'happy', NULL])[g % 4 + 1]::mood, g / 3.0 FROM generate_series(0, 19) g;
    INSERT INTO moods VALUES ('sad', 1), ('happy', 3);
    INSERT INTO orders SELECT g, nullif(g % 11, 10), g * 7 % 30, nullif(g / 2, g % 5), g * 37 % 11 / 4.0, '2026-01-01 12:00+00'::timestamptz + g * interval '1 hour',
        jsonb_build_object('g', g), ('00000000-0000-0000-0000-00000000000' || g % 10)::uuid FROM generate_series(1, 60) g;
    INSERT INTO lines SELECT g / 4, g % 4, 's' || g FROM generate_series(0, 79) g;
    INSERT INTO notes SELECT g, nullif(g % 25, 3), nullif(g % 6, 5), ('00000000-0000-0000-0000-00000000000' || g % 10)::uuid, 'n' || g FROM generate_series(1, 40) g;
    INSERT INTO codes SELECT ('00000000-0000-0000-0000-00000000000' || g)::uuid, 'v' || g FROM generate_series(0, 7) g;";

/// Nothing ripens by itself: what is not seen on top of Postgres shows every time.
const QUEUED: [(&str, &str); 2] = [("write_behind", "public.*"), ("write_delay", "1h")];

/// The same answer from memory, in any order, with the same description.
async fn same(pair: &Pair, sql: &str) -> anyhow::Result<()> {
    let told = sorted(from_memory(&pair.proxied, sql).await?);
    let real = sorted(rows(&pair.direct, sql).await?);
    ensure!(told == real, "{sql}:\n{told:?}\n{real:?}");
    let (here, there) = (
        pair.proxied.prepare(sql).await?,
        pair.direct.prepare(sql).await?,
    );
    let described = |statement: &tokio_postgres::Statement| {
        let column = |column: &tokio_postgres::Column| {
            let (name, kind) = (column.name().to_owned(), column.type_().oid());
            let origin = (column.table_oid(), column.column_id());
            (name, kind, column.type_modifier(), origin)
        };
        statement.columns().iter().map(column).collect::<Vec<_>>()
    };
    let (here, there) = (described(&here), described(&there));
    ensure!(here == there, "{sql}:\n{here:?}\n{there:?}");
    Ok(())
}

#[tokio::test]
async fn joins_are_what_postgres_says() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let froms = [
        "orders o JOIN customers c ON c.id = o.customer",
        "orders o LEFT JOIN customers c ON c.id = o.customer",
        "customers c JOIN orders o ON o.customer = c.id",
        "orders o LEFT JOIN customers c ON c.id = o.backup",
        "orders o INNER JOIN customers c ON o.backup = c.id",
        "orders o LEFT JOIN customers c ON c.id = o.customer LEFT JOIN regions r ON r.id = c.region",
        "orders o JOIN customers c ON c.id = o.customer JOIN regions r ON r.id = c.region JOIN regions b ON b.id = r.boss",
        "orders o LEFT JOIN customers c ON c.id = o.backup JOIN regions r ON r.id = c.region",
        "orders o LEFT JOIN orders p ON p.id = o.parent LEFT JOIN orders q ON q.id = p.parent JOIN customers c ON c.id = o.customer",
        "orders o LEFT JOIN customers c ON c.id = o.customer LEFT JOIN moods m ON m.id = c.mood LEFT JOIN codes d ON d.id = o.code",
        "orders o LEFT JOIN customers c ON c.id = o.customer LEFT JOIN customers b ON b.id = o.backup",
    ];
    for from in froms {
        for condition in [
            "o.id = 1",
            "o.id = ANY ('{4,5,6,11,21,NULL}')",
            "o.customer = 9 AND o.amount > 0.5",
            "o.customer IN (2, 4, 77)",
            "o.id IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11) AND (c.v > 1 OR c.id IS NULL)",
            "o.customer = 5 AND c.name = 'c5'",
        ] {
            same(&pair, &format!("SELECT * FROM {from} WHERE {condition}")).await?;
            same(&pair, &format!("SELECT o.id, c.*, o.at, c.v * 2 + o.amount AS x, c.mood FROM {from} WHERE {condition} ORDER BY c.name DESC NULLS LAST, o.id LIMIT 4")).await?;
            same(&pair, &format!("SELECT count(*), count(c.id), sum(c.v), max(o.amount) FROM {from} WHERE {condition}")).await?;
            same(
                &pair,
                &format!("SELECT EXISTS (SELECT 1 FROM {from} WHERE {condition})"),
            )
            .await?;
        }
    }
    for sql in [
        "SELECT * FROM notes t JOIN lines l ON l.orders = t.orders AND l.n = t.n WHERE t.id IN (1, 2, 3, 4, 5, 28)",
        "SELECT * FROM notes t LEFT JOIN lines l ON t.n = l.n AND l.orders = t.orders LEFT JOIN orders o ON o.id = l.orders WHERE t.id IN (1, 2, 3, 4, 5, 28)",
        "SELECT t.said, l.sku FROM lines l, notes t WHERE l.orders = t.orders AND l.n = t.n AND t.id = 4",
        "SELECT t.said, l.sku FROM lines l, notes t WHERE l.orders = t.orders AND l.n = t.n AND l.orders = 4 AND l.n = 4 % 4",
        "SELECT t.said, l.sku FROM lines l JOIN notes t ON (l.orders = t.orders AND l.n = t.n) WHERE l.orders = 2 AND l.n = 2",
        "SELECT l.sku, o.amount FROM lines l JOIN orders o ON o.id = l.orders WHERE l.orders = 3 ORDER BY l.n",
        "SELECT l.sku, o.amount FROM orders o JOIN lines l ON l.orders = o.id WHERE o.id = 3",
        "SELECT c.name, r.name FROM regions r, customers c WHERE c.region = r.id AND r.id IN (2, 3)",
        "SELECT c.id, d.v FROM notes c JOIN codes d ON d.id = c.code WHERE c.id = 17",
        "SELECT count(*) FROM customers c JOIN orders o ON o.customer = c.id WHERE c.id = 4",
        "SELECT o.id, r.name AS name FROM regions r JOIN customers c ON r.id = c.region JOIN orders o ON o.customer = c.id WHERE c.id = 4",
    ] {
        same(&pair, sql).await?;
    }
    ensure!(pair.ripen.number("join_hits").await? > 100.0);
    Ok(())
}

#[tokio::test]
async fn what_is_not_joined_here_passes_through() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    for (sql, code) in [
        (
            "SELECT * FROM orders o NATURAL JOIN customers c WHERE o.id = 1",
            "join",
        ),
        (
            "SELECT * FROM customers c JOIN regions USING (id) WHERE c.id = 1",
            "join",
        ),
        (
            "SELECT * FROM customers c RIGHT JOIN orders o ON c.id = o.customer WHERE o.id = 1",
            "join",
        ),
        (
            "SELECT * FROM orders o LEFT JOIN customers c ON c.id = o.customer AND c.v > 1 WHERE o.id = 1",
            "join",
        ),
        (
            "SELECT * FROM orders o JOIN notes t ON t.id = o.id WHERE o.id = 1",
            "join-type",
        ),
        (
            "SELECT c.id, o.id FROM customers c LEFT JOIN orders o ON o.customer = c.id WHERE c.id = 1",
            "join",
        ),
        (
            "SELECT * FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1 FOR UPDATE",
            "row-locks",
        ),
        (
            "SELECT * FROM orders o JOIN customers c ON c.id = o.customer WHERE o.amount = 1",
            "no-key",
        ),
    ] {
        let told = rows(&pair.proxied, sql).await?;
        let (way, why) = route(&pair.proxied).await?;
        let known = why.split_once(':').map(|(known, _)| known);
        ensure!(way == "pass" && known == Some(code), "{sql}: {way} {why}");
        ensure!(told == rows(&pair.direct, sql).await?, "{sql}: {told:?}");
    }
    // Whatever Postgres refuses, it refuses.
    for wrong in [
        "SELECT id FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1",
        "SELECT o.id FROM orders o JOIN customers c ON r.id = o.customer JOIN regions r ON r.id = c.region WHERE o.id = 1",
        "SELECT o.id FROM regions r, orders o JOIN customers c ON c.id = o.customer AND c.region = r.id WHERE o.id = 1",
        "SELECT o.id FROM orders o JOIN customers o ON o.id = o.customer WHERE o.id = 1",
        "SELECT x.id FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1",
        "SELECT o.id / (c.id - c.id) FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1",
    ] {
        let code = |error: tokio_postgres::Error| error.code().map(|code| code.code().to_owned());
        let told = pair.proxied.simple_query(wrong).await.err().map(code);
        let real = pair.direct.simple_query(wrong).await.err().map(code);
        ensure!(told == real && real.is_some(), "{wrong}: {told:?} {real:?}");
    }
    Ok(())
}

/// Each role sees what it may see of each table.
#[tokio::test]
async fn every_column_read_takes_its_privilege() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    pair.direct
        .batch_execute(
            "CREATE ROLE clerk; GRANT SELECT ON orders TO clerk; GRANT SELECT (id, name) ON customers TO clerk;
             GRANT clerk TO CURRENT_USER;",
        )
        .await?;
    let allowed =
        "SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1";
    let denied = [
        "SELECT o.id, c.v FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1",
        "SELECT o.id FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1 AND c.v > 0",
        "SELECT o.id FROM orders o LEFT JOIN customers c ON c.id = o.customer LEFT JOIN regions r ON r.id = o.backup WHERE o.id = 1",
    ];
    for sql in denied.iter().chain([&allowed]) {
        from_memory(&pair.proxied, sql).await?;
    }
    for client in [&pair.proxied, &pair.direct] {
        client.batch_execute("SET ROLE clerk").await?;
    }
    wait::until("the grants are known", || async {
        rows(&pair.proxied, allowed).await?;
        Ok((route(&pair.proxied).await?.0 == "read").then_some(()))
    })
    .await?;
    for sql in denied {
        let code = |error: tokio_postgres::Error| error.code().map(|code| code.code().to_owned());
        let told = pair.proxied.simple_query(sql).await.err().map(code);
        let real = pair.direct.simple_query(sql).await.err().map(code);
        ensure!(told == real && real.is_some(), "{sql}: {told:?} {real:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_queued_is_joined() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &QUEUED).await?;
    let other = pair.ripen.connect().await?;
    let joined = "SELECT c.name, r.name FROM customers c LEFT JOIN regions r ON r.id = c.region WHERE c.id = 3";
    let many = "SELECT count(*), max(c.name) FROM regions r JOIN customers c ON c.region = r.id WHERE r.id = 3";
    let text = |texts: &[Option<&str>]| -> Rows {
        vec![texts.iter().map(|text| text.map(str::to_owned)).collect()]
    };
    ensure!(from_memory(&other, joined).await? == text(&[Some("c3"), Some("r3")]));
    ensure!(from_memory(&other, many).await? == text(&[Some("3"), Some("c3")]));
    run(
        &pair.proxied,
        "UPDATE regions SET name = 'new' WHERE id = 3",
        "write",
    )
    .await?;
    ensure!(at_once(&other, joined).await? == text(&[Some("c3"), Some("new")]));
    run(
        &pair.proxied,
        "UPDATE customers SET region = 4 WHERE id = 3",
        "write",
    )
    .await?;
    from_memory(&other, joined).await?;
    ensure!(at_once(&other, joined).await? == text(&[Some("c3"), Some("r4")]));
    ensure!(at_once(&other, many).await? == text(&[Some("2"), Some("c19")]));
    run(&pair.proxied, "DELETE FROM regions WHERE id = 4", "write").await?;
    ensure!(at_once(&other, joined).await? == text(&[Some("c3"), None]));
    run(
        &pair.proxied,
        "UPDATE customers SET region = NULL WHERE id = 3",
        "write",
    )
    .await?;
    ensure!(at_once(&other, joined).await? == text(&[Some("c3"), None]));
    // What a block has written counts for itself, in the first table and in the others.
    rows(&pair.proxied, "BEGIN").await?;
    run(
        &pair.proxied,
        "INSERT INTO regions VALUES (40, 'mine')",
        "write",
    )
    .await?;
    run(
        &pair.proxied,
        "UPDATE customers SET region = 40 WHERE id = 3",
        "write",
    )
    .await?;
    run(
        &pair.proxied,
        "UPDATE customers SET region = 3 WHERE id = 5",
        "write",
    )
    .await?;
    ensure!(at_once(&pair.proxied, joined).await? == text(&[Some("c3"), Some("mine")]));
    ensure!(at_once(&pair.proxied, many).await? == text(&[Some("3"), Some("c5")]));
    ensure!(at_once(&other, joined).await? == text(&[Some("c3"), None]));
    ensure!(at_once(&other, many).await? == text(&[Some("2"), Some("c19")]));
    rows(&pair.proxied, "COMMIT").await?;
    ensure!(at_once(&other, joined).await? == text(&[Some("c3"), Some("mine")]));
    Ok(())
}

/// A child has what its parent has, at every moment: whoever writes one writes the other in the same transaction.
const FAMILIES: &str = "CREATE TABLE parents (id int PRIMARY KEY, v bigint NOT NULL);
    CREATE TABLE children (id int PRIMARY KEY, parent int, v bigint NOT NULL);
    CREATE INDEX ON children (parent);
    INSERT INTO parents SELECT g, 0 FROM generate_series(0, 19) g;
    INSERT INTO children SELECT g, g / 2, 0 FROM generate_series(0, 39) g;
    CREATE FUNCTION put(p int, n bigint) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN UPDATE children SET v = n WHERE parent = p; UPDATE parents SET v = n WHERE id = p; END $$;";

#[tokio::test]
async fn a_child_is_never_shown_beside_what_its_parent_was() -> anyhow::Result<()> {
    let settings = [("write_behind", "public.*"), ("write_delay", "100ms")];
    let pair = Pair::start(FAMILIES, &settings).await?;
    let direct = pair.connect_direct().await?;
    let mut clients = Vec::new();
    for _ in 0..7 {
        clients.push(pair.ripen.connect().await?);
    }
    let [all, memory] = families(direct, clients).await?;
    ensure!(
        all > 200 && memory * 4 > all,
        "of {all} joins {memory} came from memory: nothing was tried"
    );
    Ok(())
}

/// Each client is another node's than the one before.
#[tokio::test]
async fn no_node_shows_a_child_beside_what_its_parent_was() -> anyhow::Result<()> {
    let settings = [("write_behind", "public.*"), ("write_delay", "100ms")];
    let cluster = Cluster::start(FAMILIES, 3, &settings).await?;
    let direct = cluster.postgres.connect().await?;
    let mut clients = Vec::new();
    for at in 0..7 {
        clients.push(cluster.connect(at % 3).await?);
    }
    let [all, memory] = families(direct, clients).await?;
    // What is not named by key passes through.
    ensure!(
        all > 100 && memory * 10 > all,
        "of {all} joins {memory} came from memory: nothing was tried"
    );
    Ok(())
}

/// Writes and looks for a while. Answers how many joins were asked for, and how many of them came from memory.
async fn families(direct: Client, clients: Vec<Client>) -> anyhow::Result<[u64; 2]> {
    let stop = Arc::new(AtomicBool::new(false));
    let told: Arc<[AtomicU64; 2]> = Arc::default();
    let mut tasks = Vec::new();
    let mut clients = clients.into_iter();
    let mut next = || clients.next().context("a client");
    // Behind Ripen's back: parents 0 to 9, and their children, who change families, too.
    tasks.push(tokio::spawn(write_outside(direct, stop.clone())));
    // Through Ripen: parents 10 to 19.
    for half in 0..2 {
        let (client, other) = (next()?, next()?);
        tasks.push(tokio::spawn(write_inside(
            client,
            other,
            half,
            stop.clone(),
        )));
    }
    for _ in 0..3 {
        tasks.push(tokio::spawn(look(next()?, stop.clone(), told.clone())));
    }
    let seconds = std::env::var("RIPEN_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(8);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await??;
    }
    Ok([0, 1].map(|at| told[at].load(Ordering::SeqCst)))
}

async fn write_outside(client: Client, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let parent = rand::random_range(0..10);
        let child = rand::random_range(0..20);
        let sql = match n % 3 {
            0 => format!("UPDATE parents SET v = {n} WHERE id = {parent}; UPDATE children SET v = {n} WHERE parent = {parent}"),
            1 => format!("UPDATE children SET v = p.v, parent = p.id FROM parents p WHERE children.id = {child} AND p.id = {parent}"),
            // The family goes away, and comes back.
            _ => format!("UPDATE children SET parent = NULL WHERE parent = {parent}; DELETE FROM parents WHERE id = {parent};
                INSERT INTO parents VALUES ({parent}, {n}); UPDATE children SET v = {n}, parent = {parent} WHERE parent IS NULL"),
        };
        client
            .batch_execute(&format!("BEGIN; {sql}; COMMIT"))
            .await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn write_inside(
    client: Client,
    other: Client,
    half: i32,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        // Each writer has its own families.
        let parent = 10 + half * 5 + rand::random_range(0..5);
        let (one, two) = (parent * 2, parent * 2 + 1);
        let sql = match n % 8 {
            0 => vec![format!("SELECT put({parent}, {n})")],
            1 => vec![
                "BEGIN".to_owned(),
                format!("UPDATE children SET v = {n} WHERE id IN ({one}, {two})"),
                format!("DELETE FROM parents WHERE id = {parent}"),
                format!("INSERT INTO parents VALUES ({parent}, {n})"),
                "COMMIT".to_owned(),
            ],
            _ => vec![
                "BEGIN".to_owned(),
                format!("UPDATE parents SET v = {n} WHERE id = {parent}"),
                format!("UPDATE children SET v = {n} WHERE id IN ({one}, {two})"),
                "COMMIT".to_owned(),
            ],
        };
        for sql in sql {
            client.batch_execute(&sql).await.context(sql)?;
        }
        // What was acknowledged, everybody sees.
        let seen = format!(
            "SELECT c.v, p.v FROM children c JOIN parents p ON p.id = c.parent WHERE c.id = {one}"
        );
        let seen = rows(&other, &seen).await?;
        let wanted = Some(n.to_string());
        ensure!(seen == [[wanted.clone(), wanted]], "{seen:?} is not {n}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}

async fn look(
    client: Client,
    stop: Arc<AtomicBool>,
    told: Arc<[AtomicU64; 2]>,
) -> anyhow::Result<()> {
    let columns = "c.id, c.v, p.v, c.parent, p.id";
    while !stop.load(Ordering::SeqCst) {
        let child = rand::random_range(0..40);
        let parent = child / 2;
        let (a, b) = (rand::random_range(0..40), rand::random_range(0..40));
        if a % 4 == 0 {
            // Changes nothing, and passes through: the row has to be loaded anew, while others are known.
            let (table, id) = match b % 2 {
                0 => ("parents", b / 4),
                _ => ("children", b / 2),
            };
            let same = format!("UPDATE {table} SET v = v + length(md5('')) - 32 WHERE id = {id}");
            client.batch_execute(&same).await.context(same)?;
        }
        let sql = match rand::random_range(0..7) {
            0 => format!(
                "SELECT {columns} FROM children c JOIN parents p ON p.id = c.parent WHERE c.id = {child}"
            ),
            1 => format!(
                "SELECT {columns} FROM children c LEFT JOIN parents p ON p.id = c.parent WHERE c.id IN ({child}, {a}, {b})"
            ),
            2 => format!(
                "SELECT {columns} FROM children c JOIN parents p ON p.id = c.parent WHERE c.parent = {parent}"
            ),
            3 => format!(
                "SELECT {columns} FROM parents p JOIN children c ON c.parent = p.id WHERE p.id = {parent}"
            ),
            4 => format!(
                "SELECT {columns} FROM children c, parents p WHERE c.parent = p.id AND p.id IN ({}, {parent})",
                a / 2
            ),
            5 => format!(
                "SELECT {columns} FROM children d JOIN parents p ON p.id = d.parent JOIN children c ON c.id = d.id WHERE d.id = {child}"
            ),
            _ => format!(
                "SELECT {columns} FROM children c LEFT JOIN parents p ON p.id = c.parent WHERE c.parent = {parent}"
            ),
        };
        let found = rows(&client, &sql).await?;
        let (way, why) = route(&client).await?;
        told[0].fetch_add(1, Ordering::SeqCst);
        if way == "read" {
            told[1].fetch_add(1, Ordering::SeqCst);
        }
        for row in &found {
            ensure!(
                row[1] == row[2] && row[3] == row[4],
                "{sql}: {row:?} ({way} {why})"
            );
        }
    }
    Ok(())
}
