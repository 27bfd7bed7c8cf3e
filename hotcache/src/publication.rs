//! Upkeep of the publication: exactly the followed tables and `ripen.progress`. Never publishes a table without usable replica identity: its updates and deletes would fail for everyone.

use crate::limits::{HORIZON_POLL, PUBLICATION_LOCK_TIMEOUT};
use crate::slot::{quote_identifier, quote_literal};
use ripen_pg::ids::{TableOid, Xid};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::sleep;
use tokio_postgres::{Client, Error, Transaction};

/// The publication after [`ensure`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Published before: changes of these arrive.
    pub followed: BTreeSet<TableOid>,
    /// Published now: changes arrive for certain once [`wait_until_followed`] has returned.
    pub added: BTreeSet<TableOid>,
    /// Not published, and why.
    pub refused: BTreeMap<TableOid, &'static str>,
    /// What to wait for, if anything was added.
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

#[derive(Debug)]
struct Candidate {
    oid: TableOid,
    name: String,
    obstacle: Option<&'static str>,
}

/// Makes the publication contain exactly the usable ones of `tables`, and `ripen.progress`. Does nothing when it does already.
/// The client must not be in a transaction. Cancel safe: a dropped future changes all or nothing.
pub async fn ensure(
    client: &mut Client,
    publication: &str,
    tables: &[TableOid],
) -> Result<Published, PublicationError> {
    let transaction = client.transaction().await?;
    let timeout = format!("SET LOCAL lock_timeout = '{PUBLICATION_LOCK_TIMEOUT}'");
    transaction.batch_execute(&timeout).await?;
    let progress = progress_table(&transaction).await?;
    let candidates = candidates(&transaction, tables, progress).await?;
    let wanted: Vec<&Candidate> = candidates.iter().filter(|c| c.obstacle.is_none()).collect();
    let oids: BTreeSet<TableOid> = wanted.iter().map(|candidate| candidate.oid).collect();
    let existing = existing(&transaction, publication).await?;
    let mut published = Published {
        followed: existing
            .iter()
            .flatten()
            .copied()
            .filter(|oid| oids.contains(oid))
            .collect(),
        refused: refusals(&candidates),
        ..Published::default()
    };
    if existing.as_ref() == Some(&oids) {
        transaction.commit().await?;
        published.followed.remove(&progress);
        return Ok(published);
    }
    let sql = change(publication, existing.is_some(), &wanted);
    transaction.batch_execute(&sql).await?;
    // The tables are locked against changes of their keys now; what held before the lock may hold no more.
    let again = self::candidates(&transaction, tables, progress).await?;
    if again
        .iter()
        .any(|c| c.obstacle.is_some() && oids.contains(&c.oid))
    {
        return Err(PublicationError::Unsteady);
    }
    transaction.commit().await?;
    published.added = &oids - &published.followed;
    published.followed.remove(&progress);
    published.added.remove(&progress);
    published.horizon = Some(horizon(client).await?);
    Ok(published)
}

/// Takes those of these tables that are in the publication out of it. The client must not be in a transaction. Cancel safe: a dropped future changes all or
/// nothing. Waits for locks less long than Postgres waits before it looks for deadlocks, since the caller's client may hold them.
pub async fn withdraw(
    client: &mut Client,
    publication: &str,
    tables: &[TableOid],
) -> Result<(), PublicationError> {
    let transaction = client.transaction().await?;
    let timeout = format!("SET LOCAL lock_timeout = '{PUBLICATION_LOCK_TIMEOUT}'");
    transaction.batch_execute(&timeout).await?;
    let oids: Vec<u32> = tables.iter().map(|table| table.0).collect();
    let rows = transaction.query(MEMBERS, &[&publication, &oids]).await?;
    let mut names = Vec::with_capacity(rows.len());
    for row in &rows {
        let (schema, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        names.push(format!(
            "ONLY {}.{}",
            quote_identifier(schema),
            quote_identifier(name)
        ));
    }
    if !names.is_empty() {
        let sql = format!(
            "ALTER PUBLICATION {} DROP TABLE {}",
            quote_identifier(publication),
            names.join(", ")
        );
        transaction.batch_execute(&sql).await?;
    }
    Ok(transaction.commit().await?)
}

const MEMBERS: &str = "SELECT n.nspname, c.relname FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid \
    JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 AND c.oid = ANY($2) ORDER BY c.oid";

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

async fn progress_table(transaction: &Transaction<'_>) -> Result<TableOid, PublicationError> {
    let row = transaction
        .query_one("SELECT to_regclass('ripen.progress')::oid", &[])
        .await?;
    let oid: Option<u32> = row.try_get(0)?;
    oid.map(TableOid).ok_or(PublicationError::NoProgress)
}

const CANDIDATES: &str = "SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text, \
    pg_has_role(c.relowner, 'USAGE') AS owned, \
    EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid AND i.indisready) AS keyed \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY($1) ORDER BY c.oid";

async fn candidates(
    transaction: &Transaction<'_>,
    tables: &[TableOid],
    progress: TableOid,
) -> Result<Vec<Candidate>, Error> {
    let oids: Vec<u32> = tables.iter().chain([&progress]).map(|oid| oid.0).collect();
    let rows = transaction.query(CANDIDATES, &[&oids]).await?;
    let candidate = |row: &tokio_postgres::Row| -> Result<Candidate, Error> {
        let (schema, name): (&str, &str) = (row.try_get("nspname")?, row.try_get("relname")?);
        let facts = Facts {
            kind: row.try_get("relkind")?,
            persistence: row.try_get("relpersistence")?,
            identity: row.try_get("relreplident")?,
            keyed: row.try_get("keyed")?,
            owned: row.try_get("owned")?,
        };
        Ok(Candidate {
            oid: TableOid(row.try_get("oid")?),
            name: format!("{}.{}", quote_identifier(schema), quote_identifier(name)),
            obstacle: facts.obstacle(),
        })
    };
    rows.iter().map(candidate).collect()
}

struct Facts<'a> {
    kind: &'a str,
    persistence: &'a str,
    identity: &'a str,
    keyed: bool,
    owned: bool,
}

impl Facts<'_> {
    fn obstacle(&self) -> Option<&'static str> {
        match self.identity {
            _ if self.kind != "r" => Some("not an ordinary table"),
            _ if self.persistence != "p" => Some("temporary or unlogged"),
            _ if !self.keyed => Some("no usable primary key"),
            "d" | "f" if !self.owned => Some("not owned by Ripen's role"),
            "d" | "f" => None,
            _ => Some("replica identity is neither the primary key nor full"),
        }
    }
}

fn refusals(candidates: &[Candidate]) -> BTreeMap<TableOid, &'static str> {
    let refusal = |candidate: &Candidate| Some((candidate.oid, candidate.obstacle?));
    candidates.iter().filter_map(refusal).collect()
}

/// Tables in the publication; `None` when there is none. One that publishes only some rows, columns or operations is reported as empty, so that it is set anew.
async fn existing(
    transaction: &Transaction<'_>,
    publication: &str,
) -> Result<Option<BTreeSet<TableOid>>, PublicationError> {
    let sql = "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot AS whole, \
               current_setting('server_version_num')::int FROM pg_publication WHERE pubname = $1";
    let Some(row) = transaction.query_opt(sql, &[&publication]).await? else {
        return Ok(None);
    };
    let (all, whole, version): (bool, bool, i32) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if all {
        return Err(PublicationError::AllTables(publication.to_owned()));
    }
    let partial = match version {
        150_000.. => {
            "r.prqual IS NOT NULL OR r.prattrs IS NOT NULL OR EXISTS (SELECT 1 FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)"
        }
        _ => "false",
    };
    let sql = format!(
        "SELECT r.prrelid, {partial} FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = {}",
        quote_literal(publication)
    );
    let mut tables = BTreeSet::new();
    for row in transaction.query(&sql, &[]).await? {
        if !whole || row.try_get(1)? {
            return Ok(Some(BTreeSet::new()));
        }
        tables.insert(TableOid(row.try_get(0)?));
    }
    Ok(Some(tables))
}

fn change(publication: &str, exists: bool, wanted: &[&Candidate]) -> String {
    let name = quote_identifier(publication);
    let only = |candidate: &&Candidate| format!("ONLY {}", candidate.name);
    let tables = wanted.iter().map(only).collect::<Vec<_>>().join(", ");
    let whole = "publish = 'insert, update, delete, truncate', publish_via_partition_root = false";
    if exists {
        format!(
            "ALTER PUBLICATION {name} SET ({whole}); ALTER PUBLICATION {name} SET TABLE {tables}"
        )
    } else {
        format!("CREATE PUBLICATION {name} FOR TABLE {tables} WITH ({whole})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Facts<'static> = Facts {
        kind: "r",
        persistence: "p",
        identity: "d",
        keyed: true,
        owned: true,
    };

    #[test]
    fn only_tables_whose_updates_keep_working_are_published() {
        assert_eq!(GOOD.obstacle(), None);
        assert_eq!(
            Facts {
                identity: "f",
                ..GOOD
            }
            .obstacle(),
            None
        );
        for bad in [
            Facts {
                identity: "n",
                ..GOOD
            },
            Facts {
                identity: "i",
                ..GOOD
            },
            Facts {
                keyed: false,
                ..GOOD
            },
            Facts {
                persistence: "u",
                ..GOOD
            },
            Facts { kind: "p", ..GOOD },
            Facts {
                owned: false,
                ..GOOD
            },
        ] {
            assert!(bad.obstacle().is_some());
        }
    }

    #[test]
    fn names_are_quoted() {
        let odd = Candidate {
            oid: TableOid(1),
            name: "\"a\"\"b\".\"c\"".into(),
            obstacle: None,
        };
        assert_eq!(
            change("ripen", false, &[&odd]),
            "CREATE PUBLICATION \"ripen\" FOR TABLE ONLY \"a\"\"b\".\"c\" WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false)"
        );
    }
}
