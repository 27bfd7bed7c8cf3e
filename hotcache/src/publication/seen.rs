//! The publication as it is, beside what is wished: what of it is right, and what to change. Looks and decides; `publication` changes it.

use super::{Author, Others, PublicationError, Published, Wish, drop_tables, qualified, tell};
use crate::slot::{quote_identifier, quote_literal};
use ripen_pg::ids::TableOid;
use std::collections::BTreeSet;
use tokio_postgres::{Error, Transaction};

/// The publication beside what is wished.
pub(super) struct Seen {
    progress: TableOid,
    asked: BTreeSet<TableOid>,
    others: Others,
    /// What is asked for, what is there, and the progress table.
    candidates: Vec<Candidate>,
    existing: Option<Existing>,
}

/// What is in the publication.
struct Existing {
    tables: BTreeSet<TableOid>,
    /// It tells all changes of their rows.
    whole: bool,
}

#[derive(Debug)]
pub(super) struct Candidate {
    oid: TableOid,
    name: String,
    pub obstacle: Option<Obstacle>,
}

/// Why a table is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    why: &'static str,
    /// It is of no use in the publication, or makes updates fail there, whoever put it in.
    harms: bool,
}

impl Seen {
    /// Reads; locks nothing.
    pub async fn look(
        transaction: &Transaction<'_>,
        publication: &str,
        wish: &Wish,
    ) -> Result<Seen, PublicationError> {
        let progress = progress_table(transaction).await?;
        let existing = Existing::look(transaction, publication).await?;
        let there = existing.iter().flat_map(|existing| &existing.tables);
        let all: BTreeSet<TableOid> = there.chain(&wish.tables).copied().collect();
        let all: Vec<TableOid> = (&all | &BTreeSet::from([progress])).into_iter().collect();
        Ok(Seen {
            progress,
            asked: &wish.tables | &BTreeSet::from([progress]),
            others: wish.others.clone(),
            candidates: candidates(transaction, &all).await?,
            existing,
        })
    }

    /// The tables of a publication that tells all of them.
    fn told(&self) -> BTreeSet<TableOid> {
        let whole = self.existing.as_ref().filter(|existing| existing.whole);
        whole.map_or_else(BTreeSet::new, |existing| existing.tables.clone())
    }

    /// Whether there is nothing to change.
    pub fn is_right(&self) -> bool {
        let existing = self.existing.as_ref();
        existing.is_some_and(|existing| existing.whole && existing.tables == self.target())
    }

    fn target(&self) -> BTreeSet<TableOid> {
        let there = self.existing.as_ref().map(|existing| &existing.tables);
        let belongs = |candidate: &&Candidate| {
            if self.asked.contains(&candidate.oid) && candidate.obstacle.is_none() {
                return true;
            }
            let stays = match &self.others {
                Others::Go => false,
                Others::Stay { but } => !but.contains(&candidate.oid),
            };
            let is_there = there.is_some_and(|tables| tables.contains(&candidate.oid));
            is_there && stays && !candidate.obstacle.is_some_and(|obstacle| obstacle.harms)
        };
        let target = self.candidates.iter().filter(belongs);
        target.map(|candidate| candidate.oid).collect()
    }

    /// What has to come.
    pub fn added(&self) -> BTreeSet<TableOid> {
        &self.target() - &self.told()
    }

    /// Tables that are in it, and will not be or have not been told whole.
    fn withdrawn(&self) -> BTreeSet<TableOid> {
        match &self.existing {
            None => BTreeSet::new(),
            Some(existing) if existing.whole => &existing.tables - &self.target(),
            Some(existing) => existing.tables.clone(),
        }
    }

    fn names(&self, tables: &BTreeSet<TableOid>) -> Vec<String> {
        let candidates = self.candidates.iter();
        let named = candidates.filter(|candidate| tables.contains(&candidate.oid));
        named.map(|candidate| candidate.name.clone()).collect()
    }

    /// The SQL that makes it right.
    pub fn change(&self, publication: &str, author: Author) -> String {
        let name = quote_identifier(publication);
        let whole =
            "publish = 'insert, update, delete, truncate', publish_via_partition_root = false";
        let all = || self.names(&self.target()).join(", ");
        let mut steps = Vec::new();
        match &self.existing {
            None => steps.push(format!(
                "CREATE PUBLICATION {name} FOR TABLE {} WITH ({whole})",
                all()
            )),
            Some(existing) if !existing.whole => {
                steps.push(format!("ALTER PUBLICATION {name} SET ({whole})"));
                steps.push(format!("ALTER PUBLICATION {name} SET TABLE {}", all()));
            }
            // Tables that stay are not named: they would be locked.
            Some(_) => {
                let added = self.names(&self.added());
                if !added.is_empty() {
                    steps.push(format!(
                        "ALTER PUBLICATION {name} ADD TABLE {}",
                        added.join(", ")
                    ));
                }
                let withdrawn = self.names(&self.withdrawn());
                if !withdrawn.is_empty() {
                    steps.push(drop_tables(publication, &withdrawn));
                }
            }
        }
        let withdrawn = self.withdrawn();
        if !withdrawn.is_empty() {
            steps.push(tell(author, withdrawn));
        }
        steps.join("; ")
    }

    /// As it is once it is changed.
    pub fn published(&self) -> Published {
        let (target, told) = (self.target(), self.told());
        let own = |tables: BTreeSet<TableOid>| {
            let mut tables = &tables & &self.asked;
            tables.remove(&self.progress);
            tables
        };
        let asked = self.candidates.iter();
        let asked = asked.filter(|candidate| self.asked.contains(&candidate.oid));
        Published {
            followed: own(&target & &told),
            added: own(&target - &told),
            refused: asked
                .filter_map(|candidate| Some((candidate.oid, candidate.obstacle?.why)))
                .collect(),
            horizon: None,
        }
    }
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

/// What is to be known of these tables.
pub(super) async fn candidates(
    transaction: &Transaction<'_>,
    tables: &[TableOid],
) -> Result<Vec<Candidate>, Error> {
    let oids: Vec<u32> = tables.iter().map(|oid| oid.0).collect();
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
            name: qualified(schema, name),
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
    fn obstacle(&self) -> Option<Obstacle> {
        let harmful = |why| Some(Obstacle { why, harms: true });
        match self.identity {
            _ if self.kind != "r" => harmful("not an ordinary table"),
            _ if self.persistence != "p" => harmful("temporary or unlogged"),
            _ if !self.keyed => harmful("no usable primary key"),
            "d" | "f" if !self.owned => Some(Obstacle {
                why: "not owned by Ripen's role",
                harms: false,
            }),
            "d" | "f" => None,
            _ => harmful("replica identity is neither the primary key nor full"),
        }
    }
}

impl Existing {
    /// `None` when there is no publication. One that publishes only some rows, columns or operations is not whole, and is set anew.
    async fn look(
        transaction: &Transaction<'_>,
        publication: &str,
    ) -> Result<Option<Existing>, PublicationError> {
        let sql = "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot AS whole, \
                   current_setting('server_version_num')::int FROM pg_publication WHERE pubname = $1";
        let Some(row) = transaction.query_opt(sql, &[&publication]).await? else {
            return Ok(None);
        };
        let (all, mut whole, version): (bool, bool, i32) =
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
            whole &= !row.try_get::<_, bool>(1)?;
            tables.insert(TableOid(row.try_get(0)?));
        }
        Ok(Some(Existing { tables, whole }))
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

    fn seen(asked: &[u32], others: Others, existing: Option<(&[u32], bool)>) -> Seen {
        let set = |oids: &[u32]| oids.iter().copied().map(TableOid).collect::<BTreeSet<_>>();
        let candidate = |oid: u32| Candidate {
            oid: TableOid(oid),
            name: qualified("a\"b", &format!("t{oid}")),
            obstacle: (oid >= 90).then_some(Obstacle {
                why: "a test",
                harms: oid > 90,
            }),
        };
        let there = existing.map_or(&[][..], |(tables, _)| tables);
        let all = &(&set(asked) | &set(there)) | &set(&[1]);
        Seen {
            progress: TableOid(1),
            asked: &set(asked) | &set(&[1]),
            others,
            candidates: all.into_iter().map(|oid| candidate(oid.0)).collect(),
            existing: existing.map(|(tables, whole)| Existing {
                tables: set(tables),
                whole,
            }),
        }
    }

    fn stay(but: &[u32]) -> Others {
        let but = but.iter().copied().map(TableOid).collect();
        Others::Stay { but }
    }

    #[test]
    fn names_are_quoted() {
        let change = seen(&[2], Others::Go, None).change("ri\"pen", Author(7));
        assert_eq!(
            change,
            "CREATE PUBLICATION \"ri\"\"pen\" FOR TABLE ONLY \"a\"\"b\".\"t1\", ONLY \"a\"\"b\".\"t2\" WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false)"
        );
    }

    #[test]
    fn only_what_changes_is_named_and_what_goes_is_told() {
        let change = seen(&[2, 3], Others::Go, Some((&[1, 2, 4], true))).change("p", Author(26));
        assert_eq!(
            change,
            "ALTER PUBLICATION \"p\" ADD TABLE ONLY \"a\"\"b\".\"t3\"; ALTER PUBLICATION \"p\" DROP TABLE ONLY \"a\"\"b\".\"t4\"; \
             SELECT pg_logical_emit_message(true, 'ripen.withdrawn', '1a 4')"
        );
    }

    #[test]
    fn what_other_nodes_put_there_stays_unless_it_harms() {
        let there: &[u32] = &[1, 2, 3, 4, 90, 91];
        let seen = seen(&[2, 5], stay(&[4]), Some((there, true)));
        let expected = [1, 2, 3, 5, 90].map(TableOid);
        assert_eq!(seen.target(), expected.into_iter().collect());
        let published = seen.published();
        assert_eq!(published.followed, BTreeSet::from([TableOid(2)]));
        assert_eq!(published.added, BTreeSet::from([TableOid(5)]));
        assert!(published.refused.is_empty());
    }

    #[test]
    fn a_publication_that_does_not_tell_all_is_set_anew_and_nothing_of_it_counts() {
        let seen = seen(&[2], stay(&[]), Some((&[1, 2, 3], false)));
        assert!(!seen.is_right());
        assert_eq!(seen.published().added, BTreeSet::from([TableOid(2)]));
        assert_eq!(seen.withdrawn().len(), 3);
        let change = seen.change("p", Author(1));
        assert!(
            change.contains("SET TABLE") && change.contains("'1 1,2,3'"),
            "{change}"
        );
    }
}
