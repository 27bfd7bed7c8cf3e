//! Upkeep of the publication: the followed tables and `ripen.progress`. Never publishes a table without usable replica identity: its updates and deletes would fail for everyone.
//!
//! Several nodes may change it: one at a time, by an advisory lock that is taken only when there is something to change. A table that leaves the publication says so in the
//! WAL with the same commit, since whoever follows it elsewhere is told nothing of it behind that place.

use crate::limits::{
    HORIZON_POLL, PUBLICATION_ATTEMPTS, PUBLICATION_IDLE_TIMEOUT, PUBLICATION_LOCK_TIMEOUT,
    PUBLICATION_TURN_TIMEOUT,
};
use crate::slot::{quote_identifier, quote_literal};
use ripen_cachestore::advisory;
use ripen_pg::ids::{TableOid, Xid};
use seen::{Seen, candidates};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::sleep;
use tokio_postgres::{Client, Error, Transaction};

mod seen;

/// Who changes the publication: a number drawn by each process, so that it knows its own changes in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author(pub u64);

/// What the publication shall be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// These are in it, if they can be.
    pub tables: BTreeSet<TableOid>,
    /// What becomes of others that are in it.
    pub others: Others,
    /// Look at it only while nobody else changes it: what the WAL tells of may not be visible yet.
    pub in_turn: bool,
}

/// See [`Wish::others`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// They go: nobody else uses the publication.
    #[default]
    Go,
    /// They stay, but for these and for tables that cannot be followed: other nodes may know what they are there for.
    Stay {
        /// These go.
        but: BTreeSet<TableOid>,
    },
}

/// The publication after [`ensure`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Published before: changes of these arrive.
    pub followed: BTreeSet<TableOid>,
    /// Published now: changes arrive for certain once [`wait_until_followed`] has returned.
    pub added: BTreeSet<TableOid>,
    /// Not published, and why.
    pub refused: BTreeMap<TableOid, &'static str>,
    /// What to wait for, if anything was changed.
    pub horizon: Option<Xid>,
}

/// Why the publication could not be brought up to date. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// Postgres refused; a lock that could not be had in time (55P03) is worth a retry.
    #[error("publication could not be changed: {0}")]
    Postgres(#[from] Error),
    /// Somebody made it for all tables.
    #[error("publication \"{0}\" is for all tables; drop it or choose another name")]
    AllTables(String),
    /// Replica identities changed while the publication was being changed; try again.
    #[error("tables changed while the publication was being changed")]
    Unsteady,
    /// The schema of Ripen is missing; migrate first.
    #[error("table \"ripen.progress\" does not exist")]
    NoProgress,
}

impl PublicationError {
    /// Whether somebody who does not wait for his turn has changed it at the same time.
    fn is_collision(&self) -> bool {
        let PublicationError::Postgres(error) = self else {
            return false;
        };
        let Some(error) = error.as_db_error() else {
            return false;
        };
        match error.code().code() {
            // unique_violation, duplicate_object, undefined_object.
            "23505" | "42710" | "42704" => true,
            // There is no code of its own for it.
            "XX000" => error.message().starts_with("tuple concurrently "),
            _ => false,
        }
    }
}

/// Makes the publication what is wished, `ripen.progress` always being in it. When it is that already, nothing is changed and nothing locked. `wish` is asked again when the
/// turn to change it has come: only what it says then counts. The client must not be in a transaction. Cancel safe: a dropped future changes all or nothing.
pub async fn ensure(
    client: &mut Client,
    publication: &str,
    author: Author,
    wish: &(impl Fn() -> Wish + Sync),
) -> Result<Published, PublicationError> {
    let mut attempts = 1;
    loop {
        match ensure_once(client, publication, author, wish).await {
            Err(error) if error.is_collision() && attempts < PUBLICATION_ATTEMPTS => attempts += 1,
            done => return done,
        }
    }
}

async fn ensure_once(
    client: &mut Client,
    publication: &str,
    author: Author,
    wish: &(impl Fn() -> Wish + Sync),
) -> Result<Published, PublicationError> {
    let transaction = begin(client).await?;
    let wished = wish();
    if !wished.in_turn {
        let seen = Seen::look(&transaction, publication, &wished).await?;
        if seen.is_right() {
            transaction.commit().await?;
            return Ok(seen.published());
        }
    }
    take_turn(&transaction).await?;
    let seen = Seen::look(&transaction, publication, &wish()).await?;
    if seen.is_right() {
        transaction.commit().await?;
        return Ok(seen.published());
    }
    let sql = seen.change(publication, author);
    transaction.batch_execute(&sql).await?;
    // The tables are locked against changes of their keys now; what held before the lock may hold no more.
    let added: Vec<TableOid> = seen.added().into_iter().collect();
    let again = candidates(&transaction, &added).await?;
    if again.iter().any(|candidate| candidate.obstacle.is_some()) {
        return Err(PublicationError::Unsteady);
    }
    transaction.commit().await?;
    let mut published = seen.published();
    published.horizon = Some(horizon(client).await?);
    Ok(published)
}

/// Takes those of these tables that are in the publication out of it. The client must not be in a transaction. Cancel safe: a dropped future changes all or
/// nothing. Waits for locks less long than Postgres waits before it looks for deadlocks, since the caller's client may hold them.
pub async fn withdraw(
    client: &mut Client,
    publication: &str,
    author: Author,
    tables: &[TableOid],
) -> Result<(), PublicationError> {
    let transaction = begin(client).await?;
    // What others put there at this moment counts, too.
    take_turn(&transaction).await?;
    let oids: Vec<u32> = tables.iter().map(|table| table.0).collect();
    let rows = transaction.query(MEMBERS, &[&publication, &oids]).await?;
    let (mut names, mut gone) = (Vec::new(), Vec::new());
    for row in &rows {
        let (schema, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        names.push(qualified(schema, name));
        gone.push(TableOid(row.try_get(2)?));
    }
    if !names.is_empty() {
        let sql = drop_tables(publication, &names);
        let tell = tell(author, gone);
        transaction.batch_execute(&format!("{sql}; {tell}")).await?;
    }
    Ok(transaction.commit().await?)
}

const MEMBERS: &str = "SELECT n.nspname, c.relname, c.oid FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid \
    JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 AND c.oid = ANY($2) ORDER BY c.oid";

async fn begin(client: &mut Client) -> Result<Transaction<'_>, Error> {
    let transaction = client.transaction().await?;
    let timeouts = format!(
        "SET LOCAL lock_timeout = '{PUBLICATION_LOCK_TIMEOUT}'; SET LOCAL idle_in_transaction_session_timeout = '{PUBLICATION_IDLE_TIMEOUT}'"
    );
    transaction.batch_execute(&timeouts).await?;
    Ok(transaction)
}

/// From here to the end of the transaction no other Ripen changes the publication, and what others have changed before is visible.
async fn take_turn(transaction: &Transaction<'_>) -> Result<(), Error> {
    let sql = format!(
        "SET LOCAL lock_timeout = '{PUBLICATION_TURN_TIMEOUT}'; SELECT pg_advisory_xact_lock({}); SET LOCAL lock_timeout = '{PUBLICATION_LOCK_TIMEOUT}'",
        advisory::PUBLICATION
    );
    transaction.batch_execute(&sql).await
}

fn qualified(schema: &str, name: &str) -> String {
    format!(
        "ONLY {}.{}",
        quote_identifier(schema),
        quote_identifier(name)
    )
}

fn drop_tables(publication: &str, names: &[String]) -> String {
    let publication = quote_identifier(publication);
    let names = names.join(", ");
    format!("ALTER PUBLICATION {publication} DROP TABLE {names}")
}

/// Says in the WAL, by the commit of this transaction, that these tables are not told of any more.
fn tell(author: Author, tables: impl IntoIterator<Item = TableOid>) -> String {
    let tables: Vec<String> = tables
        .into_iter()
        .map(|table| table.0.to_string())
        .collect();
    let content = quote_literal(&format!("{:x} {}", author.0, tables.join(",")));
    format!("SELECT pg_logical_emit_message(true, 'ripen.withdrawn', {content})")
}

/// Who says so, of which tables. `None`: it is no such message.
pub(crate) fn withdrawal(content: &[u8]) -> Option<(Author, Vec<TableOid>)> {
    let (author, tables) = std::str::from_utf8(content).ok()?.split_once(' ')?;
    let author = Author(u64::from_str_radix(author, 16).ok()?);
    let tables = tables
        .split(',')
        .map(|table| Some(TableOid(table.parse().ok()?)));
    Some((author, tables.collect::<Option<_>>()?))
}

/// Waits until every transaction that may have changed an added table before it was published has ended. Loads that begin afterwards miss nothing.
/// Cancel safe; may take as long as the longest transaction.
pub async fn wait_until_followed(client: &Client, horizon: Xid) -> Result<(), Error> {
    loop {
        let row = client
            .query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[])
            .await?;
        if xid(row.try_get(0)?) >= horizon {
            return Ok(());
        }
        sleep(HORIZON_POLL).await;
    }
}

/// Drops the publication, when Ripen leaves for good.
pub async fn drop(client: &Client, publication: &str) -> Result<(), Error> {
    let name = quote_identifier(publication);
    client
        .batch_execute(&format!("DROP PUBLICATION IF EXISTS {name}"))
        .await
}

/// Every transaction that has an id by now has a smaller one: what to [wait for](wait_until_followed) when a stream has begun. Cancel safe.
pub async fn horizon(client: &Client) -> Result<Xid, Error> {
    let row = client
        .query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[])
        .await?;
    Ok(xid(row.try_get(0)?))
}

fn xid(text: &str) -> Xid {
    Xid(text.parse().expect("xid8 prints as a decimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_withdrawn_tables_can_be_read() {
        let told = tell(Author(26), [TableOid(4), TableOid(5)]);
        assert!(told.ends_with("'1a 4,5')"), "{told}");
        let expected = (Author(26), vec![TableOid(4), TableOid(5)]);
        assert_eq!(withdrawal(b"1a 4,5"), Some(expected));
        for foreign in [&b"1a"[..], b"x 4", b"1a ", b"1a 4,x", b"\xff 4"] {
            assert_eq!(withdrawal(foreign), None);
        }
    }
}
