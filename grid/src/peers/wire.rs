//! What nodes ask each other about clean rows, as bytes. Never sends anything.
//!
//! A question begins with its version. A node that does not speak it says so, and is then not there as far as rows go (`presence`).

use super::floor::Told;
use crate::change::RowId;
use crate::log::LogIndex;
use crate::rows::Moment;
use crate::rows::slot::{Base, Seen};
use bytes::Bytes;
use ripen_cachestore::change::codec::{
    Malformed, Reader, decode_tuple, encode_tuple, put_bytes, put_count, put_u32, put_u64,
};
use ripen_pg::ids::{Lsn, Snapshot, TableOid, Xid};
use ripen_pg::key::Key;
use std::sync::Arc;

/// What this program speaks. Another number for each change of what is said here.
const VERSION: u8 = 1;

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Are you there? Answered by how long for, see [`encode_presence`].
    Presence,
    /// Rows, please. Answered by a [`Lending`] for each row, in their order.
    Rows(Ask),
}

/// Whether an owner is to load what it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is: it owns the rows.
    Own,
    /// It is not: it owned the rows before the asking node was there.
    Former,
}

/// Rows that a node is loading.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Who asks.
    pub node: u64,
    /// See [`Kind`].
    pub kind: Kind,
    /// What the asking node had been told when its loads began, or later.
    pub told: Told,
    /// Rows by table.
    pub tables: Vec<AskedTable>,
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedTable {
    /// Which.
    pub table: TableOid,
    /// What its columns are, see [`super::shape`].
    pub shape: u64,
    /// Which rows.
    pub keys: Vec<Key>,
}

impl Ask {
    /// The rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = RowId> + '_ {
        self.tables.iter().flat_map(|asked| {
            let keys = asked.keys.iter().cloned();
            keys.map(|key| RowId {
                table: asked.table,
                key,
            })
        })
    }
}

/// What a node says of one row.
#[derive(Clone, Debug)]
pub enum Lending {
    /// Ask Postgres.
    Declined,
    /// It did not fit: ask again.
    Later,
    /// Postgres's row.
    Lent(Base),
}

impl Question {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Question::Presence => out.push(1),
            Question::Rows(ask) => {
                out.push(2);
                put_u64(&mut out, ask.node);
                out.push(u8::from(ask.kind == Kind::Former));
                put_u64(&mut out, ask.told.log.0);
                put_u64(&mut out, ask.told.wal.0);
                put_u64(&mut out, ask.told.history);
                out.push(u8::from(ask.told.live));
                put_count(&mut out, ask.tables.len());
                for asked in &ask.tables {
                    put_u32(&mut out, asked.table.0);
                    put_u64(&mut out, asked.shape);
                    put_count(&mut out, asked.keys.len());
                    for key in &asked.keys {
                        put_bytes(&mut out, key.as_bytes());
                    }
                }
            }
        }
        out.into()
    }

    /// Reads what [`Question::encode`] wrote.
    ///
    /// # Errors
    /// When it is of another version, too.
    pub fn decode(bytes: &[u8]) -> Result<Question, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed("a question about rows in another version"));
        }
        let question = match reader.u8()? {
            1 => Question::Presence,
            2 => Question::Rows(Ask {
                node: reader.u64()?,
                kind: match reader.bool()? {
                    true => Kind::Former,
                    false => Kind::Own,
                },
                told: Told {
                    log: LogIndex(reader.u64()?),
                    wal: Lsn(reader.u64()?),
                    history: reader.u64()?,
                    live: reader.bool()?,
                },
                tables: reader.many(|reader| {
                    Ok(AskedTable {
                        table: TableOid(reader.u32()?),
                        shape: reader.u64()?,
                        keys: reader.many(|reader| reader.bytes().map(Key::from_bytes))?,
                    })
                })?,
            }),
            _ => return Err(Malformed("unknown question about rows")),
        };
        reader.end()?;
        Ok(question)
    }
}

/// For how long a process has been there, in milliseconds.
pub fn encode_presence(up_ms: u64) -> Bytes {
    let mut out = vec![VERSION];
    put_u64(&mut out, up_ms);
    out.into()
}

/// Reads what [`encode_presence`] wrote.
///
/// # Errors
/// When it is of another version, too.
pub fn decode_presence(bytes: &[u8]) -> Result<u64, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Malformed("a presence in another version"));
    }
    let up_ms = reader.u64()?;
    reader.end()?;
    Ok(up_ms)
}

/// Answers for rows, one after the other. Rows of one load share its moment.
#[derive(Default)]
pub struct Lendings {
    out: Vec<u8>,
    count: usize,
    moments: Vec<Arc<Moment>>,
}

impl Lendings {
    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// The next row's.
    pub fn push(&mut self, lending: &Lending) {
        self.count += 1;
        match lending {
            Lending::Declined => self.out.push(0),
            Lending::Later => self.out.push(1),
            Lending::Lent(base) => {
                self.out.push(2);
                self.seen(&base.seen);
                self.out.push(u8::from(base.row.is_some()));
                if let Some(row) = &base.row {
                    encode_tuple(&mut self.out, row);
                }
            }
        }
    }

    fn seen(&mut self, seen: &Seen) {
        match seen {
            Seen::Lsn(lsn) | Seen::Told(lsn) => {
                self.out.push(1);
                put_u64(&mut self.out, lsn.0);
            }
            Seen::Loaded(moment) => {
                let known = self
                    .moments
                    .iter()
                    .position(|known| Arc::ptr_eq(known, moment));
                let at = known.unwrap_or_else(|| {
                    self.moments.push(moment.clone());
                    self.moments.len() - 1
                });
                self.out.push(2);
                put_count(&mut self.out, at);
            }
        }
    }

    /// As bytes.
    pub fn encode(self) -> Bytes {
        let mut out = vec![VERSION];
        put_count(&mut out, self.moments.len());
        for moment in &self.moments {
            let snapshot = &moment.snapshot;
            put_u64(&mut out, snapshot.xmin.0);
            put_u64(&mut out, snapshot.xmax.0);
            put_count(&mut out, snapshot.running.len());
            snapshot
                .running
                .iter()
                .for_each(|xid| put_u64(&mut out, xid.0));
            put_u64(&mut out, moment.wal.0);
        }
        put_count(&mut out, self.count);
        out.extend_from_slice(&self.out);
        out.into()
    }

    /// Reads what [`Lendings::encode`] wrote.
    ///
    /// # Errors
    /// When it is of another version, too.
    pub fn decode(bytes: &[u8]) -> Result<Vec<Lending>, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed("rows in another version"));
        }
        let moments = reader.many(decode_moment)?;
        let lendings = reader.many(|reader| decode_lending(reader, &moments))?;
        reader.end()?;
        Ok(lendings)
    }
}

fn decode_moment(reader: &mut Reader<'_>) -> Result<Arc<Moment>, Malformed> {
    let (xmin, xmax) = (Xid(reader.u64()?), Xid(reader.u64()?));
    let running = reader.many(|reader| reader.u64().map(Xid))?.into();
    Ok(Arc::new(Moment {
        snapshot: Snapshot {
            xmin,
            xmax,
            running,
        },
        wal: Lsn(reader.u64()?),
    }))
}

fn decode_lending(reader: &mut Reader<'_>, moments: &[Arc<Moment>]) -> Result<Lending, Malformed> {
    Ok(match reader.u8()? {
        0 => Lending::Declined,
        1 => Lending::Later,
        2 => {
            let seen = match reader.u8()? {
                1 => Seen::Told(Lsn(reader.u64()?)),
                2 => {
                    let moment = moments.get(reader.u32()? as usize);
                    Seen::Loaded(moment.ok_or(Malformed("a row of no moment"))?.clone())
                }
                _ => return Err(Malformed("unknown moment of a row")),
            };
            let row = reader.bool()?.then(|| decode_tuple(reader)).transpose()?;
            Lending::Lent(Base { row, seen })
        }
        _ => return Err(Malformed("unknown answer for a row")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_pg::tuple::{Datum, Tuple};

    fn ask() -> Ask {
        Ask {
            node: 7,
            kind: Kind::Former,
            told: Told {
                log: LogIndex(5),
                wal: Lsn(600),
                history: 8,
                live: true,
            },
            tables: vec![
                AskedTable {
                    table: TableOid(16_384),
                    shape: 9,
                    keys: vec![Key::from_bytes(b"a"), Key::from_bytes(b"")],
                },
                AskedTable {
                    table: TableOid(16_385),
                    shape: 10,
                    keys: vec![],
                },
            ],
        }
    }

    #[test]
    fn questions_come_back_as_they_went_in() {
        for question in [Question::Presence, Question::Rows(ask())] {
            assert_eq!(Question::decode(&question.encode()), Ok(question));
        }
        assert_eq!(decode_presence(&encode_presence(77)), Ok(77));
        assert_eq!(ask().rows().count(), 2);
    }

    #[test]
    fn other_versions_are_not_understood() {
        let mut bytes = Question::Presence.encode().to_vec();
        bytes[0] += 1;
        assert!(Question::decode(&bytes).is_err());
        let mut bytes = encode_presence(77).to_vec();
        bytes[0] += 1;
        assert!(decode_presence(&bytes).is_err());
        let mut bytes = Lendings::default().encode().to_vec();
        bytes[0] += 1;
        assert!(Lendings::decode(&bytes).is_err());
    }

    #[test]
    fn rows_of_one_load_share_its_moment_on_both_sides() {
        let moment = Arc::new(Moment {
            snapshot: "10:20:10,14".parse().unwrap(),
            wal: Lsn(99),
        });
        let row: Tuple = [Datum::Value(b"x"), Datum::Null, Datum::Missing]
            .into_iter()
            .collect();
        let lent = |row: Option<&Tuple>, seen: &Seen| {
            Lending::Lent(Base {
                row: row.cloned(),
                seen: seen.clone(),
            })
        };
        let loaded = Seen::Loaded(moment.clone());
        let mut lendings = Lendings::default();
        for lending in [
            lent(Some(&row), &loaded),
            Lending::Declined,
            lent(None, &loaded),
            Lending::Later,
            lent(None, &Seen::Lsn(Lsn(5))),
        ] {
            lendings.push(&lending);
        }
        let back = Lendings::decode(&lendings.encode()).unwrap();
        let [
            Lending::Lent(first),
            Lending::Declined,
            Lending::Lent(second),
            Lending::Later,
            Lending::Lent(third),
        ] = &back[..]
        else {
            panic!("{back:?}");
        };
        let (Seen::Loaded(one), Seen::Loaded(two)) = (&first.seen, &second.seen) else {
            panic!("{back:?}");
        };
        assert!(Arc::ptr_eq(one, two) && *one == moment);
        assert_eq!((&first.row, &second.row), (&Some(row), &None));
        assert!(matches!(third.seen, Seen::Told(Lsn(5))));
    }
}
