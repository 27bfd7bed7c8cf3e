//! Which server processes of Postgres still live: a session's transaction has ended for certain when its backend is gone. Never ends one.

use crate::error::StoreError;
use crate::store::Store;

/// A server process, as BackendKeyData names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendPid(pub i32);

impl Store {
    /// Those of the backends that live, each with its start if that may be seen: a number may be given to another process later. Cancel safe.
    pub async fn living(
        &self,
        backends: &[BackendPid],
    ) -> Result<Vec<(BackendPid, Option<String>)>, StoreError> {
        if backends.is_empty() {
            return Ok(Vec::new());
        }
        let pids: Vec<i32> = backends.iter().map(|backend| backend.0).collect();
        let client = self.client().await?;
        let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = ANY($1)";
        let rows = client.query(sql, &[&pids]).await?;
        let living = |row: &tokio_postgres::Row| Ok((BackendPid(row.try_get(0)?), row.try_get(1)?));
        rows.iter().map(living).collect()
    }
}
