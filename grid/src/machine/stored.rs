//! The state machine's snapshot as bytes: an own versioned layout made of the log's parts. Never holds what Postgres can give again (clean rows, bases).
//!
//! Version 7 says which flushes are kept and which server is the system of record; version 6 says whether Postgres knows the log; version 5 says of which logs this one was made; version 4 says what nodes have asked and hold; version 3 says the tables' shapes; version 2 says of each clock what its row was before, version 1 did not.
//!
//! `u8` version, `u64` last flush, open flush (`u8` 0 or 1, then its groups with clocks), rows with layers, pending rows with clocks, shared groups, shapes, requests, former logs, `u8` 0 or 1, kept flushes, server (`u8` 0 or 1, then it).

use super::layer;
use crate::change::{Before, CommitGroup, FlushSeq};
use crate::kept::Kept;
use crate::log::RequestId;
use crate::log::codec::{
    decode_held, decode_owned, decode_request, decode_server, encode_held, encode_owned,
    encode_request, encode_server,
};
use crate::requests::{Lingering, Process, Requests};
use crate::ripening::Taken;
use crate::rows::Rows;
use crate::rows::layer::Stage;
use crate::schedule::{Inner, OpenFlush};
use bytes::Bytes;
use ripen_cachestore::change::codec::{self, Malformed, Reader};
use ripen_cachestore::change::shape;
use ripen_cachestore::progress::LogIdentity;
use std::sync::Arc;

const VERSION: u8 = 7;

pub fn save(rows: &Rows, inner: &Inner, requests: &Requests) -> Vec<u8> {
    let mut out = vec![VERSION];
    codec::put_u64(&mut out, inner.last_seq.0);
    out.push(u8::from(inner.open.is_some()));
    if let Some(open) = &inner.open {
        codec::put_u64(&mut out, open.seq.0);
        codec::put_many(&mut out, &open.groups, codec::encode_group);
        codec::put_many(&mut out, &open.taken, |out, group| {
            codec::put_many(out, group, put_taken)
        });
    }
    save_layers(&mut out, rows, inner);
    codec::put_many(&mut out, &inner.ripening.in_order(), put_taken);
    codec::put_many(&mut out, &inner.ripening.tied(), |out, rows| {
        codec::put_many(out, rows, codec::encode_row_id)
    });
    shape::encode_shapes(&mut out, &inner.shapes);
    save_requests(&mut out, requests);
    codec::put_many(&mut out, &inner.formers, |out, former| {
        codec::put_u64(out, former.0)
    });
    out.push(u8::from(inner.taken_over));
    inner.kept.save(&mut out);
    out.push(u8::from(inner.home.is_some()));
    inner
        .home
        .iter()
        .for_each(|home| encode_server(&mut out, *home));
    out
}

fn save_requests(out: &mut Vec<u8>, requests: &Requests) {
    let processes: Vec<_> = requests.processes.iter().collect();
    codec::put_many(out, &processes, |out, (process, known)| {
        codec::put_u64(out, **process);
        codec::put_u64(out, known.below);
        let answers: Vec<_> = known.answers.iter().collect();
        codec::put_many(out, &answers, |out, (number, answer)| {
            codec::put_u64(out, **number);
            codec::put_bytes(out, answer);
        });
        let ended: Vec<u64> = known.ended.iter().copied().collect();
        codec::put_many(out, &ended, |out, number| codec::put_u64(out, *number));
    });
    let holds: Vec<_> = requests.holds.values().collect();
    codec::put_many(out, &holds, |out, held| encode_held(out, held));
    codec::put_many(out, &requests.lingering, |out, lingering| {
        encode_owned(out, &lingering.scope);
        out.push(u8::from(lingering.changed));
        let awaits: Vec<RequestId> = lingering.awaits.iter().copied().collect();
        codec::put_many(out, &awaits, |out, id| encode_request(out, *id));
    });
}

fn load_requests(reader: &mut Reader<'_>) -> Result<Requests, Malformed> {
    let processes = reader.many(|reader| {
        let (process, below) = (reader.u64()?, reader.u64()?);
        let answer =
            |reader: &mut Reader<'_>| Ok((reader.u64()?, Bytes::copy_from_slice(reader.bytes()?)));
        let known = Process {
            below,
            answers: reader.many(answer)?.into_iter().collect(),
            ended: reader.many(Reader::u64)?.into_iter().collect(),
        };
        Ok((process, known))
    })?;
    let holds = reader.many(decode_held)?;
    let lingering = reader.many(|reader| {
        Ok(Lingering {
            scope: decode_owned(reader)?,
            changed: reader.bool()?,
            awaits: reader.many(decode_request)?.into_iter().collect(),
        })
    })?;
    Ok(Requests {
        processes: processes.into_iter().collect(),
        holds: holds.into_iter().map(|held| (held.id, held)).collect(),
        lingering,
    })
}

fn save_layers(out: &mut Vec<u8>, rows: &Rows, inner: &Inner) {
    let (mut layers, tables) = (Vec::new(), inner.tables());
    rows.for_each_layered(|row, slot| {
        // Others are another log's.
        if !tables.contains(&row.table) {
            return;
        }
        let kept = slot
            .layers()
            .iter()
            .filter(|layer| !matches!(layer.stage, Stage::Flushed(_)));
        layers.extend(kept.map(|layer| (row.clone(), layer.stage.flush(), layer.change.clone())));
    });
    // Stable: the layers of a row keep their order.
    layers.sort_by(|(left, ..), (right, ..)| left.cmp(right));
    codec::put_many(out, &layers, |out, (row, flushing, change)| {
        codec::encode_row_id(out, row);
        codec::put_u64(out, flushing.map_or(0, |seq| seq.0));
        codec::encode_change(out, change);
    });
}

fn put_taken(out: &mut Vec<u8>, taken: &Taken) {
    codec::encode_row_id(out, &taken.row);
    codec::put_u64(out, taken.first_ms);
    codec::put_u64(out, taken.bytes);
    codec::encode_before(out, &taken.before);
}

fn read_taken(version: u8, reader: &mut Reader<'_>) -> Result<Taken, Malformed> {
    Ok(Taken {
        row: codec::decode_row_id(reader)?,
        first_ms: reader.u64()?,
        bytes: reader.u64()?,
        before: match version {
            1 => Before::Any,
            _ => codec::decode_before(reader)?,
        },
    })
}

/// Replaces the schedule. Nothing of what it was must be in the rows.
pub fn load(
    bytes: &[u8],
    rows: &Rows,
    inner: &mut Inner,
    requests: &mut Requests,
) -> Result<(), Malformed> {
    *inner = Inner::default();
    *requests = Requests::default();
    let mut reader = Reader::new(bytes);
    let version = reader.u8()?;
    if !(1..=VERSION).contains(&version) {
        return Err(Malformed("unknown version of the grid's snapshot"));
    }
    let taken = |reader: &mut Reader<'_>| read_taken(version, reader);
    inner.last_seq = FlushSeq(reader.u64()?);
    if reader.bool()? {
        let seq = FlushSeq(reader.u64()?);
        let groups: Vec<CommitGroup> = reader.many(codec::decode_group)?;
        let taken: Vec<Vec<Taken>> = reader.many(|reader| reader.many(taken))?;
        inner.open = Some(Arc::new(OpenFlush::new(seq, groups, taken)));
    }
    reader.many(|reader| {
        let row = codec::decode_row_id(reader)?;
        let flushing = Some(FlushSeq(reader.u64()?)).filter(|seq| seq.0 != 0);
        let change = codec::decode_change(reader)?;
        rows.restore(&row, layer(change, flushing));
        Ok(())
    })?;
    for taken in reader.many(taken)? {
        inner.ripening.put_back(&[taken]);
    }
    for tied in reader.many(|reader| reader.many(codec::decode_row_id))? {
        inner.ripening.tie(tied);
    }
    if version >= 3 {
        inner.shapes = shape::decode_shapes(&mut reader)?;
    }
    if version >= 4 {
        *requests = load_requests(&mut reader)?;
    }
    if version >= 5 {
        inner.formers = reader.many(|reader| reader.u64().map(LogIdentity))?;
    }
    if version >= 6 {
        inner.taken_over = reader.bool()?;
    }
    if version >= 7 {
        inner.kept = Kept::load(&mut reader)?;
        if reader.bool()? {
            inner.home = Some(decode_server(&mut reader)?);
        }
    }
    reader.end()
}
