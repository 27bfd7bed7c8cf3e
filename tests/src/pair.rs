//! The same client twice: one direct to Postgres, one through Ripen, on one database. For tests that compare.

use crate::postgres::{self, Options, Postgres};
use crate::ripen::Ripen;
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use tokio_postgres::Client;

/// A Postgres, a Ripen in front of it, and a connection to each.
pub struct Pair {
    /// To Postgres itself: an outside writer, or the one who looks what is really there.
    pub direct: Client,
    /// Through Ripen.
    pub proxied: Client,
    /// The process in between.
    pub ripen: Ripen,
    /// The system of record.
    pub postgres: Postgres,
}

impl Pair {
    /// How often a block has moved to Postgres, by reason.
    ///
    /// # Errors
    /// When the metrics cannot be had or read.
    pub async fn promotions(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        self.ripen.promotions().await
    }

    /// Starts both, after running `schema` in Postgres.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(schema: &str, settings: &[(&str, &str)]) -> anyhow::Result<Pair> {
        Pair::start_with(Options::default(), schema, settings).await
    }

    /// As `start`, with wishes for Postgres.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start_with(
        options: Options,
        schema: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Pair> {
        let postgres = Postgres::start(options).await?;
        let direct = postgres.connect().await?;
        direct.batch_execute(schema).await?;
        let ripen = Ripen::start(&postgres.url(), settings).await?;
        let proxied = ripen.connect().await?;
        Ok(Pair {
            direct,
            proxied,
            ripen,
            postgres,
        })
    }

    /// Waits until everything acknowledged is in Postgres.
    ///
    /// # Errors
    /// Of the flush.
    pub async fn flush(&self) -> anyhow::Result<()> {
        Ok(self.proxied.batch_execute("CALL ripen.flush()").await?)
    }

    /// One more connection to Postgres itself.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn connect_direct(&self) -> anyhow::Result<Client> {
        postgres::connect(&self.postgres.url()).await
    }
}

/// Runs a write that must be queued.
///
/// # Errors
/// When it fails or passes through.
pub async fn queue(client: &Client, sql: &str) -> anyhow::Result<()> {
    client
        .batch_execute(sql)
        .await
        .with_context(|| sql.to_owned())?;
    let route = client.query_one("SHOW ripen.route", &[]).await?;
    let (route, reason): (&str, &str) = (route.get(0), route.get(1));
    ensure!(route == "write", "{sql}: {route} ({reason})");
    Ok(())
}
