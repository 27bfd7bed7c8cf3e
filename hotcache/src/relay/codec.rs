//! Asks, replies and events as bytes between nodes. A version stands in front of each ask and reply; who does not know it says so, and the asker goes without a stream.

use super::{Ask, Begin, Claim, Reply, State};
use crate::error::Unavailable;
use crate::event::{Event, Outcome, OwnFlush, RowOutcome, Transaction};
use crate::publication::Author;
use crate::shape::ShapeStamp;
use bytes::Bytes;
use ripen_cachestore::change::FlushSeq;
use ripen_cachestore::change::codec::{
    Malformed, Reader, decode_row_id, decode_tuple, encode_row_id, encode_tuple, put_bytes,
    put_many, put_u32, put_u64,
};
use ripen_pg::ids::{Lsn, TableOid, Xid32};
use ripen_pg::replication::PgMicros;

const VERSION: u8 = 1;

/// As bytes.
pub fn encode_ask(ask: &Ask) -> Bytes {
    let mut out = vec![VERSION];
    put_u64(&mut out, ask.node);
    put_u64(&mut out, ask.stream);
    put_u64(&mut out, ask.next);
    out.push(u8::from(ask.wait));
    out.push(u8::from(ask.claim.is_some()));
    ask.claim
        .iter()
        .for_each(|claim| encode_claim(&mut out, claim));
    out.into()
}

/// Reads what [`encode_ask`] wrote.
///
/// # Errors
/// When it is of another version, or damaged.
pub fn decode_ask(bytes: &[u8]) -> Result<Ask, Malformed> {
    let mut reader = versioned(bytes)?;
    let (node, stream, next) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let wait = reader.bool()?;
    let claims = reader.bool()?;
    let claim = claims.then(|| decode_claim(&mut reader)).transpose()?;
    reader.end()?;
    Ok(Ask {
        node,
        stream,
        next,
        claim,
        wait,
    })
}

/// As bytes.
pub fn encode_reply(reply: &Reply) -> Bytes {
    let mut out = vec![VERSION];
    match reply {
        Reply::Away => out.push(0),
        Reply::Begin(begin) => {
            out.push(1);
            [begin.stream, begin.next, begin.until]
                .into_iter()
                .for_each(|number| put_u64(&mut out, number));
            encode_state(&mut out, &begin.state);
        }
        Reply::Events { next, more, events } => {
            let bytes: usize = events.iter().map(|event| event.len() + 4).sum();
            out.reserve(bytes + 16);
            out.push(2);
            put_u64(&mut out, *next);
            out.push(u8::from(*more));
            put_many(&mut out, events, |out, event| put_bytes(out, event));
        }
    }
    out.into()
}

/// Reads what [`encode_reply`] wrote.
///
/// # Errors
/// When it is of another version, or damaged.
pub fn decode_reply(bytes: &Bytes) -> Result<Reply, Malformed> {
    let mut reader = versioned(bytes)?;
    let reply = match reader.u8()? {
        0 => Reply::Away,
        1 => Reply::Begin(Begin {
            stream: reader.u64()?,
            next: reader.u64()?,
            until: reader.u64()?,
            state: decode_state(&mut reader)?,
        }),
        2 => Reply::Events {
            next: reader.u64()?,
            more: reader.bool()?,
            events: reader.many(|reader| Ok(bytes.slice_ref(reader.bytes()?)))?,
        },
        _ => return Err(Malformed("unknown reply about the stream")),
    };
    reader.end()?;
    Ok(reply)
}

fn versioned(bytes: &[u8]) -> Result<Reader<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        VERSION => Ok(reader),
        _ => Err(Malformed("the stream is relayed in another version")),
    }
}

fn encode_claim(out: &mut Vec<u8>, claim: &Claim) {
    put_u64(out, claim.lineage);
    put_u64(out, claim.history);
    put_u64(out, claim.system_id);
    put_u32(out, claim.timeline);
    put_u64(out, claim.complete.0);
}

fn decode_claim(reader: &mut Reader<'_>) -> Result<Claim, Malformed> {
    Ok(Claim {
        lineage: reader.u64()?,
        history: reader.u64()?,
        system_id: reader.u64()?,
        timeline: reader.u32()?,
        complete: Lsn(reader.u64()?),
    })
}

fn encode_state(out: &mut Vec<u8>, state: &State) {
    match state {
        State::Follows {
            claim,
            resumed,
            live,
        } => {
            out.push(0);
            encode_claim(out, claim);
            out.push(u8::from(*resumed));
            out.push(u8::from(*live));
        }
        State::Unavailable(why) => {
            out.push(1);
            encode_unavailable(out, why);
        }
    }
}

fn decode_state(reader: &mut Reader<'_>) -> Result<State, Malformed> {
    Ok(match reader.u8()? {
        0 => State::Follows {
            claim: decode_claim(reader)?,
            resumed: reader.bool()?,
            live: reader.bool()?,
        },
        1 => State::Unavailable(decode_unavailable(reader)?),
        _ => return Err(Malformed("unknown state of the stream")),
    })
}

fn encode_unavailable(out: &mut Vec<u8>, why: &Unavailable) {
    put_bytes(out, why.message.as_bytes());
    put_bytes(out, why.hint.as_bytes());
}

fn decode_unavailable(reader: &mut Reader<'_>) -> Result<Unavailable, Malformed> {
    Ok(Unavailable {
        message: text(reader)?,
        hint: text(reader)?,
    })
}

/// An event as it is kept and sent.
pub(super) fn encode_event(event: &Event) -> Bytes {
    let mut out = Vec::new();
    match event {
        Event::Connected {
            resumed,
            same_history,
            system_id,
            timeline,
            position,
        } => {
            out.extend([0, u8::from(*resumed), u8::from(*same_history)]);
            put_u64(&mut out, *system_id);
            put_u32(&mut out, *timeline);
            put_u64(&mut out, position.0);
        }
        Event::Disconnected { reason } => {
            out.push(1);
            put_bytes(&mut out, reason.as_bytes());
        }
        Event::Unavailable(why) => {
            out.push(2);
            encode_unavailable(&mut out, why);
        }
        Event::Transaction(transaction) => {
            out.push(3);
            encode_transaction(&mut out, transaction);
        }
        Event::Mark { id, position } => {
            out.push(4);
            put_u64(&mut out, *id);
            put_u64(&mut out, position.0);
        }
        Event::Withdrawn {
            author,
            tables,
            position,
        } => {
            out.push(5);
            put_u64(&mut out, author.0);
            encode_tables(&mut out, tables);
            put_u64(&mut out, position.0);
        }
        Event::Position(position) => {
            out.push(6);
            put_u64(&mut out, position.0);
        }
    }
    out.into()
}

/// Reads what [`encode_event`] wrote.
pub(super) fn decode_event(bytes: &[u8]) -> Result<Event, Malformed> {
    let mut reader = Reader::new(bytes);
    let event = match reader.u8()? {
        0 => Event::Connected {
            resumed: reader.bool()?,
            same_history: reader.bool()?,
            system_id: reader.u64()?,
            timeline: reader.u32()?,
            position: Lsn(reader.u64()?),
        },
        1 => Event::Disconnected {
            reason: text(&mut reader)?,
        },
        2 => Event::Unavailable(decode_unavailable(&mut reader)?),
        3 => Event::Transaction(decode_transaction(&mut reader)?),
        4 => Event::Mark {
            id: reader.u64()?,
            position: Lsn(reader.u64()?),
        },
        5 => Event::Withdrawn {
            author: Author(reader.u64()?),
            tables: decode_tables(&mut reader)?,
            position: Lsn(reader.u64()?),
        },
        6 => Event::Position(Lsn(reader.u64()?)),
        _ => return Err(Malformed("unknown event of the stream")),
    };
    reader.end()?;
    Ok(event)
}

fn encode_transaction(out: &mut Vec<u8>, transaction: &Transaction) {
    put_u32(out, transaction.xid.0);
    put_u64(out, transaction.commit.0);
    put_u64(out, transaction.commit_time.0.cast_unsigned());
    encode_own(out, transaction.own_flush);
    put_many(out, &transaction.rows, encode_row);
    encode_tables(out, &transaction.truncated);
    encode_tables(out, &transaction.invalidated);
    encode_tables(out, &transaction.schema_changed);
    put_many(out, &transaction.shapes, |out, (table, stamp)| {
        put_u32(out, table.0);
        put_u64(out, stamp.0);
    });
}

fn decode_transaction(reader: &mut Reader<'_>) -> Result<Transaction, Malformed> {
    Ok(Transaction {
        xid: Xid32(reader.u32()?),
        commit: Lsn(reader.u64()?),
        commit_time: PgMicros(reader.u64()?.cast_signed()),
        own_flush: decode_own(reader)?,
        rows: reader.many(decode_row)?,
        truncated: decode_tables(reader)?,
        invalidated: decode_tables(reader)?,
        schema_changed: decode_tables(reader)?,
        shapes: reader.many(|reader| Ok((TableOid(reader.u32()?), ShapeStamp(reader.u64()?))))?,
    })
}

/// One more than the log's number, 0 where it is none of ours; then the flush's number.
fn encode_own(out: &mut Vec<u8>, flush: Option<OwnFlush>) {
    let log = flush.map_or(0, |flush| flush.log + 1);
    out.push(u8::try_from(log).expect("logs have small numbers"));
    put_u64(out, flush.map_or(0, |flush| flush.seq.0));
}

fn decode_own(reader: &mut Reader<'_>) -> Result<Option<OwnFlush>, Malformed> {
    let (log, seq) = (i32::from(reader.u8()?) - 1, FlushSeq(reader.u64()?));
    Ok((log >= 0).then_some(OwnFlush { log, seq }))
}

fn encode_row(out: &mut Vec<u8>, told: &RowOutcome) {
    encode_row_id(out, &told.row);
    match &told.outcome {
        Outcome::Put(image) => {
            out.push(0);
            encode_tuple(out, image);
        }
        Outcome::Delete => out.push(1),
        Outcome::Unknown => out.push(2),
    }
}

fn decode_row(reader: &mut Reader<'_>) -> Result<RowOutcome, Malformed> {
    Ok(RowOutcome {
        row: decode_row_id(reader)?,
        outcome: match reader.u8()? {
            0 => Outcome::Put(decode_tuple(reader)?),
            1 => Outcome::Delete,
            2 => Outcome::Unknown,
            _ => return Err(Malformed("unknown outcome of a row")),
        },
    })
}

fn encode_tables(out: &mut Vec<u8>, tables: &[TableOid]) {
    put_many(out, tables, |out, table| put_u32(out, table.0));
}

fn decode_tables(reader: &mut Reader<'_>) -> Result<Vec<TableOid>, Malformed> {
    reader.many(|reader| Ok(TableOid(reader.u32()?)))
}

fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    Ok(String::from_utf8_lossy(reader.bytes()?).into_owned())
}
