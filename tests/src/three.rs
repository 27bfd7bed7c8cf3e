//! As `both.rs`, through a cluster: the sessions of a script are at nodes in turn.

use crate::script::{ask, run};
use crate::{Cluster, Postgres, postgres};
use anyhow::{Context, ensure};
use std::collections::BTreeMap;

/// Three nodes, and a database of the same schema behind nobody.
pub struct Three {
    /// The nodes.
    pub cluster: Cluster,
    plain: String,
    tables: &'static [&'static str],
    turn: usize,
}

impl Three {
    /// Starts all of it; `tables` are compared after each script.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(
        schema: &str,
        tables: &'static [&'static str],
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Three> {
        // Whoever closes a circle hears of it at once, as through Ripen.
        let cluster = Cluster::start_with(schema, 3, settings, async |options| {
            Postgres::start(options.set("deadlock_timeout", "1ms")).await
        })
        .await?;
        let plain = cluster.postgres.create_database("plain").await?;
        postgres::connect(&plain)
            .await?
            .batch_execute(schema)
            .await?;
        Ok(Three {
            cluster,
            plain,
            tables,
            turn: 0,
        })
    }

    /// How often blocks have moved to Postgres, by reason, on all nodes.
    ///
    /// # Errors
    /// When a node's metrics cannot be had.
    pub async fn promotions(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        for node in self.cluster.running() {
            for (reason, count) in self.cluster.node(node).promotions().await? {
                *all.entry(reason).or_default() += count;
            }
        }
        Ok(all)
    }

    async fn moved(&self) -> anyhow::Result<u64> {
        Ok(self.promotions().await?.values().sum())
    }

    /// Runs statements on both, so that they begin alike.
    ///
    /// # Errors
    /// Of the statements.
    pub async fn reset(&self, sql: &str) -> anyhow::Result<()> {
        let plain = postgres::connect(&self.plain).await?;
        plain.batch_execute(sql).await?;
        let proxied = postgres::connect(&self.cluster.url(self.turn % 3)).await?;
        Ok(proxied.batch_execute(sql).await?)
    }

    /// Runs the script on Postgres and through the cluster, each time with its sessions at other nodes, and compares. Answers how many blocks have moved to Postgres.
    ///
    /// # Errors
    /// When anything differs, or a row is in the dead letters.
    pub async fn same(&mut self, script: &str) -> anyhow::Result<u64> {
        let before = self.moved().await?;
        let nodes = (0..3).map(|node| self.cluster.url((node + self.turn) % 3));
        let urls: Vec<String> = nodes.collect();
        self.turn += 1;
        let plain = run(std::slice::from_ref(&self.plain), script).await;
        let plain = plain.context("on Postgres")?;
        let proxied = run(&urls, script).await;
        let proxied = proxied.with_context(|| format!("{script}\n{}", self.cluster.logs()))?;
        ensure!(
            plain == proxied,
            "Postgres:\n{plain}\nRipen:\n{proxied}\n{}",
            self.cluster.logs()
        );
        self.cluster.drained().await?;
        let direct = postgres::connect(&self.plain).await?;
        let behind = self.cluster.postgres.connect().await?;
        for table in self.tables {
            let sql = format!("SELECT * FROM {table} ORDER BY 1");
            let (left, right) = (ask(&direct, &sql).await, ask(&behind, &sql).await);
            ensure!(
                left == right,
                "{script}\nPostgres:\n{left}\nRipen:\n{right}"
            );
        }
        let dead = ask(&behind, "SELECT count(*) FROM ripen.dead_letter").await;
        ensure!(dead.contains("  0\n"), "{dead}");
        Ok(self.moved().await? - before)
    }

    /// The same for one that must not need Postgres.
    ///
    /// # Errors
    /// As [`Three::same`], and when a block has moved.
    pub async fn same_from_memory(&mut self, script: &str) -> anyhow::Result<()> {
        let moved = self.same(script).await.with_context(|| script.to_owned())?;
        let reasons = self.promotions().await?;
        ensure!(moved == 0, "{script}\nmoved to Postgres: {reasons:?}");
        Ok(())
    }

    /// The same for one that must end there.
    ///
    /// # Errors
    /// As [`Three::same`], and when none has moved.
    pub async fn same_with_promotion(&mut self, script: &str) -> anyhow::Result<()> {
        let moved = self.same(script).await.with_context(|| script.to_owned())?;
        ensure!(moved > 0, "{script}\nnever moved to Postgres");
        Ok(())
    }
}
