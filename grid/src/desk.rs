//! What a node asks of the grid's leader, as bytes, and what it is answered. Never sends anything.

use crate::grid::GridError;
use crate::loader::LoadError;
use crate::log::codec::{
    decode_held, decode_owned, decode_release, decode_request, encode_held, encode_owned,
    encode_release, encode_request,
};
use crate::log::{HeldScope, HoldEnd, LogError, RequestId};
use crate::scope::Scope;
use bytes::Bytes;
use ripen_cachestore::change::codec::{Malformed, Reader, put_bytes, put_u64};

/// A wish. All may be asked again without being carried out twice.
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
    Write(RequestId, u64, Bytes),
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

impl Request {
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
            Request::Write(id, below, write) => {
                out.push(5);
                encode_request(&mut out, *id);
                put_u64(&mut out, *below);
                put_bytes(&mut out, write);
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
                let (id, below) = (decode_request(&mut reader)?, reader.u64()?);
                Request::Write(id, below, bytes.slice_ref(reader.bytes()?))
            }
            _ => return Err(Malformed("unknown request of a node")),
        };
        reader.end()?;
        Ok(request)
    }
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
        for request in [
            Request::Hold(held, true),
            Request::Release(vec![id], HoldEnd::Changed),
            Request::Barrier(Scope::Nothing),
            Request::CatalogChanged,
            Request::Look,
            Request::Write(id, 8, Bytes::from_static(b"update")),
        ] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        for answer in [
            Answer::Done(Bytes::from_static(b"UPDATE 1")),
            Answer::Elsewhere,
            Answer::Refused(GridError::Full),
            Answer::Refused(GridError::BarrierTimeout),
        ] {
            let back = Answer::decode(&answer.encode()).map(|back| format!("{back:?}"));
            assert_eq!(back, Ok(format!("{answer:?}")));
        }
    }
}
