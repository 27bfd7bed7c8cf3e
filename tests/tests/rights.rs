//! A right that Ripen's own role loses on one table: what is pending there waits for a GRANT, and nobody else does.

use anyhow::{Context, ensure};
use ripen_tests::pair::queue;
use ripen_tests::postgres::Options;
use ripen_tests::{Postgres, Ripen, wait};
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TABLE lent (id int PRIMARY KEY, v int NOT NULL); CREATE TABLE own (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO lent SELECT g, 0 FROM generate_series(1, 9) g; INSERT INTO own SELECT g, 0 FROM generate_series(1, 9) g;
    CREATE ROLE ripen LOGIN REPLICATION BYPASSRLS; GRANT CREATE ON DATABASE postgres TO ripen; ALTER TABLE own OWNER TO ripen;
    CREATE ROLE lender; ALTER TABLE lent OWNER TO lender; GRANT lender TO ripen; GRANT ALL ON lent TO ripen";

async fn v(client: &Client, table: &str, id: i32) -> anyhow::Result<i32> {
    let sql = format!("SELECT v FROM {table} WHERE id = {id}");
    Ok(client.query_one(&sql, &[]).await?.get(0))
}

#[tokio::test]
async fn a_lost_right_on_one_table_holds_up_no_other() -> anyhow::Result<()> {
    for conflict in ["merge", "database"] {
        let postgres = Postgres::start(Options::default()).await?;
        let direct = postgres.connect().await?;
        direct.batch_execute(SCHEMA).await?;
        let upstream = postgres.url().replace("postgres@", "ripen@");
        let settings = [
            ("write_behind", "public.*"),
            ("write_delay", "1h"),
            ("conflict", conflict),
        ];
        let mut ripen = Ripen::start(&upstream, &settings).await?;
        let client = ripen.connect().await?;
        queue(&client, "UPDATE lent SET v = 1 WHERE id = 1").await?;
        queue(&client, "UPDATE own SET v = 1 WHERE id = 1").await?;
        direct
            .batch_execute("REVOKE lender FROM ripen; REVOKE ALL ON lent FROM ripen")
            .await?;
        let asker = ripen.connect().await?;
        let all = tokio::spawn(async move { asker.batch_execute("CALL ripen.flush()").await });
        wait::until("the other table is flushed", || async {
            Ok((v(&direct, "own", 1).await? == 1).then_some(()))
        })
        .await?;
        queue(&client, "UPDATE own SET v = 2 WHERE id = 2").await?;
        let flush = client.batch_execute("CALL ripen.flush('own')");
        let flush = tokio::time::timeout(wait::DEADLINE / 4, flush).await;
        flush.context("own waits behind lent")??;
        ensure!(v(&direct, "own", 2).await? == 2 && v(&direct, "lent", 1).await? == 0);
        ensure!(!all.is_finished(), "what it asked for is not done");
        ensure!(ripen.number("pending_rows").await? == 1.0);
        let letters = "SELECT count(*)::int FROM ripen.dead_letter";
        ensure!(direct.query_one(letters, &[]).await?.get::<_, i32>(0) == 0);
        direct.batch_execute("GRANT ALL ON lent TO ripen").await?;
        all.await??;
        ensure!(v(&direct, "lent", 1).await? == 1);
        ripen.stop().await?;
    }
    Ok(())
}
