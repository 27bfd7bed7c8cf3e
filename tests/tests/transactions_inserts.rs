//! Transaction blocks with the inserts of an application: values drawn from sequences, rows that refer to others; and blocks over tables of several logs.

use ripen_tests::{Both, postgres};

const SCHEMA: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers, state text DEFAULT 'new');
    CREATE TABLE items (shop text, no int, name text, PRIMARY KEY (shop, no));
    CREATE TABLE lines (id int PRIMARY KEY, ord int REFERENCES orders, no int, shop varchar(9), FOREIGN KEY (no, shop) REFERENCES items (no, shop));
    INSERT INTO customers VALUES (1, 'a'), (2, 'b');
    INSERT INTO items VALUES ('x', 1, 'i'), ('x', 2, 'j'), ('x', 3, 'k');
    INSERT INTO orders VALUES (100, 1, 'old')";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "100ms")];

async fn both() -> anyhow::Result<Both> {
    let tables = &["customers", "orders", "items", "lines"];
    Both::start(SCHEMA, tables, SETTINGS).await
}

#[tokio::test]
async fn values_of_sequences_are_given_in_blocks_and_stay_given() -> anyhow::Result<()> {
    let both = both().await?;
    both.same_from_memory(
        "a: BEGIN
         a: INSERT INTO orders (customer) VALUES (1) RETURNING id, state
         a: SELECT lastval()
         a: SAVEPOINT s
         a: INSERT INTO orders (customer) VALUES (2) RETURNING id
         a: ROLLBACK TO s
         a: SELECT currval('orders_id_seq')
         a: UPDATE orders SET state = 'paid' WHERE id = 1 RETURNING *
         b: SELECT * FROM orders WHERE id IN (1, 2)
         a: COMMIT
         b: SELECT * FROM orders WHERE id IN (1, 2)
         a: BEGIN
         a: INSERT INTO orders (customer) VALUES (1), (2) RETURNING id
         a: ROLLBACK
         a: SELECT lastval()
         a: INSERT INTO orders (customer) VALUES (1) RETURNING id",
    )
    .await
}

#[tokio::test]
async fn rows_are_kept_that_open_blocks_refer_to() -> anyhow::Result<()> {
    let both = both().await?;
    both.same_from_memory(
        "a: BEGIN
         a: INSERT INTO lines VALUES (1, 100, 1, 'x')
         a: UPDATE lines SET no = 2, shop = 'x' WHERE id = 1
         a: COMMIT
         b: SELECT * FROM lines WHERE id = 1",
    )
    .await?;
    // Whoever has locked a row for itself lets nobody refer to it; whoever changes something of it does.
    both.same_from_memory(
        "a: BEGIN
         a: SELECT id FROM customers WHERE id = 1 FOR UPDATE
         b: BEGIN
         b~ INSERT INTO orders (id, customer) VALUES (300, 1)
         c: INSERT INTO orders (id, customer) VALUES (301, 2)
         d~ INSERT INTO orders (id, customer) VALUES (302, 1)
         a: COMMIT
         b: UPDATE orders SET state = 'seen' WHERE id = 300
         b: COMMIT
         d: SELECT * FROM orders WHERE id = 302
         a: BEGIN
         a: UPDATE customers SET name = 'z' WHERE id = 1
         b: BEGIN
         b: INSERT INTO orders (id, customer) VALUES (303, 1)
         b: UPDATE customers SET name = 'y' WHERE id = 2
         c: INSERT INTO orders (id, customer) VALUES (304, 1)
         a: COMMIT
         b: COMMIT",
    )
    .await?;
    // Whoever deletes it is Postgres's business, and waits there for the block.
    both.same_with_promotion(
        "a: BEGIN
         a: INSERT INTO lines VALUES (5, NULL, 3, 'x')
         b~ DELETE FROM items WHERE shop = 'x' AND no = 3
         a: COMMIT
         b: SELECT * FROM items WHERE shop = 'x' AND no = 3",
    )
    .await?;
    both.same_with_promotion(
        "a: BEGIN
         a: INSERT INTO lines VALUES (6, NULL, 3, 'x')
         a: DELETE FROM lines WHERE id IN (5, 6)
         b~ DELETE FROM items WHERE shop = 'x' AND no = 3
         a: ROLLBACK
         b: SELECT * FROM items WHERE shop = 'x' AND no = 3",
    )
    .await
}

#[tokio::test]
async fn rows_that_refer_to_what_is_not_in_postgres_are_left_to_it() -> anyhow::Result<()> {
    let both = both().await?;
    both.same_with_promotion(
        "a: BEGIN
         a: INSERT INTO customers VALUES (7, 'c')
         a: INSERT INTO orders VALUES (400, 7)
         a: COMMIT
         b: SELECT * FROM orders WHERE id = 400",
    )
    .await?;
    both.same_with_promotion(
        "a: BEGIN
         a: UPDATE customers SET name = 'q' WHERE id = 1
         a: INSERT INTO orders VALUES (401, 99)
         a: SELECT 1
         a: ROLLBACK
         b: BEGIN
         b: UPDATE orders SET state = 'x' WHERE id = 100
         b: UPDATE orders SET customer = 98 WHERE id = 100
         b: COMMIT
         b: SELECT * FROM orders WHERE id = 100",
    )
    .await?;
    // What somebody has not committed yet is not there for others.
    both.same_with_promotion(
        "a: BEGIN
         a: INSERT INTO customers VALUES (8, 'd')
         b: BEGIN
         b: UPDATE orders SET state = 'y' WHERE id = 100
         b: INSERT INTO orders VALUES (402, 8)
         b: ROLLBACK
         a: ROLLBACK",
    )
    .await
}

#[tokio::test]
async fn a_client_needs_no_right_to_lock_what_its_rows_refer_to() -> anyhow::Result<()> {
    let both = both().await?;
    let grants = "CREATE ROLE clerk LOGIN;
        GRANT SELECT, INSERT ON lines TO clerk";
    both.pair.direct.batch_execute(grants).await?;
    let url = both.pair.ripen.url().replace("postgres@", "clerk@");
    let clerk = postgres::connect(&url).await?;
    clerk.batch_execute("BEGIN").await?;
    clerk
        .batch_execute("INSERT INTO lines VALUES (1, 100, 1, 'x')")
        .await?;
    let row = clerk.query_one("SELECT count(*) FROM lines", &[]).await?;
    anyhow::ensure!(row.get::<_, i64>(0) == 1);
    clerk.batch_execute("COMMIT").await?;
    Ok(())
}

const TWO_LOGS: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v int NOT NULL);
    CREATE TABLE b (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO a SELECT g, 0 FROM generate_series(1, 9) g;
    INSERT INTO b SELECT g, 0 FROM generate_series(1, 9) g";

const LOGS: &str = "logs = 2\nwrite_behind = [\"public.*\"]\nwrite_delay = \"100ms\"
[[table]]\npattern = \"a\"\nlog = 0
[[table]]\npattern = \"b\"\nlog = 1\n";

#[tokio::test]
async fn a_block_is_of_one_log_or_goes_to_postgres() -> anyhow::Result<()> {
    let both = Both::start(TWO_LOGS, &["a", "b"], &[("file", LOGS)]).await?;
    both.same_from_memory(
        "x: BEGIN
         x: SAVEPOINT s
         x: UPDATE b SET v = 1 WHERE id = 1
         x: SELECT v FROM a WHERE id = 1
         y: BEGIN
         y: UPDATE a SET v = 1 WHERE id = 1
         y: UPDATE a SET v = v + 1 WHERE id = 1
         z~ UPDATE a SET v = v + 10 WHERE id = 1
         x: COMMIT
         y: COMMIT
         z: SELECT v FROM a WHERE id = 1
         x: SELECT v FROM b WHERE id = 1
         x: SELECT v FROM a WHERE id = 1",
    )
    .await?;
    both.same_with_promotion(
        "x: BEGIN
         x: UPDATE a SET v = v + 1 WHERE id = 2
         x: SAVEPOINT s
         x: UPDATE b SET v = v + 1 WHERE id = 2
         y: SELECT v FROM a WHERE id = 2
         x: COMMIT
         y: SELECT v FROM a WHERE id = 2
         y: SELECT v FROM b WHERE id = 2",
    )
    .await?;
    // Each has a row that the other wants, in different logs.
    both.same_with_promotion(
        "x: BEGIN
         y: BEGIN
         x: UPDATE a SET v = 5 WHERE id = 3
         y: UPDATE b SET v = 6 WHERE id = 3
         x~ UPDATE b SET v = v + 5 WHERE id = 3
         y: UPDATE b SET v = v + 6 WHERE id = 4
         y: COMMIT
         x: COMMIT
         x: SELECT v FROM b WHERE id = 3",
    )
    .await
}
