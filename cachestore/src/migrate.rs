//! Brings the schema `ripen` up to date. The list of migrations is sqlx's; they run on Ripen's own connection, all in one transaction
//! under an advisory lock, so two processes that start at once do not meet. Never touches any other schema.

use crate::advisory;
use crate::error::StoreError;
use crate::store::Store;
use crate::upstream::Upstream;
use sqlx::migrate::{Migration, Migrator};
use std::collections::BTreeMap;
use std::fmt::Write;
use tokio_postgres::Transaction;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// sqlx's own bookkeeping table, in our schema, so that its command line tools can read it.
const BOOKKEEPING: &str = "CREATE SCHEMA IF NOT EXISTS ripen; \
    CREATE TABLE IF NOT EXISTS ripen._sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, \
    installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL)";

/// Migrates with a connection of its own. See [`Store::migrate`].
pub async fn migrate(upstream: &Upstream) -> Result<usize, StoreError> {
    let store = Store::new(upstream.clone());
    let applied = store.migrate().await;
    store.close();
    applied
}

impl Store {
    /// Applies what is missing and returns how many that were; nothing at all happens when the schema is current, so no right is needed then.
    /// All or nothing. Safe when several processes do it at once. `Migration` when the role may not create the schema, or the database's
    /// schema is newer than this program or was changed.
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        self.migrate_now().await.map_err(explain)
    }

    async fn migrate_now(&self) -> Result<usize, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.build_transaction().start().await?;
        let known = applied(&transaction).await?;
        if missing(&known)?.is_empty() {
            return Ok(0);
        }
        let count = run(&transaction).await?;
        transaction.commit().await?;
        Ok(count)
    }
}

/// All migrations as one SQL script that a privileged role can run (with bookkeeping), ending with the grants Ripen's role needs. Those that the database has
/// already are left out when it runs.
pub fn print() -> String {
    let mut script = format!(
        "BEGIN;\nSELECT pg_advisory_xact_lock({});\n{};\n\n",
        advisory::MIGRATION,
        BOOKKEEPING.replace("; ", ";\n")
    );
    for migration in MIGRATIONS.iter() {
        let version = migration.version;
        let _ = writeln!(
            script,
            "DO $migration$ BEGIN IF NOT EXISTS (SELECT FROM ripen._sqlx_migrations WHERE version = {version}) THEN\n\n{}\n\n\
             INSERT INTO ripen._sqlx_migrations (version, description, success, checksum, execution_time)\nVALUES ({version}, '{}', true, '\\x{}', -1);\n\n\
             END IF; END $migration$;\n",
            migration.sql.as_str().trim_end(),
            migration.description.replace('\'', "''"),
            hex(&migration.checksum),
        );
    }
    script.push_str(
        "-- Replace \"ripen\" after TO by the role that Ripen logs in as:\n\
         -- GRANT USAGE ON SCHEMA ripen TO ripen;\n\
         -- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ripen TO ripen;\nCOMMIT;\n",
    );
    script
}

/// Versions in the database, with their checksums; empty when there is no bookkeeping yet.
async fn applied(transaction: &Transaction<'_>) -> Result<BTreeMap<i64, Vec<u8>>, StoreError> {
    let sql = "SELECT to_regclass('ripen._sqlx_migrations') IS NOT NULL";
    if !transaction
        .query_one(sql, &[])
        .await?
        .try_get::<_, bool>(0)?
    {
        return Ok(BTreeMap::new());
    }
    let sql = "SELECT version, checksum FROM ripen._sqlx_migrations WHERE success";
    transaction
        .query(sql, &[])
        .await?
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// What is still to be done; refuses a schema that this program does not know.
fn missing(applied: &BTreeMap<i64, Vec<u8>>) -> Result<Vec<&'static Migration>, StoreError> {
    let newer = |version: &&i64| !MIGRATIONS.version_exists(**version);
    if let Some(version) = applied.keys().find(newer) {
        return Err(StoreError::Migration(format!(
            "the schema \"ripen\" has version {version}, which this version of Ripen does not know"
        )));
    }
    let mut missing = Vec::new();
    for migration in MIGRATIONS.iter() {
        match applied.get(&migration.version) {
            None => missing.push(migration),
            Some(checksum) if checksum[..] == migration.checksum[..] => {}
            Some(_) => {
                return Err(StoreError::Migration(format!(
                    "migration {} of the schema \"ripen\" is not the one this version of Ripen has",
                    migration.version
                )));
            }
        }
    }
    Ok(missing)
}

/// Waits for other migrating processes, looks again, and applies.
async fn run(transaction: &Transaction<'_>) -> Result<usize, StoreError> {
    let sql = "SELECT pg_advisory_xact_lock($1)";
    transaction.execute(sql, &[&advisory::MIGRATION]).await?;
    transaction.batch_execute(BOOKKEEPING).await?;
    let missing = missing(&applied(transaction).await?)?;
    for migration in &missing {
        transaction.batch_execute(migration.sql.as_str()).await?;
        let sql = "INSERT INTO ripen._sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, true, $3, -1)";
        let description: &str = &migration.description;
        let checksum: &[u8] = &migration.checksum;
        transaction
            .execute(sql, &[&migration.version, &description, &checksum])
            .await?;
    }
    Ok(missing.len())
}

/// A missing right becomes advice.
fn explain(error: StoreError) -> StoreError {
    match error.sqlstate() {
        "42501" => StoreError::Migration(format!(
            "the schema \"ripen\" must be created or changed, which Ripen's role may not do ({error}); \
             let a privileged role run the output of \"ripen migrate --print\""
        )),
        _ => error,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
