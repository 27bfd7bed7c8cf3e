//! The harness itself: what the other tests rely on.

use anyhow::ensure;
use ripen_tests::postgres::{Options, Postgres, Stop};
use ripen_tests::{Pair, Ripen};

#[tokio::test]
async fn postgres_keeps_its_data_over_every_kind_of_stop() -> anyhow::Result<()> {
    let mut postgres = Postgres::start(Options::default().set("work_mem", "5MB")).await?;
    postgres
        .connect()
        .await?
        .batch_execute("CREATE TABLE t (n int)")
        .await?;
    for (n, how) in [Stop::Fast, Stop::Immediate, Stop::Kill]
        .into_iter()
        .enumerate()
    {
        postgres
            .connect()
            .await?
            .execute("INSERT INTO t VALUES ($1)", &[&i32::try_from(n)?])
            .await?;
        postgres.stop(how).await?;
        ensure!(
            postgres.connect().await.is_err(),
            "still answers after {how:?}"
        );
        postgres.start_again().await?;
        let client = postgres.connect().await?;
        let rows = client.query("SELECT n FROM t", &[]).await?.len();
        ensure!(rows == n + 1, "{rows} rows after {how:?}");
    }
    let client = postgres.connect().await?;
    for (name, value) in [("wal_level", "logical"), ("work_mem", "5MB")] {
        let row = client.query_one(&format!("SHOW {name}"), &[]).await?;
        ensure!(row.get::<_, String>(0) == value, "{name} is not {value}");
    }
    Ok(())
}

#[tokio::test]
async fn postgres_asks_for_passwords_when_told_to() -> anyhow::Result<()> {
    let hba = "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256";
    let postgres = Postgres::start(Options::default().hba(hba)).await?;
    postgres
        .connect()
        .await?
        .batch_execute("CREATE ROLE app LOGIN PASSWORD 'secret'")
        .await?;
    let url = |login: &str| format!("postgres://{login}@127.0.0.1:{}/postgres", postgres.port());
    ensure!(
        ripen_tests::postgres::connect(&url("app:wrong"))
            .await
            .is_err()
    );
    ensure!(
        ripen_tests::postgres::connect(&url("app:secret"))
            .await
            .is_ok()
    );
    Ok(())
}

#[tokio::test]
async fn ripen_starts_stops_and_survives_kill() -> anyhow::Result<()> {
    let mut pair = Pair::start("CREATE TABLE t (n int PRIMARY KEY)", &[]).await?;
    pair.proxied
        .execute("INSERT INTO t VALUES (1)", &[])
        .await?;
    ensure!(pair.direct.query("SELECT n FROM t", &[]).await?.len() == 1);
    pair.ripen.kill9().await?;
    ensure!(pair.ripen.connect().await.is_err());
    pair.ripen.restart().await?;
    let client = pair.ripen.connect().await?;
    ensure!(client.query("SELECT n FROM t", &[]).await?.len() == 1);
    drop(client);
    pair.ripen.stop().await?;
    ensure!(!pair.ripen.is_running());
    Ok(())
}

#[tokio::test]
async fn bad_settings_end_ripen_with_a_reason() -> anyhow::Result<()> {
    let started = Ripen::start("postgres://127.0.0.1:1/x", &[("batch_factor", "7")]).await;
    let error = started
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(
        error.contains("--batch-factor: batch_factor: \"7\" is not a number from 0 to 1"),
        "{error}"
    );
    Ok(())
}
