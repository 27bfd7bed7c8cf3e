//! Reads the whole catalog in one snapshot: `sql.rs` asks, `build.rs` understands, `graph.rs` concludes. Never interprets a statement; the planner does.

mod build;
mod graph;
mod sql;

use super::{Catalog, Epoch};
use crate::error::StoreError;
use crate::limits::CATALOG_ATTEMPTS;
use crate::store::Store;
use build::Builder;
use deadpool_postgres::Transaction;
use futures_util::future::try_join_all;
use tokio_postgres::{Error, IsolationLevel, Row};

impl Store {
    /// Loads the catalog as version `epoch`. Its `fingerprint` is what [`Store::catalog_fingerprint`] said at that moment. Cancel safe.
    pub async fn load_catalog(&self, epoch: Epoch) -> Result<Catalog, StoreError> {
        for _ in 0..CATALOG_ATTEMPTS {
            match self.load_once(epoch).await {
                // `pg_get_expr` and its like look at the newest catalog, not at the transaction's: only when nothing changed meanwhile do all agree.
                Ok((catalog, snapshot)) => {
                    if snapshot == self.snapshot().await?
                        || catalog.fingerprint == self.catalog_fingerprint().await?
                    {
                        return Ok(catalog);
                    }
                }
                // "cache lookup failed": dropped under our hands.
                Err(error) if error.sqlstate() == "XX000" => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::CatalogUnsteady)
    }

    /// One cheap query whose answer changes whenever anything in [`Catalog`] would (temporary tables aside). Cancel safe.
    pub async fn catalog_fingerprint(&self) -> Result<String, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(sql::FINGERPRINT).await?;
        Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
    }

    /// The same text twice means that no transaction has ended in between that had changed anything: cheaper to ask than the fingerprint.
    async fn snapshot(&self) -> Result<String, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(sql::SNAPSHOT).await?;
        Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
    }

    /// The catalog, and the snapshot in which it was read.
    async fn load_once(&self, epoch: Epoch) -> Result<(Catalog, String), StoreError> {
        let mut client = self.client().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let read = read(&transaction, epoch).await?;
        transaction.commit().await?;
        Ok(read)
    }
}

/// All questions are sent at once: their round trips would be most of the time on a distant Postgres. The order of what is made of the answers matters:
/// relations come before what is told of them, columns before indexes and grants.
async fn read(
    transaction: &Transaction<'_>,
    epoch: Epoch,
) -> Result<(Catalog, String), StoreError> {
    let ask = |sql| ask(transaction, sql);
    let (snapshot, fingerprint, database) = futures_util::try_join!(
        ask(sql::SNAPSHOT),
        ask(sql::FINGERPRINT),
        ask(sql::DATABASE)
    )?;
    let mut builder = Builder::new(epoch, one(&fingerprint)?.try_get(0)?, one(&database)?)?;
    let constraints = sql::constraints(builder.version());
    let questions = [
        sql::NAMESPACES,
        sql::ROLES,
        sql::MEMBERS,
        sql::FUNCTIONS,
        sql::TYPES,
        sql::RELATIONS,
        sql::COLUMNS,
        sql::SEQUENCES,
        sql::COLUMN_SEQUENCES,
        sql::GRANTS,
        sql::COMPUTED_FROM,
        sql::INDEXES,
        constraints.as_str(),
        sql::EDGES,
        sql::HOOKS,
        sql::OPAQUE,
    ];
    let mut answers = try_join_all(questions.map(ask)).await?.into_iter();
    let mut next = || answers.next().expect("each question has its answer");
    builder.namespaces(&next())?;
    builder.roles(&next(), &next())?;
    builder.functions(&next())?;
    builder.types(&next())?;
    builder.relations(&next())?;
    builder.columns(&next())?;
    builder.sequences(&next())?;
    builder.column_sequences(&next())?;
    builder.grants(&next())?;
    builder.computed_from(&next())?;
    builder.indexes(&next())?;
    builder.constraints(&next())?;
    builder.edges(&next())?;
    builder.hooks(&next())?;
    builder.opaque(&next())?;
    Ok((builder.finish(), one(&snapshot)?.try_get(0)?))
}

async fn ask(transaction: &Transaction<'_>, sql: &str) -> Result<Vec<Row>, Error> {
    let statement = transaction.prepare_cached(sql).await?;
    transaction.query(&statement, &[]).await
}

fn one(rows: &[Row]) -> Result<&Row, StoreError> {
    rows.first().ok_or(StoreError::CatalogUnsteady)
}
