//! What a client is told, and which way Ripen took for it.

use crate::wait;
use anyhow::{Context, ensure};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// Rows as text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// The rows of all statements of a text.
///
/// # Errors
/// Of the statements.
pub async fn rows(client: &Client, sql: &str) -> anyhow::Result<Rows> {
    let answers = client.simple_query(sql).await.context(sql.to_owned())?;
    let rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let columns = |row: &SimpleQueryRow| {
        let columns = 0..row.len();
        columns.map(|at| row.get(at).map(str::to_owned)).collect()
    };
    Ok(rows.map(columns).collect())
}

/// The same in any order.
pub fn sorted(mut rows: Rows) -> Rows {
    rows.sort();
    rows
}

/// Which way the session's last statement took, and why.
///
/// # Errors
/// When Ripen does not say.
pub async fn route(client: &Client) -> anyhow::Result<(String, String)> {
    let told = rows(client, "SHOW ripen.route").await?;
    let told = told.first().context("a route")?;
    let part = |at: usize| told[at].clone().unwrap_or_default();
    Ok((part(0), part(1)))
}

/// Reasons that time heals.
pub fn is_passing(why: &str) -> bool {
    let codes = ["apart", "fenced", "not-followed", "set-obscure", "behind"];
    codes.iter().any(|code| why.starts_with(code))
}

/// The answer, once memory gives it: first the stream must have come as far as what was loaded.
///
/// # Errors
/// When it passes through for a reason that time does not heal.
pub async fn from_memory(client: &Client, sql: &str) -> anyhow::Result<Rows> {
    wait::until("it is answered from memory", || async {
        let told = rows(client, sql).await?;
        let (way, why) = route(client).await?;
        ensure!(way == "read" || is_passing(&why), "{sql}: {way} {why}");
        Ok((way == "read").then_some(told))
    })
    .await
}

/// What memory answers at once: nothing may pass through.
///
/// # Errors
/// When it does.
pub async fn at_once(client: &Client, sql: &str) -> anyhow::Result<Rows> {
    let told = rows(client, sql).await?;
    let (way, why) = route(client).await?;
    ensure!(way == "read", "{sql}: {way} {why}");
    Ok(told)
}

/// Runs a statement that must take this way.
///
/// # Errors
/// When it fails or takes another.
pub async fn run(client: &Client, sql: &str, way: &str) -> anyhow::Result<()> {
    rows(client, sql).await?;
    let taken = route(client).await?;
    ensure!(taken.0 == way, "{sql}: {taken:?}");
    Ok(())
}
