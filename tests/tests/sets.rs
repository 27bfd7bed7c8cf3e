//! Keyed sets: rows by a value of an index's leading columns, answered from memory. What is shown is held against Postgres itself, while rows move in and out of sets by every way there is.

use anyhow::{Context, ensure};
use ripen_tests::answers::{Rows, at_once, from_memory, route, rows, run, sorted};
use ripen_tests::{Pair, wait};

const SCHEMA: &str = "CREATE TABLE orders (id int PRIMARY KEY, customer int, status text COLLATE \"C\", amount numeric(10,2), at timestamptz, note text);
    CREATE INDEX ON orders (customer); CREATE INDEX ON orders (status, customer);
    INSERT INTO orders SELECT g, g % 10, CASE g % 3 WHEN 0 THEN 'open' WHEN 1 THEN 'paid' END, (g * 37 % 11)::numeric / 4,
        '2026-01-01 12:00+00'::timestamptz + g * 997 % 13 * interval '1 hour', nullif('n' || g % 4, 'n0') FROM generate_series(1, 100) g;
    CREATE TABLE lines (orders int, n int, sku text, PRIMARY KEY (orders, n));
    INSERT INTO lines SELECT g / 4, g % 4, 's' || g FROM generate_series(0, 79) g;";

/// Nothing ripens by itself: what is not seen on top of Postgres shows every time.
const QUEUED: [(&str, &str); 2] = [("write_behind", "public.*"), ("write_delay", "1h")];

fn ids(rows: &Rows) -> Vec<i32> {
    let id = |row: &Vec<Option<String>>| row[0].as_ref()?.parse().ok();
    let mut ids: Vec<i32> = rows.iter().filter_map(id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn sets_are_what_postgres_says() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let whole = [
        "SELECT * FROM orders WHERE customer = 3 ORDER BY id",
        "SELECT id, amount FROM orders WHERE customer = 3 ORDER BY amount DESC, id",
        "SELECT id, status FROM orders WHERE customer = 4 ORDER BY status, id DESC",
        "SELECT id, status FROM orders WHERE customer = 4 ORDER BY status DESC, id",
        "SELECT id, status FROM orders WHERE customer = 4 ORDER BY status NULLS FIRST, id",
        "SELECT id, status FROM orders WHERE customer = 4 ORDER BY status DESC NULLS LAST, id",
        "SELECT id, at FROM orders WHERE customer = 5 ORDER BY at, id LIMIT 3",
        "SELECT id, at FROM orders WHERE customer = 5 ORDER BY at DESC, id LIMIT 3 OFFSET 2",
        "SELECT id FROM orders WHERE customer = 5 AND amount > 1 ORDER BY id",
        "SELECT id FROM orders WHERE 5 = customer AND note IS NULL ORDER BY 1",
        "SELECT id FROM orders WHERE status = 'open' AND customer = 6 ORDER BY id",
        "SELECT id FROM orders WHERE status = 'paid' ORDER BY id",
        "SELECT id FROM orders WHERE status = 'none' ORDER BY id",
        "SELECT count(*) FROM orders WHERE customer = 7",
        "SELECT count(*) AS n FROM orders WHERE customer = 7 AND status = 'open'",
        "SELECT count(*) FROM orders WHERE customer = 77",
        "SELECT count(*) FROM orders WHERE customer = NULL",
        "SELECT o.amount * 2 AS twice FROM orders o WHERE o.customer = 8 ORDER BY o.id",
        "SELECT sku FROM lines WHERE orders = 2 ORDER BY n",
        "SELECT * FROM lines WHERE orders = 2 AND n = 1",
    ];
    for sql in whole {
        let told = from_memory(&pair.proxied, sql).await?;
        let real = rows(&pair.direct, sql).await?;
        ensure!(told == real, "{sql}:\n{told:?}\n{real:?}");
    }
    let any_order = "SELECT * FROM orders WHERE customer = 3";
    let told = sorted(from_memory(&pair.proxied, any_order).await?);
    ensure!(
        told == sorted(rows(&pair.direct, any_order).await?),
        "{told:?}"
    );
    for (sql, code) in [
        ("SELECT id FROM orders WHERE note = 'n1'", "no-key"),
        ("SELECT id FROM orders WHERE customer > 3", "no-key"),
        (
            "SELECT id FROM orders WHERE customer = 3 FOR UPDATE",
            "row-locks",
        ),
        (
            "SELECT count(DISTINCT amount) FROM orders WHERE customer = 3",
            "function",
        ),
    ] {
        rows(&pair.proxied, sql).await?;
        let (way, why) = route(&pair.proxied).await?;
        ensure!(way == "pass" && why.starts_with(code), "{sql}: {way} {why}");
    }
    Ok(())
}

#[tokio::test]
async fn several_sets_at_once_are_what_postgres_says() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let whole = [
        "SELECT * FROM orders WHERE customer IN (3, 4, 77) ORDER BY id",
        "SELECT id FROM orders WHERE customer IN (3, NULL, 3, 4, 3.0, 4.5) ORDER BY id",
        "SELECT id FROM orders WHERE customer IN (NULL, NULL) ORDER BY id",
        "SELECT id FROM orders WHERE customer = ANY ('{3,NULL,5,3,99999}') ORDER BY id DESC",
        "SELECT id FROM orders WHERE customer = ANY ('{}') ORDER BY id",
        "SELECT id FROM orders WHERE customer = ANY (NULL::int[]) ORDER BY id",
        "SELECT id FROM orders WHERE customer = ANY (ARRAY[1, 2]::bigint[]) AND amount > 1 ORDER BY amount, id LIMIT 5 OFFSET 1",
        "SELECT id FROM orders WHERE status IN ('open', 'none') AND customer = 6 ORDER BY id",
        "SELECT id FROM orders WHERE status IN ('open', 'paid') AND customer IN (5, 6) ORDER BY id",
        "SELECT count(*) FROM orders WHERE customer IN (1, 2, 3)",
        "SELECT count(*) FROM orders WHERE customer IN (1, 2, 3) AND status IS NULL",
        "SELECT orders, n, sku FROM lines WHERE orders IN (2, 3, 1) ORDER BY orders DESC, n",
    ];
    for sql in whole {
        let told = from_memory(&pair.proxied, sql).await?;
        let real = rows(&pair.direct, sql).await?;
        ensure!(told == real, "{sql}:\n{told:?}\n{real:?}");
    }
    let any_order = "SELECT * FROM orders WHERE customer IN (9, 3)";
    let told = sorted(from_memory(&pair.proxied, any_order).await?);
    let real = sorted(rows(&pair.direct, any_order).await?);
    ensure!(told == real, "{told:?}\n{real:?}");
    // As parameters, which only then are known.
    let sql = "SELECT id FROM orders WHERE customer = ANY($1) ORDER BY id";
    let (here, there) = (
        pair.proxied.prepare(sql).await?,
        pair.direct.prepare(sql).await?,
    );
    let lists: [Option<Vec<Option<i32>>>; 5] = [
        Some(vec![Some(2), None, Some(2), Some(5)]),
        Some(vec![]),
        Some(vec![None]),
        None,
        Some((0..400).map(Some).collect()),
    ];
    for list in lists {
        let real = numbers(&pair.direct.query(&there, &[&list]).await?);
        wait::until("several sets are answered from memory", || async {
            let told = numbers(&pair.proxied.query(&here, &[&list]).await?);
            ensure!(told == real, "{list:?}: {told:?} {real:?}");
            Ok((route(&pair.proxied).await?.0 == "read").then_some(()))
        })
        .await?;
    }
    Ok(())
}

fn numbers(rows: &[tokio_postgres::Row]) -> Vec<i32> {
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn several_sets_are_loaded_by_one_statement_and_told_at_one_moment() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &QUEUED).await?;
    let other = pair.ripen.connect().await?;
    let loads = pair.ripen.number("loads").await?;
    let all = "SELECT id FROM orders WHERE customer IN (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)";
    let first = at_once(&other, all).await?;
    ensure!(first.len() == 100, "{first:?}");
    let loaded = pair.ripen.number("loads").await? - loads;
    ensure!(loaded == 1.0, "{loaded} statements");
    // Each of them is there for itself, too, and rows that move between them stay one.
    let moved = "UPDATE orders SET customer = 2 WHERE id = 1";
    run(&pair.proxied, moved, "write").await?;
    let both = "SELECT id FROM orders WHERE customer IN (2, 1)";
    let told = ids(&at_once(&other, both).await?);
    let expected: Vec<i32> = (1..=100).filter(|id| [1, 2].contains(&(id % 10))).collect();
    ensure!(told == expected, "{told:?}");
    let one = ids(&at_once(&other, "SELECT id FROM orders WHERE customer = 1").await?);
    ensure!(
        one == expected[2..]
            .iter()
            .copied()
            .filter(|id| id % 10 == 1)
            .collect::<Vec<_>>()
    );
    // What a block has written counts for itself.
    rows(&pair.proxied, "BEGIN").await?;
    run(&pair.proxied, "DELETE FROM orders WHERE id = 2", "write").await?;
    run(&pair.proxied, "INSERT INTO orders VALUES (101, 1)", "write").await?;
    let own = ids(&at_once(&pair.proxied, both).await?);
    let mut expected_own: Vec<i32> = expected.iter().copied().filter(|id| *id != 2).collect();
    expected_own.push(101);
    ensure!(own == expected_own, "{own:?}");
    ensure!(ids(&at_once(&other, both).await?) == expected);
    rows(&pair.proxied, "ROLLBACK").await?;
    Ok(())
}

#[tokio::test]
async fn too_many_sets_or_rows_at_once_pass_through() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let many = "INSERT INTO orders SELECT g, 5000 + g % 20 FROM generate_series(1001, 13000) g";
    pair.direct.batch_execute(many).await?;
    let values = |values: std::ops::Range<i32>| {
        let values: Vec<String> = values.map(|value| value.to_string()).collect();
        values.join(", ")
    };
    for (asked, rows_there) in [(0..1001, 100), (5000..5020, 12_000)] {
        let list = values(asked);
        let sql = format!("SELECT id FROM orders WHERE customer IN ({list})");
        for _ in 0..2 {
            let told = rows(&pair.proxied, &sql).await?;
            ensure!(told.len() == rows_there, "{}", told.len());
            let (way, why) = route(&pair.proxied).await?;
            ensure!(
                way == "pass" && why.starts_with("set-too-large"),
                "{way} {why}"
            );
        }
    }
    let some = format!(
        "SELECT id FROM orders WHERE customer IN ({})",
        values(0..1000)
    );
    ensure!(from_memory(&pair.proxied, &some).await?.len() == 100);
    Ok(())
}

/// As Django, SQLAlchemy and Rails ask.
#[tokio::test]
async fn whether_rows_exist_is_told_from_memory() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let asked = [
        "SELECT EXISTS(SELECT 1 FROM orders WHERE customer = 3)",
        "SELECT EXISTS (SELECT * FROM orders WHERE orders.customer = 77) AS anon_1",
        "SELECT EXISTS (SELECT 1 FROM orders WHERE orders.customer = NULL)",
        "SELECT EXISTS(SELECT 1 AS \"a\" FROM \"orders\" WHERE \"orders\".\"customer\" = 3 LIMIT 1) AS \"x\"",
        "SELECT EXISTS (SELECT o.id, o.amount FROM orders o WHERE o.customer IN (77, 4) AND o.status = 'open' ORDER BY o.amount LIMIT 1)",
        "SELECT EXISTS (SELECT 1 FROM orders WHERE customer = 4 AND note = 'nowhere')",
        "SELECT EXISTS (SELECT 1 FROM orders WHERE customer = 3 LIMIT 0)",
        "SELECT EXISTS (SELECT 1 FROM orders WHERE customer = 3 OFFSET 9)",
        "SELECT EXISTS (SELECT 1 FROM orders WHERE customer = 3 OFFSET 10)",
        "SELECT EXISTS (SELECT 1 FROM orders WHERE id = 5)",
        "SELECT EXISTS (SELECT 1 FROM orders WHERE id IN (500, 600))",
        "SELECT 1 AS \"a\" FROM \"orders\" WHERE \"orders\".\"customer\" = 3 LIMIT 1",
        "SELECT (1) AS \"a\" FROM orders WHERE customer = 77 LIMIT 1",
        "SELECT 1 AS one FROM orders WHERE customer = 3 AND amount > 1 LIMIT 1",
        "SELECT 1 AS one FROM orders WHERE id = 3 LIMIT 1",
        "SELECT 1 AS one FROM orders WHERE id = 300 LIMIT 1",
    ];
    for sql in asked {
        same(&pair, sql).await?;
    }
    let passed = [
        (
            "SELECT EXISTS (SELECT count(*) FROM orders WHERE customer = 77)",
            "shape",
        ),
        (
            "SELECT EXISTS (SELECT 1 FROM orders WHERE customer = 3 FOR UPDATE)",
            "row-locks",
        ),
        (
            "SELECT EXISTS (SELECT 1 / (id - 3) FROM orders WHERE customer = 3)",
            "shape",
        ),
        (
            "SELECT EXISTS (SELECT 1 FROM orders WHERE customer = 3), 1",
            "no-table",
        ),
        (
            "SELECT EXISTS (SELECT 1 FROM orders WHERE note = 'n1')",
            "no-key",
        ),
    ];
    for (sql, code) in passed {
        let told = rows(&pair.proxied, sql).await?;
        let (way, why) = route(&pair.proxied).await?;
        ensure!(way == "pass" && why.starts_with(code), "{sql}: {way} {why}");
        ensure!(told == rows(&pair.direct, sql).await?, "{sql}: {told:?}");
    }
    Ok(())
}

/// The same answer from memory, with the same description.
async fn same(pair: &Pair, sql: &str) -> anyhow::Result<()> {
    let told = from_memory(&pair.proxied, sql).await?;
    let real = rows(&pair.direct, sql).await?;
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

const SUMS: &str = "CREATE TABLE sums (id int PRIMARY KEY, g int, i2 smallint, i4 int, i8 bigint, n numeric, m numeric(10,2), f8 float8, t text COLLATE \"C\",
        v varchar(9) COLLATE \"C\", c char(5) COLLATE \"C\", d date, tz timestamptz, iv interval);
    CREATE INDEX ON sums (g);
    INSERT INTO sums SELECT k, k % 13, nullif(k * 7919 % 65536 - 32768, -32768), CASE WHEN k % 5 > 0 THEN 2147483647 - k * 31 END, 9223372036854775807 - k * 1000003,
        CASE WHEN k % 4 > 0 THEN round((k * 7919 % 100003 - 50000)::numeric / 997, k % 6) END, (k * 37 % 1009 - 500)::numeric / 8, k / 7.0, nullif('t' || k * 31 % 97, 't0'),
        'v' || k % 23, left('c' || k * 17, 4), '2026-01-01'::date + k * 53 % 400, '2026-01-01 12:00+00'::timestamptz + k * 997 % 131 * interval '1 minute', k % 9 * interval '90 minutes'
        FROM generate_series(1, 260) k;
    INSERT INTO sums (id, g) SELECT k, 20 FROM generate_series(1001, 1003) k;
    INSERT INTO sums (id, g, n, f8) VALUES (1004, 21, 1.0, '-0'), (1005, 21, 1.00, 0), (1006, 21, 7, 1), (1007, 22, 'Infinity', 1), (1008, 22, 3, 1), (1009, 23, 'NaN', 'NaN'), (1010, 23, 3.50, 1);";

#[tokio::test]
async fn sums_and_extremes_of_sets_are_what_postgres_makes() -> anyhow::Result<()> {
    let pair = Pair::start(SUMS, &[]).await?;
    // 20: nothing but NULLs; 77: no row.
    for g in [0, 1, 2, 3, 4, 5, 20, 77] {
        let asked = [
            "count(*), count(i4), count(n), count(t), count(1)",
            "sum(i2), sum(i4), sum(i8), sum(n), sum(m) AS total",
            "avg(i2), avg(i4), avg(i8), avg(n), avg(m)",
            "min(i2), max(i4), min(i8), max(m), min(t), max(v), min(c), max(d), min(tz), max(id)",
            "coalesce(sum(i4), 0), coalesce(sum(m), 0) AS x, coalesce(max(t), 'none'), count(*) > 3, round(avg(n), 2), sum(i4) + count(*), CASE WHEN count(n) = 0 THEN NULL ELSE 1 END",
            "sum(i4::bigint * 2 + id), sum(-n), min(i8 % 100), sum(1), max(5), 'x' AS y, 7",
        ];
        for outputs in asked {
            same(&pair, &format!("SELECT {outputs} FROM sums WHERE g = {g}")).await?;
        }
        let wheres = [
            format!("g = {g} AND i4 > 0"),
            format!("g IN ({g}, 6, 7)"),
            format!("id IN (1, 2, 3, {g})"),
            format!("id = {g}"),
        ];
        for condition in wheres {
            let outputs = "sum(m), avg(m), count(*), max(id), min(t)";
            same(
                &pair,
                &format!("SELECT {outputs} FROM sums WHERE {condition}"),
            )
            .await?;
        }
    }
    same(&pair, "SELECT max(n), count(n) FROM sums WHERE g = 21").await?;
    same(
        &pair,
        "SELECT sum(n), avg(n), max(n), min(n) FROM sums WHERE g = 23",
    )
    .await?;
    same(&pair, "SELECT max(f8), min(f8) FROM sums WHERE g = 23").await?;
    let passed = [
        // Which of the equal ones is told depends on the order.
        ("SELECT min(n) FROM sums WHERE g = 21", "not-computed"),
        ("SELECT min(f8) FROM sums WHERE g = 21", "not-computed"),
        ("SELECT sum(n) FROM sums WHERE g = 22", "not-computed"),
        ("SELECT sum(f8) FROM sums WHERE g = 1", "function"),
        ("SELECT avg(f8) FROM sums WHERE g = 1", "function"),
        ("SELECT sum(iv) FROM sums WHERE g = 1", "function"),
        (
            "SELECT count(DISTINCT i4) FROM sums WHERE g = 1",
            "function",
        ),
        (
            "SELECT sum(i4) FILTER (WHERE id > 3) FROM sums WHERE g = 1",
            "function",
        ),
        (
            "SELECT g, count(*) FROM sums WHERE g = 1 GROUP BY g",
            "shape",
        ),
        (
            "SELECT count(*) FROM sums WHERE g = 1 HAVING count(*) > 3",
            "shape",
        ),
        ("SELECT sum(i4) FROM sums WHERE g = 1 LIMIT 1", "shape"),
    ];
    for (sql, code) in passed {
        wait::until("it passes for its own reason", || async {
            let told = rows(&pair.proxied, sql).await?;
            ensure!(told == rows(&pair.direct, sql).await?, "{sql}: {told:?}");
            let (way, why) = route(&pair.proxied).await?;
            ensure!(way == "pass", "{sql}: {way} {why}");
            ensure!(
                why.starts_with(code) || why.starts_with("apart"),
                "{sql}: {why}"
            );
            Ok(why.starts_with(code).then_some(()))
        })
        .await?;
    }
    for wrong in [
        "SELECT sum(i4 / 0) FROM sums WHERE g = 1",
        "SELECT sum(i4 / (id - 1)) FROM sums WHERE g = 1",
        "SELECT id, sum(i4) FROM sums WHERE g = 1",
        "SELECT sum(sum(i4)) FROM sums WHERE g = 1",
        "SELECT sum(t) FROM sums WHERE g = 1",
        "SELECT count() FROM sums WHERE g = 1",
        "SELECT coalesce(sum(i4), 1 / 0) FROM sums WHERE g = 1",
    ] {
        let code = |error: tokio_postgres::Error| error.code().map(|code| code.code().to_owned());
        let told = pair.proxied.simple_query(wrong).await.err().map(code);
        let real = pair.direct.simple_query(wrong).await.err().map(code);
        ensure!(told == real && real.is_some(), "{wrong}: {told:?} {real:?}");
    }
    Ok(())
}

#[tokio::test]
async fn pending_rows_count_in_sums() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &QUEUED).await?;
    let other = pair.ripen.connect().await?;
    let sql = "SELECT count(*), sum(id), min(id), max(amount) FROM orders WHERE customer = 1";
    let whether = "SELECT EXISTS (SELECT 1 FROM orders WHERE customer = 101)";
    from_memory(&other, sql).await?;
    ensure!(from_memory(&other, whether).await? == [[Some("f".to_owned())]]);
    let insert = "INSERT INTO orders VALUES (101, 101, 'open', 99.50)";
    run(&pair.proxied, insert, "write").await?;
    ensure!(at_once(&other, whether).await? == [[Some("t".to_owned())]]);
    let moved = "UPDATE orders SET customer = 1 WHERE id = 101";
    run(&pair.proxied, moved, "write").await?;
    ensure!(at_once(&other, whether).await? == [[Some("f".to_owned())]]);
    run(&pair.proxied, "DELETE FROM orders WHERE id = 1", "write").await?;
    let told = at_once(&other, sql).await?;
    let expected = ["10", "560", "11", "99.50"].map(|text| Some(text.to_owned()));
    ensure!(told == [expected], "{told:?}");
    pair.flush().await?;
    ensure!(from_memory(&other, sql).await? == rows(&pair.direct, sql).await?);
    Ok(())
}

#[tokio::test]
async fn sets_are_counted() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &QUEUED).await?;
    let numbers = async || -> anyhow::Result<[f64; 4]> {
        let number = |name| pair.ripen.number(name);
        Ok([
            number("set_hits").await?,
            number("set_misses").await?,
            number("sets").await?,
            number("set_rows").await?,
        ])
    };
    ensure!(numbers().await? == [0.0; 4]);
    let sql = "SELECT id FROM orders WHERE customer IN (1, 2, 77)";
    at_once(&pair.proxied, sql).await?;
    let first = numbers().await?;
    ensure!(first == [1.0, 1.0, 3.0, 20.0], "{first:?}");
    at_once(
        &pair.proxied,
        "SELECT count(*) FROM orders WHERE customer = 1",
    )
    .await?;
    at_once(&pair.proxied, "SELECT id FROM orders WHERE id = 1").await?;
    let second = numbers().await?;
    ensure!(second == [2.0, 1.0, 3.0, 20.0], "{second:?}");
    run(
        &pair.proxied,
        "INSERT INTO orders VALUES (101, 77)",
        "write",
    )
    .await?;
    ensure!(numbers().await? == [2.0, 1.0, 3.0, 21.0]);
    let told = rows(&pair.proxied, "SHOW ripen.status").await?;
    let shown = |name: &str| {
        let named = |row: &&Vec<Option<String>>| row.iter().flatten().any(|text| text == name);
        told.iter().any(|row| named(&row))
    };
    ensure!(
        ["set_hits", "set_evictions", "sets"].into_iter().all(shown),
        "{told:?}"
    );
    Ok(())
}

#[tokio::test]
async fn pending_rows_move_in_and_out_of_sets() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &QUEUED).await?;
    let other = pair.ripen.connect().await?;
    let (one, two) = (
        "SELECT id FROM orders WHERE customer = 1",
        "SELECT id FROM orders WHERE customer = 2",
    );
    // Before any set is there, and of a row that is not in memory.
    run(
        &pair.proxied,
        "UPDATE orders SET customer = 2 WHERE id = 11",
        "write",
    )
    .await?;
    let first = from_memory(&other, one).await?;
    ensure!(
        ids(&first) == [1, 21, 31, 41, 51, 61, 71, 81, 91],
        "{first:?}"
    );
    from_memory(&other, two).await?;
    let changes = [
        (
            "INSERT INTO orders VALUES (101, 1)",
            vec![1, 21, 31, 41, 51, 61, 71, 81, 91, 101],
        ),
        (
            "UPDATE orders SET customer = 2 WHERE id = 1",
            vec![21, 31, 41, 51, 61, 71, 81, 91, 101],
        ),
        (
            "DELETE FROM orders WHERE id = 21",
            vec![31, 41, 51, 61, 71, 81, 91, 101],
        ),
        (
            "UPDATE orders SET customer = 1 WHERE id = 12",
            vec![12, 31, 41, 51, 61, 71, 81, 91, 101],
        ),
        (
            "DELETE FROM orders WHERE id = 101",
            vec![12, 31, 41, 51, 61, 71, 81, 91],
        ),
        (
            "UPDATE orders SET customer = NULL WHERE id = 31",
            vec![12, 41, 51, 61, 71, 81, 91],
        ),
        (
            "UPDATE orders SET customer = customer - 1 WHERE id = 42",
            vec![12, 41, 42, 51, 61, 71, 81, 91],
        ),
    ];
    for (sql, expected) in changes {
        run(&pair.proxied, sql, "write").await?;
        let told = ids(&at_once(&other, one).await?);
        ensure!(told == expected, "{sql}: {told:?}");
        let count = at_once(&other, "SELECT count(*) FROM orders WHERE customer = 1").await?;
        ensure!(
            count[0][0] == Some(expected.len().to_string()),
            "{sql}: {count:?}"
        );
    }
    let second = ids(&at_once(&other, two).await?);
    ensure!(
        second == [1, 2, 11, 22, 32, 52, 62, 72, 82, 92],
        "{second:?}"
    );
    pair.flush().await?;
    for sql in [one, two] {
        let real = ids(&rows(&pair.direct, sql).await?);
        let told = ids(&from_memory(&other, sql).await?);
        ensure!(told == real, "{sql}: {told:?} {real:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_block_sees_its_own_rows_in_sets_and_nobody_else_does() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &QUEUED).await?;
    let other = pair.ripen.connect().await?;
    let sql = "SELECT id FROM orders WHERE customer = 1";
    let before = ids(&from_memory(&other, sql).await?);
    rows(&pair.proxied, "BEGIN").await?;
    run(&pair.proxied, "INSERT INTO orders VALUES (101, 1)", "write").await?;
    rows(&pair.proxied, "SAVEPOINT s").await?;
    run(&pair.proxied, "DELETE FROM orders WHERE id = 1", "write").await?;
    run(
        &pair.proxied,
        "UPDATE orders SET customer = 1 WHERE id = 2",
        "write",
    )
    .await?;
    run(
        &pair.proxied,
        "UPDATE orders SET customer = 3 WHERE id = 11",
        "write",
    )
    .await?;
    let own = ids(&at_once(&pair.proxied, sql).await?);
    ensure!(own == [2, 21, 31, 41, 51, 61, 71, 81, 91, 101], "{own:?}");
    ensure!(ids(&at_once(&other, sql).await?) == before);
    rows(&pair.proxied, "ROLLBACK TO s").await?;
    let own = ids(&at_once(&pair.proxied, sql).await?);
    ensure!(
        own == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 101],
        "{own:?}"
    );
    rows(&pair.proxied, "COMMIT").await?;
    ensure!(ids(&at_once(&other, sql).await?) == own);
    Ok(())
}

#[tokio::test]
async fn what_passes_through_is_in_the_next_read_of_a_set() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let other = pair.ripen.connect().await?;
    let sql = "SELECT id FROM orders WHERE customer = 1";
    let changes = [
        "UPDATE orders SET customer = 2 WHERE id = 1",
        "INSERT INTO orders VALUES (101, 1)",
        "UPDATE orders SET customer = 1 WHERE amount > 2",
        "DELETE FROM orders WHERE customer = 1 AND id < 40",
        "UPDATE orders SET customer = 1 WHERE id IN (2, 3)",
        "BEGIN; UPDATE orders SET customer = 3 WHERE id = 2; UPDATE orders SET customer = 1 WHERE id = 4; COMMIT",
        "WITH moved AS (UPDATE orders SET customer = 1 WHERE id = 5 RETURNING id) SELECT count(*) FROM moved",
        "TRUNCATE orders",
        "INSERT INTO orders SELECT g, 1 FROM generate_series(1, 5) g",
    ];
    for change in changes {
        from_memory(&other, sql).await?;
        for _ in 0..20 {
            // Done again, an insert is refused.
            let done = rows(&pair.proxied, change).await;
            let refused = |error: &anyhow::Error| format!("{error:#}").contains("duplicate key");
            ensure!(done.as_ref().err().is_none_or(refused), "{done:?}");
            let real = ids(&rows(&pair.direct, sql).await?);
            let told = ids(&rows(&other, sql).await?);
            ensure!(told == real, "{change}: {told:?} {real:?}");
            rows(&pair.proxied, "UPDATE orders SET note = 'x' WHERE id = 50").await?;
        }
    }
    let told = ids(&from_memory(&other, sql).await?);
    ensure!(told == [1, 2, 3, 4, 5], "{told:?}");
    Ok(())
}

/// Until the set is what Postgres shows; in between it may only be what it was.
async fn follows(pair: &Pair, sql: &str) -> anyhow::Result<()> {
    let real = ids(&rows(&pair.direct, sql).await?);
    wait::until("an outside change is in the set", || async {
        let told = ids(&rows(&pair.proxied, sql).await?);
        Ok((told == real).then_some(()))
    })
    .await?;
    let told = ids(&from_memory(&pair.proxied, sql).await?);
    ensure!(told == real, "{told:?} {real:?}");
    Ok(())
}

#[tokio::test]
async fn outside_changes_reach_sets() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let sql = "SELECT id FROM orders WHERE customer = 1";
    let changes = [
        "INSERT INTO orders VALUES (101, 1)",
        "UPDATE orders SET customer = 1 WHERE id = 5",
        "UPDATE orders SET customer = 2 WHERE id = 101",
        "DELETE FROM orders WHERE id = 11",
        "UPDATE orders SET id = 500 WHERE id = 21",
        "BEGIN; UPDATE orders SET customer = 1 WHERE customer = 6; DELETE FROM orders WHERE id = 31; COMMIT",
        "ALTER TABLE orders ALTER customer TYPE bigint",
        "INSERT INTO orders VALUES (102, 1)",
        "TRUNCATE orders",
        "INSERT INTO orders SELECT g, 1 FROM generate_series(1, 5) g",
    ];
    for change in changes {
        from_memory(&pair.proxied, sql).await?;
        pair.direct.batch_execute(change).await?;
        follows(&pair, sql).await.context(change)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_stream_takes_its_sets_with_it() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let sql = "SELECT id FROM orders WHERE customer = 1";
    from_memory(&pair.proxied, sql).await?;
    wait::until("the slot is gone", || async {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
        rows(&pair.direct, end).await?;
        let dropping = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        let dropped = rows(&pair.direct, dropping).await;
        // Nobody will ever tell this.
        let change = "INSERT INTO orders SELECT max(id) + 1, 1 FROM orders";
        Ok(match dropped {
            Ok(slots) if !slots.is_empty() => Some(pair.direct.batch_execute(change).await?),
            _ => None,
        })
    })
    .await?;
    follows(&pair, sql).await
}

#[tokio::test]
async fn a_set_with_too_many_rows_passes_through() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let many = "INSERT INTO orders SELECT g, 77 FROM generate_series(1001, 2001) g";
    pair.direct.batch_execute(many).await?;
    let sql = "SELECT count(*) FROM orders WHERE customer = 77";
    for _ in 0..3 {
        let told = rows(&pair.proxied, sql).await?;
        ensure!(told[0][0].as_deref() == Some("1001"), "{told:?}");
        let (way, why) = route(&pair.proxied).await?;
        ensure!(
            way == "pass" && why.starts_with("set-too-large"),
            "{way} {why}"
        );
    }
    pair.direct
        .batch_execute("DELETE FROM orders WHERE id = 1500")
        .await?;
    let told = wait::until("the set is looked at again", || async {
        let told = rows(&pair.proxied, sql).await?;
        Ok((route(&pair.proxied).await?.0 == "read").then_some(told))
    })
    .await?;
    ensure!(told[0][0].as_deref() == Some("1000"), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn evicted_rows_are_loaded_before_their_set_is_told() -> anyhow::Result<()> {
    let schema = format!(
        "{SCHEMA} INSERT INTO orders SELECT g, g % 2000 + 100, 'open', 0, NULL, repeat('x', 1000) FROM generate_series(1000, 60999) g;"
    );
    let pair = Pair::start(
        &schema,
        &[("memory_max", "64MiB"), ("max_pending_bytes", "8MiB")],
    )
    .await?;
    for round in 0..2 {
        for customer in 100..2100 {
            let sql = format!("SELECT id FROM orders WHERE customer = {customer}");
            let told = rows(&pair.proxied, &sql).await?;
            ensure!(told.len() == 30, "{round} {customer}: {told:?}");
        }
    }
    ensure!(
        pair.ripen.number("evictions").await? > 0.0,
        "nothing was evicted"
    );
    ensure!(pair.ripen.number("sets").await? > 0.0);
    from_memory(&pair.proxied, "SELECT id FROM orders WHERE customer = 100").await?;
    Ok(())
}
