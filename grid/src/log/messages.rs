//! What the logs of a cluster say to each other, as bytes. Never sends anything; `network.rs` does.
//!
//! A message is its version, a tag, and its fields; entries are stored in messages as they are in segments, so a follower writes what it was sent.

use super::raft::{
    Id, RaftEntry, SnapshotMeta, Types, Vote, decode_entry, encode_payload, id, meta, put_id,
    put_meta,
};
use super::wal::{Kind, Record};
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use ripen_cachestore::change::codec::{Malformed, Reader, put_bytes, put_many, put_u64};

const VERSION: u8 = 1;

/// A question to another node's log.
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot(Chunk),
    TransferLeader(TransferLeaderRequest<Types>),
}

/// Its answer.
pub(crate) enum Response {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    /// The vote of the receiver. Chunks that are not the last are answered like this, too.
    Snapshot(Vote),
    TransferLeader(TransferLeaderResponse<Types>),
}

/// A part of a snapshot's file.
pub(crate) struct Chunk {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    /// Where in the file it belongs.
    pub offset: u64,
    /// Length of the file.
    pub length: u64,
    pub bytes: Bytes,
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Request::Append(append) => {
                out.push(1);
                put_vote(&mut out, &append.vote);
                put_id(&mut out, append.prev_log_id.as_ref());
                put_id(&mut out, append.leader_commit.as_ref());
                put_many(&mut out, &append.entries, put_entry);
            }
            Request::Vote(vote) => {
                out.push(2);
                put_vote_request(&mut out, vote);
            }
            Request::PreVote(vote) => {
                out.push(3);
                put_vote_request(&mut out, vote);
            }
            Request::Snapshot(chunk) => {
                out.push(4);
                put_chunk(&mut out, chunk);
            }
            Request::TransferLeader(transfer) => {
                out.push(5);
                put_vote(&mut out, transfer.from_leader());
                put_u64(&mut out, *transfer.to_node_id());
                put_id(&mut out, transfer.last_log_id());
            }
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        let mut reader = open(bytes)?;
        let reader = &mut reader;
        let request = match reader.u8()? {
            1 => Request::Append(AppendEntriesRequest {
                vote: vote(reader)?,
                prev_log_id: id(reader)?,
                leader_commit: id(reader)?,
                entries: reader.many(entry)?,
            }),
            2 => Request::Vote(vote_request(reader)?),
            3 => Request::PreVote(vote_request(reader)?),
            4 => Request::Snapshot(chunk(reader)?),
            5 => Request::TransferLeader(TransferLeaderRequest::new(
                vote(reader)?,
                reader.u64()?,
                id(reader)?,
            )),
            _ => return Err(Malformed("unknown question between logs")),
        };
        reader.end()?;
        Ok(request)
    }
}

impl Response {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Response::Append(AppendEntriesResponse::Success) => out.push(1),
            Response::Append(AppendEntriesResponse::PartialSuccess(upto)) => {
                out.push(2);
                put_id(&mut out, upto.as_ref());
            }
            Response::Append(AppendEntriesResponse::Conflict) => out.push(3),
            Response::Append(AppendEntriesResponse::HigherVote(vote)) => {
                out.push(4);
                put_vote(&mut out, vote);
            }
            Response::Vote(response) => {
                out.push(5);
                put_vote(&mut out, &response.vote);
                out.push(u8::from(response.vote_granted));
                put_id(&mut out, response.last_log_id.as_ref());
            }
            Response::Snapshot(vote) => {
                out.push(6);
                put_vote(&mut out, vote);
            }
            Response::TransferLeader(Ok(())) => out.push(7),
            Response::TransferLeader(Err(TransferLeaderError::VoteChanged {
                expected,
                actual,
            })) => {
                out.push(8);
                put_vote(&mut out, expected);
                put_vote(&mut out, actual);
            }
            Response::TransferLeader(Err(TransferLeaderError::LogNotFlushed {
                expected,
                actual,
            })) => {
                out.push(9);
                put_id(&mut out, expected.as_ref());
                put_id(&mut out, actual.as_ref());
            }
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Response, Malformed> {
        let mut reader = open(bytes)?;
        let reader = &mut reader;
        let response = match reader.u8()? {
            1 => Response::Append(AppendEntriesResponse::Success),
            2 => Response::Append(AppendEntriesResponse::PartialSuccess(id(reader)?)),
            3 => Response::Append(AppendEntriesResponse::Conflict),
            4 => Response::Append(AppendEntriesResponse::HigherVote(vote(reader)?)),
            5 => {
                let (vote, granted) = (vote(reader)?, reader.bool()?);
                Response::Vote(VoteResponse::new(vote, id(reader)?, granted))
            }
            6 => Response::Snapshot(vote(reader)?),
            7 => Response::TransferLeader(Ok(())),
            8 => Response::TransferLeader(Err(TransferLeaderError::VoteChanged {
                expected: vote(reader)?,
                actual: vote(reader)?,
            })),
            9 => Response::TransferLeader(Err(TransferLeaderError::LogNotFlushed {
                expected: id(reader)?,
                actual: id(reader)?,
            })),
            _ => return Err(Malformed("unknown answer between logs")),
        };
        reader.end()?;
        Ok(response)
    }
}

fn open(bytes: &[u8]) -> Result<Reader<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        VERSION => Ok(reader),
        _ => Err(Malformed("unknown version of messages between logs")),
    }
}

fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    put_u64(out, vote.leader_id.term);
    put_u64(out, vote.leader_id.voted_for);
    out.push(u8::from(vote.committed));
}

fn vote(reader: &mut Reader<'_>) -> Result<Vote, Malformed> {
    let mut vote = Vote::new(reader.u64()?, reader.u64()?);
    vote.committed = reader.bool()?;
    Ok(vote)
}

fn put_vote_request(out: &mut Vec<u8>, request: &VoteRequest<Types>) {
    put_vote(out, &request.vote);
    put_id(out, request.last_log_id.as_ref());
    out.push(u8::from(request.leadership_transfer));
}

fn vote_request(reader: &mut Reader<'_>) -> Result<VoteRequest<Types>, Malformed> {
    let mut request = VoteRequest::new(vote(reader)?, id(reader)?);
    request.leadership_transfer = reader.bool()?;
    Ok(request)
}

fn put_entry(out: &mut Vec<u8>, entry: &RaftEntry) {
    let id = Id::from(&entry.log_id);
    let (kind, payload) = encode_payload(&entry.payload);
    put_u64(out, id.term);
    put_u64(out, id.index);
    out.push(kind as u8);
    put_bytes(out, &payload);
}

fn entry(reader: &mut Reader<'_>) -> Result<RaftEntry, Malformed> {
    let (term, index) = (reader.u64()?, reader.u64()?);
    let kind = Kind::from_byte(reader.u8()?).ok_or(Malformed("unknown kind of entry"))?;
    decode_entry(&Record {
        kind,
        term,
        index,
        payload: reader.bytes()?,
    })
}

fn put_chunk(out: &mut Vec<u8>, chunk: &Chunk) {
    put_vote(out, &chunk.vote);
    put_meta(out, &chunk.meta);
    put_u64(out, chunk.offset);
    put_u64(out, chunk.length);
    put_bytes(out, &chunk.bytes);
}

fn chunk(reader: &mut Reader<'_>) -> Result<Chunk, Malformed> {
    Ok(Chunk {
        vote: vote(reader)?,
        meta: meta(reader)?,
        offset: reader.u64()?,
        length: reader.u64()?,
        bytes: Bytes::copy_from_slice(reader.bytes()?),
    })
}
