//! What a node asks of the grid's leader, as bytes, and what it is answered. Never sends anything.

use crate::blocks::{BlockId, Step, Watch};
use crate::cluster::Lane;
use crate::grid::GridError;
use crate::loader::LoadError;
use crate::log::codec::{
    decode_held, decode_owned, decode_release, decode_request, encode_held, encode_owned,
    encode_release, encode_request,
};
use crate::log::{HeldScope, HoldEnd, LogError, RequestId};
use crate::scope::Scope;
use bytes::Bytes;
use ripen_cachestore::change::codec::{Malformed, Reader, put_bytes, put_count, put_u64};

/// A wish. All may be asked again without being carried out twice; a step of a block is asked for once all the same, for whoever gets no answer knows nothing of its block any more.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A scope is to be held. The second: and everything pending in it to be in Postgres.
    Hold(HeldScope, bool),
    /// Holds have ended.
    Release(Vec<RequestId>, HoldEnd),
    /// Everything acknowledged in the scope is to be in Postgres.
    Barrier(Scope),
    /// The catalog is another one.
    CatalogChanged,
    /// This node has met another server than the log says: the leader is to look.
    Look,
    /// A write, in the words of whoever set [`crate::grid::Grid::set_writer`].
    Write(Asked, Bytes),
    /// A step of a transaction block, in the words of whoever set [`crate::grid::Grid::set_host`].
    Step(Step, Bytes),
    /// Which blocks a process has; it is answered which of them are wanted elsewhere ([`encode_numbers`]), when there is one that it does not know of, or after a while.
    Watch(Watch),
    /// The last step of a block, COMMIT: carried out once, and answered the same each time, as a write.
    Commit(Asked, Step, Bytes),
}

/// Which write is asked for, of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The same each time.
    pub id: RequestId,
    /// Below which number its process asks no more.
    pub below: u64,
    /// The term whose leader is asked. Another one does nothing: that leader may have refused it.
    pub term: u64,
}

/// What became of it.
#[derive(Debug)]
pub enum Answer {
    /// It is done. Of a write: what its writer says.
    Done(Bytes),
    /// This node does not lead, or not any more: ask again, whoever leads then.
    Elsewhere,
    /// It cannot be.
    Refused(GridError),
}

impl Asked {
    /// [`Request::ask_in`] says of whom.
    pub fn new(id: RequestId, below: u64) -> Asked {
        let term = 0;
        Asked { id, below, term }
    }
}

impl Request {
    /// It goes to the leader of that term.
    pub fn ask_in(&mut self, term: u64) {
        if let Request::Write(asked, _) | Request::Commit(asked, ..) = self {
            asked.term = term;
        }
    }

    /// Whose questions it may wait behind.
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Request::Release(..) | Request::CatalogChanged => Lane::News,
            Request::Step(..) | Request::Watch(_) => Lane::Blocks,
            // Those who wait for its rows must not keep it waiting.
            Request::Commit(..) => Lane::Commits,
            _ => Lane::Asked,
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Request::Hold(held, flushed) => {
                out.push(1);
                encode_held(&mut out, held);
                out.push(u8::from(*flushed));
            }
            Request::Release(ids, end) => {
                out.push(2);
                encode_release(&mut out, ids, *end);
            }
            Request::Barrier(scope) => {
                out.push(3);
                encode_owned(&mut out, scope);
            }
            Request::CatalogChanged => out.push(4),
            Request::Look => out.push(6),
            Request::Write(asked, write) => {
                out.push(5);
                encode_asked(&mut out, asked);
                put_bytes(&mut out, write);
            }
            Request::Step(step, words) => {
                out.push(7);
                encode_step(&mut out, step);
                put_bytes(&mut out, words);
            }
            Request::Watch(watch) => {
                out.push(8);
                put_u64(&mut out, watch.process);
                put_u64(&mut out, watch.term);
                put_u64(&mut out, watch.upto);
                put_count(&mut out, watch.open.len());
                for (number, wanted) in &watch.open {
                    put_u64(&mut out, *number);
                    out.push(u8::from(*wanted));
                }
                out.push(u8::from(watch.waits));
            }
            Request::Commit(asked, step, words) => {
                out.push(9);
                encode_asked(&mut out, asked);
                encode_step(&mut out, step);
                put_bytes(&mut out, words);
            }
        }
        out.into()
    }

    /// Reads what [`Request::encode`] wrote.
    pub fn decode(bytes: &Bytes) -> Result<Request, Malformed> {
        let mut reader = Reader::new(bytes);
        let request = match reader.u8()? {
            1 => Request::Hold(decode_held(&mut reader)?, reader.bool()?),
            2 => {
                let (ids, end) = decode_release(&mut reader)?;
                Request::Release(ids, end)
            }
            3 => Request::Barrier(decode_owned(&mut reader)?),
            4 => Request::CatalogChanged,
            6 => Request::Look,
            5 => {
                let asked = decode_asked(&mut reader)?;
                Request::Write(asked, bytes.slice_ref(reader.bytes()?))
            }
            7 => {
                let step = decode_step(&mut reader)?;
                Request::Step(step, bytes.slice_ref(reader.bytes()?))
            }
            8 => {
                let (process, term, upto) = (reader.u64()?, reader.u64()?, reader.u64()?);
                let open = reader.many(|reader| Ok((reader.u64()?, reader.bool()?)))?;
                Request::Watch(Watch {
                    process,
                    term,
                    upto,
                    open: open.into_iter().collect(),
                    waits: reader.bool()?,
                })
            }
            9 => {
                let (asked, step) = (decode_asked(&mut reader)?, decode_step(&mut reader)?);
                Request::Commit(asked, step, bytes.slice_ref(reader.bytes()?))
            }
            _ => return Err(Malformed("unknown request of a node")),
        };
        reader.end()?;
        Ok(request)
    }
}

fn encode_asked(out: &mut Vec<u8>, asked: &Asked) {
    encode_request(out, asked.id);
    put_u64(out, asked.below);
    put_u64(out, asked.term);
}

fn decode_asked(reader: &mut Reader<'_>) -> Result<Asked, Malformed> {
    Ok(Asked {
        id: decode_request(reader)?,
        below: reader.u64()?,
        term: reader.u64()?,
    })
}

fn encode_step(out: &mut Vec<u8>, step: &Step) {
    put_u64(out, step.block.process);
    put_u64(out, step.block.number);
    put_u64(out, step.term);
    put_u64(out, step.number);
}

fn decode_step(reader: &mut Reader<'_>) -> Result<Step, Malformed> {
    let (process, number) = (reader.u64()?, reader.u64()?);
    Ok(Step {
        block: BlockId { process, number },
        term: reader.u64()?,
        number: reader.u64()?,
    })
}

/// A scope to be held, for the words of a step.
pub fn put_held(out: &mut Vec<u8>, held: &HeldScope) {
    encode_held(out, held);
}

/// Reads what [`put_held`] wrote.
pub fn get_held(reader: &mut Reader<'_>) -> Result<HeldScope, Malformed> {
    decode_held(reader)
}

/// A scope, for the answer to a step.
pub fn put_scope(out: &mut Vec<u8>, scope: &Scope) {
    encode_owned(out, scope);
}

/// Reads what [`put_scope`] wrote.
pub fn get_scope(reader: &mut Reader<'_>) -> Result<Scope, Malformed> {
    decode_owned(reader)
}

/// What a [`Request::Watch`] is answered.
pub fn encode_numbers(numbers: &[u64]) -> Bytes {
    let mut out = Vec::with_capacity(4 + 8 * numbers.len());
    put_count(&mut out, numbers.len());
    numbers.iter().for_each(|number| put_u64(&mut out, *number));
    out.into()
}

/// Reads what [`encode_numbers`] wrote.
pub fn decode_numbers(bytes: &[u8]) -> Result<Vec<u64>, Malformed> {
    let mut reader = Reader::new(bytes);
    let numbers = reader.many(Reader::u64)?;
    reader.end()?;
    Ok(numbers)
}

impl Answer {
    /// What a failure means for who asked.
    pub fn failed(error: GridError) -> Answer {
        match error {
            GridError::Log(_) | GridError::Elsewhere => Answer::Elsewhere,
            error => Answer::Refused(error),
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Answer::Done(answer) => {
                out.push(1);
                out.extend_from_slice(answer);
            }
            Answer::Elsewhere => out.push(2),
            Answer::Refused(error) => {
                out.push(3);
                out.push(match error {
                    GridError::Owned => 1,
                    GridError::NotLoadable(_) => 2,
                    GridError::TooLarge => 3,
                    GridError::Full => 4,
                    GridError::BarrierTimeout => 5,
                    GridError::RowsLocked => 7,
                    GridError::Crowded => 8,
                    _ => 6,
                });
            }
        }
        out.into()
    }

    /// Reads what [`Answer::encode`] wrote.
    pub fn decode(bytes: &Bytes) -> Result<Answer, Malformed> {
        Ok(match bytes.first() {
            Some(1) => Answer::Done(bytes.slice(1..)),
            Some(2) => Answer::Elsewhere,
            Some(3) => Answer::Refused(match bytes.get(1) {
                Some(1) => GridError::Owned,
                Some(2) => GridError::NotLoadable(LoadError::Contended),
                Some(3) => GridError::TooLarge,
                Some(4) => GridError::Full,
                Some(5) => GridError::BarrierTimeout,
                Some(7) => GridError::RowsLocked,
                Some(8) => GridError::Crowded,
                _ => GridError::Log(LogError::Stopped),
            }),
            _ => return Err(Malformed("unknown answer of the leader")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_come_back_as_they_went_in() {
        let id = RequestId {
            process: 7,
            number: 9,
        };
        let held = HeldScope {
            id,
            node: 3,
            below: 8,
            scope: Scope::Everything,
            backend: Some(-4),
            rewires: true,
            withdrawn: vec![],
        };
        let asked = Asked::new(id, 8);
        let step = Step {
            block: BlockId {
                process: 7,
                number: 2,
            },
            term: 5,
            number: 3,
        };
        let watch = Watch {
            process: 7,
            term: 5,
            upto: 4,
            open: [(2, true), (4, false)].into(),
            waits: true,
        };
        assert_eq!(decode_numbers(&encode_numbers(&[4, 2])), Ok(vec![4, 2]));
        for request in [
            Request::Hold(held, true),
            Request::Release(vec![id], HoldEnd::Changed),
            Request::Barrier(Scope::Nothing),
            Request::CatalogChanged,
            Request::Look,
            Request::Write(asked, Bytes::from_static(b"update")),
            Request::Step(step, Bytes::from_static(b"update")),
            Request::Watch(watch),
            Request::Commit(asked, step, Bytes::from_static(b"commit")),
        ] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        for answer in [
            Answer::Done(Bytes::from_static(b"UPDATE 1")),
            Answer::Elsewhere,
            Answer::Refused(GridError::Full),
            Answer::Refused(GridError::BarrierTimeout),
            Answer::Refused(GridError::RowsLocked),
        ] {
            let back = Answer::decode(&answer.encode()).map(|back| format!("{back:?}"));
            assert_eq!(back, Ok(format!("{answer:?}")));
        }
    }
}
