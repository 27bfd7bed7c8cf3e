//! Corners of the queue and the hot cache, each of which once lost, repeated or hid a write.

use anyhow::{Context, ensure};
use ripen_tests::Pair;
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL); INSERT INTO t SELECT g, 0, 0 FROM generate_series(1, 20) g";

async fn queue(client: &Client, sql: &str) -> anyhow::Result<()> {
    client
        .batch_execute(sql)
        .await
        .with_context(|| sql.to_owned())?;
    let route = client.query_one("SHOW ripen.route", &[]).await?;
    ensure!(route.get::<_, &str>(0) == "write", "{sql}: {route:?}");
    Ok(())
}

#[tokio::test]
async fn a_barrier_reaches_behind_rows_whose_changes_cancelled_out() -> anyhow::Result<()> {
    let settings = [SETTINGS, &[("write_max_batch", "1")]].concat();
    let pair = Pair::start(SCHEMA, &settings).await?;
    for id in [101, 102] {
        queue(&pair.proxied, &format!("INSERT INTO t VALUES ({id}, 1, 1)")).await?;
        queue(&pair.proxied, &format!("DELETE FROM t WHERE id = {id}")).await?;
    }
    queue(&pair.proxied, "UPDATE t SET a = 7 WHERE id = 1").await?;
    let sum = "SELECT sum(a)::int FROM t";
    let sum = pair.proxied.query_one(sum, &[]).await?;
    ensure!(sum.get::<_, i32>(0) == 7);
    Ok(())
}
