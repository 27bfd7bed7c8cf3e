//! How the server that answers stands to a log and to its own standbys, all in one statement, hence of one server. Reads only.

use crate::change::FlushSeq;
use crate::error::StoreError;
use crate::home::{SERVER, Server};
use crate::progress::{LogKey, Progress, unsigned};
use crate::store::{Connection, Store};
use ripen_pg::ids::Lsn;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who answers.
    pub server: Server,
    /// The log's row there.
    pub progress: Option<Progress>,
    /// How far its WAL is on its disk: every flush that `progress` counts stands before. `None`: it is a standby.
    pub wal: Option<Lsn>,
    /// Names of the standbys that are connected to it, and how far each has the WAL on its disk. A name may come twice.
    pub standbys: Vec<(String, Lsn)>,
}

impl Store {
    /// Asks. What Ripen's role may not see of `pg_stat_replication` (it takes `pg_monitor`, or `pg_read_all_stats`) is missing. Cancel safe.
    pub async fn standing(&self, log: LogKey) -> Result<Standing, StoreError> {
        let sql = format!(
            "SELECT {SERVER}, p.applied, p.epoch, CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn()::text END, \
             ARRAY(SELECT concat(flush_lsn, ' ', application_name) FROM pg_stat_replication WHERE flush_lsn IS NOT NULL AND state <> 'backup') \
             FROM (SELECT) AS one LEFT JOIN ripen.progress p ON p.log = $1 AND p.identity = $2"
        );
        let client = self.client().await?;
        let statement = client.prepare_cached(&sql).await?;
        let row = client
            .query_one(&statement, &[&log.number, &log.identity.stored()])
            .await?;
        let (applied, epoch): (Option<i64>, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
        let progress = applied.zip(epoch).map(|(applied, epoch)| {
            Ok::<_, StoreError>(Progress {
                applied: FlushSeq(unsigned(applied)?),
                epoch: unsigned(epoch)?,
            })
        });
        let wal: Option<&str> = row.try_get(3)?;
        let standbys: Vec<&str> = row.try_get(4)?;
        Ok(Standing {
            server: read_server(row.try_get(0)?)?,
            progress: progress.transpose()?,
            wal: wal.map(lsn).transpose()?,
            standbys: standbys
                .into_iter()
                .map(standby)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Store {
    /// Refuses a connection to another server than the log says, where that matters.
    pub(crate) async fn check_home(&self, client: &Connection) -> Result<(), StoreError> {
        let home = self.home();
        if !home.guarded() {
            return Ok(());
        }
        let row = client.query_one(&format!("SELECT {SERVER}"), &[]).await?;
        let server = read_server(row.try_get(0)?)?;
        if home.is(Some(server)) {
            return Ok(());
        }
        home.doubt();
        Err(StoreError::Strange(server))
    }
}

/// What [`SERVER`] said.
pub(crate) fn read_server(text: &str) -> Result<Server, StoreError> {
    let unexpected = |()| StoreError::Unexpected(format!("server {text}"));
    text.parse().map_err(unexpected)
}

fn lsn(text: &str) -> Result<Lsn, StoreError> {
    text.parse()
        .map_err(|_| StoreError::Unexpected(format!("LSN {text}")))
}

fn standby(text: &str) -> Result<(String, Lsn), StoreError> {
    let (at, name) = text.split_once(' ').unwrap_or((text, ""));
    Ok((name.to_owned(), lsn(at)?))
}
