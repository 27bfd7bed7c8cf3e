//! What is asked of a transaction block at the leader of the cluster and what it answers, as bytes. Decides nothing; `hosted.rs` does it there.

use super::forwarded::{self, Forwarded, Forwarding};
use crate::session::answerer::Refusal;
use bytes::Bytes;
use ripen_cachestore::change::codec::{Malformed, Reader, put_bytes, put_count, put_many, put_u64};
use ripen_cachestore::flush::redo::Redo;
use ripen_grid::desk::{get_held, get_scope, put_held, put_scope};
use ripen_grid::grid::transaction::Patience;
use ripen_grid::log::HeldScope;
use ripen_grid::scope::Scope;
use std::time::Duration;

/// SAVEPOINT and its kin, which travel with the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// SAVEPOINT.
    Set(String),
    /// RELEASE.
    Release(String),
    /// ROLLBACK TO.
    BackTo(String),
}

/// A step, as whoever asks says it.
pub enum Deed<'a> {
    /// A statement.
    Statement(Patience, &'a Forwarding<'a>),
    /// Only what travels with it.
    Nothing,
    /// The block goes on in Postgres: what it has locked is to be held.
    Move(&'a HeldScope),
    /// It is over, or has moved.
    End,
    /// COMMIT.
    Commit,
}

/// The same, as the leader reads it.
#[derive(Debug)]
pub enum Asked {
    /// See [`Deed`].
    Statement(Patience, Box<Forwarded>),
    /// See [`Deed`].
    Nothing,
    /// See [`Deed`].
    Move(HeldScope),
    /// See [`Deed`].
    End,
    /// See [`Deed`].
    Commit,
}

/// What comes with each step.
#[derive(Clone, Copy, Debug)]
pub struct Preface<'a> {
    /// When the block began.
    pub begun_us: i64,
    /// How many of its savepoint statements came before these.
    pub known: u64,
    /// Those of which it is not known that they were done: who has done some of them leaves these out.
    pub points: &'a [Point],
}

/// A step, read.
#[derive(Debug)]
pub struct Words {
    /// See [`Preface`].
    pub begun_us: i64,
    /// See [`Preface`].
    pub known: u64,
    /// See [`Preface`].
    pub points: Vec<Point>,
    /// What is asked.
    pub asked: Asked,
}

/// A step as bytes.
pub fn encode(preface: Preface<'_>, deed: &Deed<'_>) -> Bytes {
    let mut out = Vec::new();
    put_u64(&mut out, preface.begun_us.cast_unsigned());
    put_u64(&mut out, preface.known);
    put_many(&mut out, preface.points, |out, point| {
        let (kind, name) = match point {
            Point::Set(name) => (1, name),
            Point::Release(name) => (2, name),
            Point::BackTo(name) => (3, name),
        };
        out.push(kind);
        put_bytes(out, name.as_bytes());
    });
    match deed {
        Deed::Statement(patience, forwarding) => {
            out.push(1);
            put_time(&mut out, patience.lock);
            put_time(&mut out, patience.statement);
            put_bytes(&mut out, &forwarding.encode());
        }
        Deed::Nothing => out.push(2),
        Deed::Move(held) => {
            out.push(3);
            put_held(&mut out, held);
        }
        Deed::End => out.push(4),
        Deed::Commit => out.push(5),
    }
    out.into()
}

impl Words {
    /// Reads what [`encode`] wrote.
    pub fn decode(bytes: &Bytes) -> Result<Words, Malformed> {
        let mut reader = Reader::new(bytes);
        let (begun_us, known) = (reader.u64()?.cast_signed(), reader.u64()?);
        let points = reader.many(|reader| {
            let (kind, name) = (reader.u8()?, forwarded::text(reader)?);
            match kind {
                1 => Ok(Point::Set(name)),
                2 => Ok(Point::Release(name)),
                3 => Ok(Point::BackTo(name)),
                _ => Err(Malformed("unknown statement of a savepoint")),
            }
        })?;
        let asked = match reader.u8()? {
            1 => {
                let patience = Patience {
                    lock: time(&mut reader)?,
                    statement: time(&mut reader)?,
                };
                let statement = bytes.slice_ref(reader.bytes()?);
                Asked::Statement(patience, Box::new(Forwarded::decode(&statement)?))
            }
            2 => Asked::Nothing,
            3 => Asked::Move(get_held(&mut reader)?),
            4 => Asked::End,
            5 => Asked::Commit,
            _ => return Err(Malformed("unknown step of a block")),
        };
        reader.end()?;
        Ok(Words {
            begun_us,
            known,
            points,
            asked,
        })
    }
}

/// In microseconds and one more; 0 is none.
fn put_time(out: &mut Vec<u8>, time: Option<Duration>) {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX - 1);
    put_u64(out, time.map_or(0, |time| us(time).saturating_add(1)));
}

fn time(reader: &mut Reader<'_>) -> Result<Option<Duration>, Malformed> {
    let us = reader.u64()?;
    Ok(us.checked_sub(1).map(Duration::from_micros))
}

/// The answer to a step that is done, beside those of `forwarded`.
pub fn encode_done() -> Bytes {
    Bytes::from_static(&[8])
}

/// The answer to [`Deed::Move`]: what is held, and what is to be done again in Postgres.
pub fn encode_moved(scope: &Scope, redo: &[Redo]) -> Bytes {
    let mut out = vec![7];
    put_scope(&mut out, scope);
    put_count(&mut out, redo.len());
    for statement in redo {
        put_bytes(&mut out, statement.sql.as_bytes());
        put_many(&mut out, &statement.calls, |out, call| {
            put_many(out, call, |out, value| {
                out.push(u8::from(value.is_some()));
                put_bytes(out, value.as_deref().unwrap_or_default());
            });
        });
        out.push(u8::from(statement.rows.is_some()));
        put_u64(&mut out, statement.rows.unwrap_or_default());
    }
    out.into()
}

/// Reads the answer to a step that has no rows.
pub fn decode_done(answer: &Bytes) -> Result<(), Refusal> {
    match answer.first() {
        Some(8) => Ok(()),
        _ => Err(refused(answer)),
    }
}

/// Reads what [`encode_moved`] wrote.
pub fn decode_moved(answer: &Bytes) -> Result<(Scope, Vec<Redo>), Refusal> {
    match answer.first() {
        Some(7) => moved(&answer[1..]).map_err(|_| forwarded::unreadable()),
        _ => Err(refused(answer)),
    }
}

fn moved(bytes: &[u8]) -> Result<(Scope, Vec<Redo>), Malformed> {
    let mut reader = Reader::new(bytes);
    let scope = get_scope(&mut reader)?;
    let redo = reader.many(|reader| {
        let sql = forwarded::text(reader)?;
        let calls = reader.many(|reader| {
            reader.many(|reader| {
                let known = reader.bool()?;
                let value = reader.bytes()?.to_vec();
                Ok(known.then_some(value))
            })
        })?;
        let (counted, rows) = (reader.bool()?, reader.u64()?);
        Ok(Redo {
            sql,
            calls,
            rows: counted.then_some(rows),
        })
    })?;
    reader.end()?;
    Ok((scope, redo))
}

/// An answer that should have been a refusal.
fn refused(answer: &Bytes) -> Refusal {
    let mut out = bytes::BytesMut::new();
    match forwarded::decode_answer(answer, &mut out) {
        Err(refusal) => refusal,
        Ok(_) => forwarded::unreadable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Reason;

    #[test]
    fn steps_come_to_the_leader_as_they_were() {
        let points = [
            Point::Set("a".to_owned()),
            Point::BackTo("a".to_owned()),
            Point::Release("a".to_owned()),
        ];
        let preface = Preface {
            begun_us: -5,
            known: 3,
            points: &points,
        };
        let words = Words::decode(&encode(preface, &Deed::Commit)).unwrap();
        assert_eq!((words.begun_us, words.known), (-5, 3));
        assert_eq!(words.points, points);
        assert!(matches!(words.asked, Asked::Commit));
        for time in [None, Some(Duration::ZERO), Some(Duration::from_millis(7))] {
            let mut out = Vec::new();
            put_time(&mut out, time);
            assert_eq!(super::time(&mut Reader::new(&out)), Ok(time));
        }
    }

    #[test]
    fn what_is_to_be_done_again_comes_back() {
        let redo = vec![Redo {
            sql: "UPDATE t".to_owned(),
            calls: vec![vec![Some(b"x".to_vec()), None]],
            rows: Some(1),
        }];
        let back = decode_moved(&encode_moved(&Scope::Nothing, &redo)).unwrap();
        assert_eq!(back, (Scope::Nothing, redo));
        assert!(decode_done(&encode_done()).is_ok());
        let passed = Refusal::PassThrough(Reason::new("x", "why"));
        let refusal = forwarded::encode_refusal(&passed);
        assert!(matches!(
            decode_done(&refusal),
            Err(Refusal::PassThrough(_))
        ));
        assert!(matches!(
            decode_moved(&refusal),
            Err(Refusal::PassThrough(_))
        ));
        assert!(matches!(decode_done(&Bytes::new()), Err(Refusal::Error(_))));
    }
}
