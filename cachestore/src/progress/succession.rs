//! A log that was made of the last copy of another one (`ripen recover`) goes on with its count of flushes, and nobody flushes in the name of the former one any more.
//! Never lets two logs follow on the same one: only one can know what became of its last flush.

use super::{LogKey, Taker};
use crate::error::StoreError;
use crate::progress::LogIdentity;
use tokio_postgres::{GenericClient, Transaction};

/// Which log goes on for this one, if one does. The schema `ripen` must be there.
pub(crate) async fn successor(
    client: &impl GenericClient,
    log: LogKey,
) -> Result<Option<LogIdentity>, StoreError> {
    let sql = "SELECT succeeded_by FROM ripen.progress WHERE log = $1 AND identity = $2";
    let row = client
        .query_opt(sql, &[&log.number, &log.identity.stored()])
        .await?;
    let successor: Option<i64> = row.map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(successor.map(|identity| LogIdentity(identity.cast_unsigned())))
}

/// Refuses a taker whose log is succeeded; makes one that succeeds others their heir. The rows of the number are locked.
pub(super) async fn settle(
    transaction: &Transaction<'_>,
    taker: Taker<'_>,
) -> Result<(), StoreError> {
    if let Some(heir) = successor(transaction, taker.log).await? {
        return Err(succeeded(heir));
    }
    if taker.formers.is_empty() {
        return Ok(());
    }
    inherit(transaction, taker).await?;
    for former in taker.formers {
        bury(transaction, taker, *former).await?;
    }
    Ok(())
}

/// The count and the dead letters of the newest former log that has any become the taker's, once.
async fn inherit(transaction: &Transaction<'_>, taker: Taker<'_>) -> Result<(), StoreError> {
    let (number, own) = (taker.log.number, taker.log.identity);
    for former in taker.formers.iter().rev() {
        let log = LogKey {
            number,
            identity: *former,
        };
        match successor(transaction, log).await? {
            Some(heir) if heir == own => return Ok(()),
            // Of two nodes that both went on alone, the first has it. Formers of formers were succeeded by those.
            Some(heir) if !taker.formers.contains(&heir) => return Err(succeeded(heir)),
            _ => {}
        }
        let sql = "UPDATE ripen.progress SET identity = $2 WHERE log = $1 AND identity = $3 AND succeeded_by IS NULL \
             AND NOT EXISTS (SELECT FROM ripen.progress WHERE log = $1 AND identity = $2)";
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&number, &own.stored(), &former.stored()];
        if transaction.execute(sql, &key).await? > 0 {
            let sql = "UPDATE ripen.dead_letter SET identity = $2 WHERE log = $1 AND identity = $3";
            transaction.execute(sql, &key).await?;
            return Ok(());
        }
    }
    Ok(())
}

/// What stands in the place of a former log: whoever comes in its name is told who goes on for it.
async fn bury(
    transaction: &Transaction<'_>,
    taker: Taker<'_>,
    former: LogIdentity,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO ripen.progress (log, identity, epoch, applied, succeeded_by) \
         VALUES ($1, $2, $3, coalesce((SELECT applied FROM ripen.progress WHERE log = $1 AND identity = $4), 0), $4) \
         ON CONFLICT (log, identity) DO UPDATE SET succeeded_by = excluded.succeeded_by WHERE progress.succeeded_by IS DISTINCT FROM excluded.succeeded_by";
    let own = taker.log.identity.stored();
    let epoch = super::signed(taker.epoch);
    transaction
        .execute(sql, &[&taker.log.number, &former.stored(), &epoch, &own])
        .await?;
    Ok(())
}

fn succeeded(heir: LogIdentity) -> StoreError {
    StoreError::Fenced {
        by: format!(
            "the node that has recovered this log, as log {:016x}",
            heir.0
        ),
        identity: Some(heir),
    }
}
