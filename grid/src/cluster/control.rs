//! What nodes ask each other, as bytes: the log's own questions, and who belongs to the cluster. Never sends anything.
//!
//! A question is a tag and its fields. Answers have no tag: who asked knows what it asked.

use super::lease::Grant;
use crate::log::LogIndex;
use bytes::{BufMut, Bytes, BytesMut};
use ripen_cachestore::change::codec::{Malformed, Reader, put_bytes, put_u64};

/// A question to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// From its log to ours, see [`crate::log::Log::answer`].
    Log(Bytes),
    /// Which cluster is this? Answered by [`encode_number`].
    Cluster,
    /// To the leader: this node, with that address, wants to belong. Answered by [`Told`].
    Join(u64, String),
    /// To the leader: this node goes for good. Answered by [`Told`].
    Leave(u64),
    /// To the leader: this node has applied the log so far and wants a lease. Answered by [`encode_lease`].
    Lease(u64, LogIndex),
    /// To the leader: what a node wants done by the grid, see [`crate::desk`].
    Ask(Bytes),
    /// To the leader: up to where has everything been applied by all who answer from memory? It waits a while until that is at least here. Answered by [`encode_number`].
    Everywhere(LogIndex),
    /// Which process is this? Answered by [`encode_number`].
    Process,
    /// How is the cluster? Answered by a [`super::status::MemberStatus`] as JSON.
    Status,
    /// To the leader: what has its hot cache's stream told since? In the words of whoever relays it; may wait a while.
    Relay(Bytes),
    /// Is a session with that cancel key there? Then what it does is cancelled. Answered by [`encode_done`], when it is.
    Cancel(Bytes),
    /// About clean rows, see [`crate::peers::wire`].
    Rows(Bytes),
}

/// What the leader says to a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is done.
    Done,
    /// It is under way, or must wait: ask again.
    Later,
    /// Another node leads, at this address if that is known.
    Elsewhere(Option<String>),
}

impl Question {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Question::Log(question) => return carried(1, question),
            Question::Ask(question) => return carried(6, question),
            Question::Relay(question) => return carried(42, question),
            Question::Rows(question) => return carried(43, question),
            Question::Everywhere(index) => {
                out.push(7);
                put_u64(&mut out, index.0);
            }
            Question::Process => out.push(8),
            Question::Cluster => out.push(2),
            Question::Join(node, address) => {
                out.push(3);
                put_u64(&mut out, *node);
                put_bytes(&mut out, address.as_bytes());
            }
            Question::Leave(node) => {
                out.push(4);
                put_u64(&mut out, *node);
            }
            Question::Lease(node, applied) => {
                out.push(5);
                put_u64(&mut out, *node);
                put_u64(&mut out, applied.0);
            }
            Question::Status => out.push(40),
            Question::Cancel(key) => {
                out.push(41);
                put_bytes(&mut out, key);
            }
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Question, Malformed> {
        let mut reader = Reader::new(bytes);
        let question = match reader.u8()? {
            1 => return Ok(Question::Log(bytes.slice(1..))),
            6 => return Ok(Question::Ask(bytes.slice(1..))),
            42 => return Ok(Question::Relay(bytes.slice(1..))),
            43 => return Ok(Question::Rows(bytes.slice(1..))),
            7 => Question::Everywhere(LogIndex(reader.u64()?)),
            8 => Question::Process,
            2 => Question::Cluster,
            3 => Question::Join(reader.u64()?, text(&mut reader)?),
            4 => Question::Leave(reader.u64()?),
            5 => Question::Lease(reader.u64()?, LogIndex(reader.u64()?)),
            40 => Question::Status,
            41 => Question::Cancel(bytes.slice_ref(reader.bytes()?)),
            _ => return Err(Malformed("unknown question between nodes")),
        };
        reader.end()?;
        Ok(question)
    }
}

impl Told {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Told::Done => out.push(1),
            Told::Later => out.push(2),
            Told::Elsewhere(None) => out.push(3),
            Told::Elsewhere(Some(address)) => {
                out.push(4);
                put_bytes(&mut out, address.as_bytes());
            }
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Told, Malformed> {
        let mut reader = Reader::new(bytes);
        let told = match reader.u8()? {
            1 => Told::Done,
            2 => Told::Later,
            3 => Told::Elsewhere(None),
            4 => Told::Elsewhere(Some(text(&mut reader)?)),
            _ => return Err(Malformed("unknown answer of a leader")),
        };
        reader.end()?;
        Ok(told)
    }
}

/// A lease, if there is one, and up to where commits have been acknowledged.
pub(crate) fn encode_lease(grant: Option<(Grant, LogIndex)>) -> Bytes {
    let mut out = Vec::new();
    if let Some((grant, acknowledged)) = grant {
        put_u64(&mut out, grant.length_ms);
        put_u64(&mut out, grant.from.0);
        put_u64(&mut out, acknowledged.0);
    }
    out.into()
}

pub(crate) fn decode_lease(bytes: &[u8]) -> Result<Option<(Grant, LogIndex)>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes);
    let grant = Grant {
        length_ms: reader.u64()?,
        from: LogIndex(reader.u64()?),
    };
    let acknowledged = LogIndex(reader.u64()?);
    reader.end()?;
    Ok(Some((grant, acknowledged)))
}

pub(crate) fn encode_number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

pub(crate) fn decode_number(bytes: &[u8]) -> Result<u64, Malformed> {
    Reader::new(bytes).u64()
}

/// Whether it is done.
pub(crate) fn encode_done(done: bool) -> Bytes {
    Bytes::from_static(if done { &[1] } else { &[0] })
}

pub(crate) fn decode_done(bytes: &[u8]) -> bool {
    bytes == [1]
}

fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let bytes = reader.bytes()?.to_vec();
    String::from_utf8(bytes).map_err(|_| Malformed("an address is not text"))
}

/// A question in somebody else's words.
fn carried(kind: u8, question: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + question.len());
    out.put_u8(kind);
    out.extend_from_slice(question);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_back_as_they_went_in() {
        for question in [
            Question::Log(Bytes::from_static(b"append")),
            Question::Cluster,
            Question::Join(7, "ripen-2:6434".to_owned()),
            Question::Leave(7),
            Question::Lease(7, LogIndex(9)),
            Question::Ask(Bytes::from_static(b"hold")),
            Question::Everywhere(LogIndex(9)),
            Question::Process,
            Question::Status,
            Question::Relay(Bytes::from_static(b"what else?")),
            Question::Cancel(Bytes::from_static(b"\0\0\0\x07key")),
            Question::Rows(Bytes::from_static(b"\x01\x01")),
        ] {
            assert_eq!(Question::decode(&question.encode()), Ok(question));
        }
        for told in [
            Told::Done,
            Told::Later,
            Told::Elsewhere(None),
            Told::Elsewhere(Some("ripen-1:6434".to_owned())),
        ] {
            assert_eq!(Told::decode(&told.encode()), Ok(told));
        }
        let grant = Grant {
            length_ms: 300,
            from: LogIndex(8),
        };
        for lease in [None, Some((grant, LogIndex(9)))] {
            assert_eq!(decode_lease(&encode_lease(lease)), Ok(lease));
        }
        assert_eq!(decode_number(&encode_number(7)), Ok(7));
        assert_eq!(
            [true, false].map(|done| decode_done(&encode_done(done))),
            [true, false]
        );
        assert!(Question::decode(&Bytes::from_static(b"")).is_err());
    }
}
