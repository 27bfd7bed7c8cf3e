//! The replication slot: whether it still holds what we have not seen, else a new one. Decides from what Postgres says; the few commands are at the end.

use crate::connection::{APPLICATION_NAME, Connection, TextRow};
use crate::error::{Error, Unavailable};
use crate::slots::OWN_NAME;
use ripen_pg::ids::Lsn;

/// Which cluster this is (`IDENTIFY_SYSTEM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub system_id: u64,
    pub timeline: u32,
}

/// Up to where the stream was told, in which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub identity: Identity,
    pub position: Lsn,
}

impl Told {
    /// Whether a cluster that has written its WAL up to there still has the past that was told of. One whose WAL is shorter was set back.
    pub fn continues(self, identity: Identity, written: Lsn) -> bool {
        self.identity == identity && self.position <= written
    }
}

/// The slot as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Whose it is, if it is not a hot cache's of this database.
    pub foreign: Option<String>,
    pub lost: bool,
    pub confirmed: Lsn,
    /// The backend that streams from it.
    pub reader: Option<i32>,
}

/// What to do with the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Stream from it.
    Use { start: Lsn, resumed: bool },
    /// Make it, after dropping what is left of an old one.
    Make { drop_first: bool },
    /// It belongs to someone else, in words.
    Refuse(String),
}

/// Nothing is missed only if the slot has not moved past what was told, in the same history of the same cluster.
pub(crate) fn plan(
    slot: Option<&Slot>,
    identity: Identity,
    written: Lsn,
    told: Option<Told>,
) -> Plan {
    match slot {
        None => Plan::Make { drop_first: false },
        Some(Slot {
            foreign: Some(owner),
            ..
        }) => Plan::Refuse(owner.clone()),
        Some(slot) if slot.lost => Plan::Make { drop_first: true },
        Some(slot) => match told {
            Some(told) if told.continues(identity, written) && slot.confirmed <= told.position => {
                Plan::Use {
                    start: told.position,
                    resumed: true,
                }
            }
            _ => Plan::Use {
                start: slot.confirmed,
                resumed: false,
            },
        },
    }
}

/// Asks which cluster this is, and how far its WAL is written.
pub(crate) async fn identify(connection: &mut Connection) -> Result<(Identity, Lsn), Error> {
    let rows = connection.query("IDENTIFY_SYSTEM").await?;
    let identity = || {
        let row = rows.first()?;
        let identity = Identity {
            system_id: field(row, 0)?.parse().ok()?,
            timeline: field(row, 1)?.parse().ok()?,
        };
        Some((identity, field(row, 2)?.parse().ok()?))
    };
    identity().ok_or(Error::Unexpected("IDENTIFY_SYSTEM"))
}

/// Refuses a server whose WAL cannot be decoded.
pub(crate) async fn check_wal_level(connection: &mut Connection) -> Result<(), Error> {
    let rows = connection.query("SHOW wal_level").await?;
    let level = rows.first().and_then(|row| field(row, 0));
    match level.ok_or(Error::Unexpected("SHOW wal_level"))? {
        "logical" => Ok(()),
        other => Err(Error::Unavailable(Unavailable::wal_level(other))),
    }
}

/// A query for the slot's name. Slots belong to the whole server, so the database is part of a name that nobody has given; where the database has a slot by the name that
/// all of them had before, it goes on with that.
pub(crate) fn name_query(given: Option<&str>) -> String {
    match given {
        Some(name) => format!("SELECT {}", quote_literal(name)),
        None => format!(
            "SELECT coalesce((SELECT slot_name::text FROM pg_replication_slots \
             WHERE slot_name::text IN ('{OWN_NAME}', own.name) AND plugin = 'pgoutput' AND database = current_database() \
             ORDER BY length(slot_name::text) DESC LIMIT 1), own.name) \
             FROM (SELECT '{OWN_NAME}_' || oid AS name FROM pg_database WHERE datname = current_database()) own"
        ),
    }
}

/// The slot's name.
pub(crate) async fn name(
    connection: &mut Connection,
    given: Option<&str>,
) -> Result<String, Error> {
    let rows = connection.query(&name_query(given)).await?;
    let name = rows.first().and_then(|row| field(row, 0));
    Ok(name
        .ok_or(Error::Unexpected("the question for the slot's name"))?
        .to_owned())
}

/// Looks the slot up.
pub(crate) async fn find(connection: &mut Connection, name: &str) -> Result<Option<Slot>, Error> {
    let sql = format!(
        "SELECT CASE WHEN slot_type <> 'logical' THEN 'a physical standby' \
         WHEN database <> current_database() THEN format('database \"%s\"', database) \
         WHEN plugin <> 'pgoutput' THEN format('the plugin \"%s\"', plugin) END, \
         coalesce(wal_status = 'lost', false), confirmed_flush_lsn, active_pid FROM pg_replication_slots WHERE slot_name = {}",
        quote_literal(name)
    );
    let rows = connection.query(&sql).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let confirmed = field(row, 2).map_or(Ok(Lsn(0)), str::parse);
    Ok(Some(Slot {
        foreign: field(row, 0).map(str::to_owned),
        lost: field(row, 1) == Some("t"),
        confirmed: confirmed.map_err(|_| Error::Unexpected("the look-up of the slot"))?,
        reader: field(row, 3).and_then(|pid| pid.parse().ok()),
    }))
}

/// Ends a backend that streams from a slot, if it is a hot cache's: a leader that was stopped or cut off holds the slot for as long as Postgres believes in its connection.
/// Answers whether there was one.
pub(crate) async fn end_reader(connection: &mut Connection, pid: i32) -> Result<bool, Error> {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {pid} AND application_name = {}",
        quote_literal(APPLICATION_NAME)
    );
    Ok(!connection.query(&sql).await?.is_empty())
}

/// Makes the slot and answers where it begins. Waits for every transaction that writes now to end.
pub(crate) async fn create(connection: &mut Connection, name: &str) -> Result<Lsn, Error> {
    let command = format!(
        "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT",
        quote_identifier(name)
    );
    let rows = connection.query(&command).await?;
    let position = rows.first().and_then(|row| field(row, 1)?.parse().ok());
    position.ok_or(Error::Unexpected("CREATE_REPLICATION_SLOT"))
}

/// Drops the slot, waiting for whoever still uses it.
pub(crate) async fn drop(connection: &mut Connection, name: &str) -> Result<(), Error> {
    let command = format!("DROP_REPLICATION_SLOT {} WAIT", quote_identifier(name));
    connection.query(&command).await.map(|_| ())
}

/// Whether the publication is there now.
pub(crate) async fn publication_exists(
    connection: &mut Connection,
    name: &str,
) -> Result<bool, Error> {
    let sql = format!(
        "SELECT 1 FROM pg_publication WHERE pubname = {}",
        quote_literal(name)
    );
    Ok(!connection.query(&sql).await?.is_empty())
}

/// START_REPLICATION for that slot and publication.
pub(crate) fn start_command(slot: &str, publication: &str, start: Lsn) -> String {
    format!(
        "START_REPLICATION SLOT {} LOGICAL {start} (proto_version '1', publication_names {}, binary 'true', messages 'true')",
        quote_identifier(slot),
        quote_literal(&quote_identifier(publication)),
    )
}

fn field(row: &TextRow, index: usize) -> Option<&str> {
    row.get(index)?.as_deref()
}

/// A name as an identifier that means exactly it.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal, with `standard_conforming_strings` on (which walsenders have; a backslash would be taken literally).
pub(crate) fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Identity = Identity {
        system_id: 7,
        timeline: 1,
    };

    const FAR: Lsn = Lsn(1000);

    fn slot(confirmed: u64) -> Slot {
        Slot {
            foreign: None,
            lost: false,
            confirmed: Lsn(confirmed),
            reader: None,
        }
    }

    fn told(identity: Identity) -> Option<Told> {
        let position = Lsn(100);
        Some(Told { identity, position })
    }

    #[test]
    fn a_slot_behind_what_was_told_is_resumed_without_repeating() {
        let expected = Plan::Use {
            start: Lsn(100),
            resumed: true,
        };
        assert_eq!(plan(Some(&slot(90)), HERE, FAR, told(HERE)), expected);
        assert_eq!(plan(Some(&slot(100)), HERE, FAR, told(HERE)), expected);
    }

    #[test]
    fn a_slot_that_moved_on_without_us_has_a_gap() {
        let expected = Plan::Use {
            start: Lsn(101),
            resumed: false,
        };
        assert_eq!(plan(Some(&slot(101)), HERE, FAR, told(HERE)), expected);
    }

    #[test]
    fn another_history_is_never_resumed() {
        for elsewhere in [
            Identity {
                timeline: 2,
                ..HERE
            },
            Identity {
                system_id: 8,
                ..HERE
            },
        ] {
            let planned = plan(Some(&slot(90)), elsewhere, FAR, told(HERE));
            assert!(matches!(planned, Plan::Use { resumed: false, .. }));
        }
        let planned = plan(Some(&slot(90)), HERE, FAR, None);
        assert!(matches!(planned, Plan::Use { resumed: false, .. }));
    }

    #[test]
    fn a_cluster_that_was_set_back_is_never_resumed() {
        let resumed = |written| {
            let planned = plan(Some(&slot(90)), HERE, Lsn(written), told(HERE));
            matches!(planned, Plan::Use { resumed: true, .. })
        };
        assert!(resumed(100));
        assert!(!resumed(99));
    }

    #[test]
    fn lost_and_missing_slots_are_made_anew() {
        let lost = Slot {
            lost: true,
            ..slot(90)
        };
        assert_eq!(
            plan(Some(&lost), HERE, FAR, told(HERE)),
            Plan::Make { drop_first: true }
        );
        assert_eq!(
            plan(None, HERE, FAR, told(HERE)),
            Plan::Make { drop_first: false }
        );
        let foreign = Slot {
            foreign: Some("database \"other\"".to_owned()),
            ..slot(90)
        };
        assert_eq!(
            plan(Some(&foreign), HERE, FAR, None),
            Plan::Refuse("database \"other\"".to_owned())
        );
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        let command = start_command("a\"b", "p'q", Lsn(0));
        assert!(command.starts_with("START_REPLICATION SLOT \"a\"\"b\" LOGICAL 0/0 ("));
        assert!(command.contains("publication_names '\"p''q\"'"));
    }
}
