//! Scripts of several sessions at once (`script.rs`), run on Postgres and through Ripen, which must say the same, wait at the same places, and leave the same tables.

use crate::script::{ask, run};
use crate::{Pair, postgres};
use anyhow::{Context, ensure};

/// Two databases with the same schema, one of them behind Ripen.
pub struct Both {
    /// The one behind Ripen.
    pub pair: Pair,
    plain: String,
    tables: &'static [&'static str],
}

impl Both {
    /// Starts both; `tables` are compared after each script.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(
        schema: &str,
        tables: &'static [&'static str],
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Both> {
        Both::of(Pair::start(schema, settings).await?, schema, tables).await
    }

    /// With a pair that has the schema already.
    ///
    /// # Errors
    /// When the second database cannot be made.
    pub async fn of(
        pair: Pair,
        schema: &str,
        tables: &'static [&'static str],
    ) -> anyhow::Result<Both> {
        let plain = pair.postgres.create_database("plain").await?;
        postgres::connect(&plain)
            .await?
            .batch_execute(schema)
            .await?;
        Ok(Both {
            pair,
            plain,
            tables,
        })
    }

    /// Runs statements on both, so that they begin alike.
    ///
    /// # Errors
    /// Of the statements.
    pub async fn reset(&self, sql: &str) -> anyhow::Result<()> {
        let plain = postgres::connect(&self.plain).await?;
        plain.batch_execute(sql).await?;
        Ok(self.pair.proxied.batch_execute(sql).await?)
    }

    /// Runs the script on both and compares. Answers how many blocks have moved to Postgres meanwhile.
    ///
    /// # Errors
    /// When anything differs, or a row is in the dead letters.
    pub async fn same(&self, script: &str) -> anyhow::Result<u64> {
        let before: u64 = self.pair.promotions().await?.values().sum();
        let plain = run(std::slice::from_ref(&self.plain), script)
            .await
            .context("on Postgres")?;
        let proxied = run(&[self.pair.ripen.url()], script).await;
        let proxied =
            proxied.with_context(|| format!("through Ripen\n{}", self.pair.ripen.log()))?;
        ensure!(plain == proxied, "Postgres:\n{plain}\nRipen:\n{proxied}");
        self.pair.flush().await?;
        let direct = postgres::connect(&self.plain).await?;
        for table in self.tables {
            let sql = format!("SELECT * FROM {table} ORDER BY 1");
            let (left, right) = (ask(&direct, &sql).await, ask(&self.pair.direct, &sql).await);
            ensure!(
                left == right,
                "{script}\nPostgres:\n{left}\nbehind Ripen:\n{right}"
            );
            let cached = ask(&self.pair.proxied, &sql).await;
            ensure!(
                left == cached,
                "{script}\nPostgres:\n{left}\nthrough Ripen:\n{cached}"
            );
        }
        let dead = ask(&self.pair.direct, "SELECT count(*) FROM ripen.dead_letter").await;
        ensure!(dead.contains("  0\n"), "{dead}");
        let after: u64 = self.pair.promotions().await?.values().sum();
        Ok(after - before)
    }

    /// The same for one that must not need Postgres.
    ///
    /// # Errors
    /// As [`Both::same`], and when a block has moved.
    pub async fn same_from_memory(&self, script: &str) -> anyhow::Result<()> {
        let moved = self.same(script).await.with_context(|| script.to_owned())?;
        let reasons = self.pair.promotions().await?;
        ensure!(moved == 0, "{script}\nmoved to Postgres: {reasons:?}");
        Ok(())
    }

    /// The same for one that must end there.
    ///
    /// # Errors
    /// As [`Both::same`], and when none has moved.
    pub async fn same_with_promotion(&self, script: &str) -> anyhow::Result<()> {
        let moved = self.same(script).await.with_context(|| script.to_owned())?;
        ensure!(moved > 0, "{script}\nnever moved to Postgres");
        Ok(())
    }
}
