//! Facts about the server, and marks in its WAL for the hot cache. Never reads user data.

use crate::error::StoreError;
use crate::store::Store;
use ripen_pg::ids::Lsn;

/// What start-up checks and shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`.
    pub version: u32,
    /// `server_encoding`.
    pub encoding: String,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_slot_wal_keep_size` in bytes; `None`: without limit.
    pub slot_wal_keep_bytes: Option<u64>,
    /// `max_replication_slots`.
    pub replication_slots_max: u32,
    /// `max_wal_senders`.
    pub wal_senders_max: u32,
    /// The cluster's system identifier; `None` when the role may not ask.
    pub system_identifier: Option<u64>,
    /// Whether it is a standby (then nothing can be flushed).
    pub in_recovery: bool,
    /// What Ripen's role may do.
    pub rights: Rights,
}

/// What Ripen's role may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Superuser.
    pub superuser: bool,
    /// REPLICATION: may run a hot cache.
    pub replication: bool,
    /// BYPASSRLS: sees every row.
    pub bypass_rls: bool,
    /// May create schemas and publications in the database.
    pub create: bool,
}

impl Store {
    /// Reads the facts. Cancel safe.
    pub async fn server_facts(&self) -> Result<ServerFacts, StoreError> {
        let client = self.client().await?;
        let row = client.query_one(FACTS, &[]).await?;
        let identifier: Option<i64> = match row.try_get("may_identify")? {
            true => {
                let sql = "SELECT system_identifier FROM pg_control_system()";
                Some(client.query_one(sql, &[]).await?.try_get(0)?)
            }
            false => None,
        };
        let keep: i64 = row.try_get("keep")?;
        let number =
            |name: &str| -> Result<u32, StoreError> { Ok(row.try_get::<_, i32>(name)? as u32) };
        Ok(ServerFacts {
            version: number("version")?,
            encoding: row.try_get("encoding")?,
            wal_level: row.try_get("wal_level")?,
            slot_wal_keep_bytes: u64::try_from(keep).ok().map(|megabytes| megabytes << 20),
            replication_slots_max: number("slots")?,
            wal_senders_max: number("senders")?,
            system_identifier: identifier.map(|number| number as u64),
            in_recovery: row.try_get("in_recovery")?,
            rights: Rights {
                superuser: row.try_get("superuser")?,
                replication: row.try_get("replication")?,
                bypass_rls: row.try_get("bypass_rls")?,
                create: row.try_get("may_create")?,
            },
        })
    }

    /// Writes a mark into the WAL that the hot cache sees as a transactional message with prefix `ripen` and the decimal `id`, and returns once it is durable.
    /// Every commit that ended before this call stands before the mark.
    pub async fn emit_mark(&self, id: u64) -> Result<Lsn, StoreError> {
        let sql = "SELECT pg_logical_emit_message(true, 'ripen', $1)::text";
        self.lsn(sql, &[&id.to_string()]).await
    }

    /// `pg_current_wal_insert_lsn()`: every change visible now lies before it.
    pub async fn current_lsn(&self) -> Result<Lsn, StoreError> {
        self.lsn("SELECT pg_current_wal_insert_lsn()::text", &[])
            .await
    }

    async fn lsn(
        &self,
        sql: &str,
        params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Lsn, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_one(&statement, params).await?;
        let text: String = row.try_get(0)?;
        text.parse()
            .map_err(|_| StoreError::Unexpected(format!("LSN {text}")))
    }
}

const FACTS: &str = "SELECT current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding, \
    current_setting('wal_level') AS wal_level, (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep, \
    current_setting('max_replication_slots')::int AS slots, current_setting('max_wal_senders')::int AS senders, \
    pg_is_in_recovery() AS in_recovery, has_function_privilege('pg_control_system()', 'EXECUTE') AS may_identify, \
    rolsuper AS superuser, rolsuper OR rolreplication AS replication, rolsuper OR rolbypassrls AS bypass_rls, \
    has_database_privilege(current_database(), 'CREATE') AS may_create FROM pg_roles WHERE rolname = current_user";
