//! What these tests have in common: the tables, what a client is told, and which way a statement took.

use anyhow::{Context, ensure};
use ripen_tests::{Pair, wait};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Nothing is flushed by itself.
pub const STILL: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];
pub const SOON: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "100ms")];

pub const SCHEMA: &str = "CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents VALUES (1), (2);
    CREATE TABLE log (what text NOT NULL, n int DEFAULT 7, made timestamptz NOT NULL DEFAULT now(), parent int REFERENCES parents, CHECK (n > 0));
    CREATE TABLE numbered (number bigserial, tags int[], token uuid DEFAULT gen_random_uuid());
    CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t VALUES (1, 0)";

/// All rows as text, columns separated by blanks and rows by commas.
pub async fn shown(client: &Client, sql: &str) -> anyhow::Result<String> {
    let answers = client.simple_query(sql).await.context(sql.to_owned())?;
    let rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => {
            let values = (0..row.len()).map(|at| row.get(at).unwrap_or("null"));
            Some(values.collect::<Vec<_>>().join(" "))
        }
        _ => None,
    });
    Ok(rows.collect::<Vec<_>>().join(", "))
}

pub async fn route(client: &Client) -> anyhow::Result<String> {
    shown(client, "SHOW ripen.route").await
}

/// Sure to be Postgres's, for that reason.
pub async fn passes(client: &Client, sql: &str, why: &str) -> anyhow::Result<()> {
    client.batch_execute(sql).await.context(sql.to_owned())?;
    let route = route(client).await?;
    ensure!(
        !route.starts_with("write") && !route.starts_with("read") && route.contains(why),
        "{sql}: {route}"
    );
    Ok(())
}

pub async fn state(client: &Client, sql: &str) -> Option<String> {
    let error = client.batch_execute(sql).await.err()?;
    Some(error.code()?.code().to_owned())
}

/// Waits until nothing is owned by Postgres any more.
pub async fn free(pair: &Pair) -> anyhow::Result<()> {
    wait::until("no fence stands", || async {
        let standing = pair.ripen.number("fences_open").await?;
        Ok((standing == 0.0).then_some(()))
    })
    .await
}

pub async fn pending(pair: &Pair) -> anyhow::Result<f64> {
    pair.ripen.number("pending_rows").await
}
