//! The types that openraft is used with, and their conversions. Never does IO.

use super::command::{Command, Entry};
use super::wal::{Kind, Record};
use bytes::Bytes;
use openraft::impls::{BasicNode, BoxedErrorSource, InlineBatch, leader_id_std};
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use parking_lot::Mutex;
use ripen_cachestore::change::codec::{self, Malformed};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// openraft's parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Batch, u64, BasicNode>;
pub(crate) type RaftEntry = openraft::Entry<CommittedLeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, BasicNode>;

#[allow(
    deprecated,
    reason = "the same type by its other path would be one more direct dependency"
)]
type Runtime = openraft::impls::TokioRuntime;

impl openraft::RaftTypeConfig for Types {
    type D = Batch;
    /// Whether the entry counted: see [`Entry::term`].
    type R = bool;
    type NodeId = u64;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = RaftEntry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Answer<T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// Calls back when a proposal has been applied or refused; is dropped when neither will be known.
pub(crate) struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    pub(crate) fn new(answer: impl FnOnce(T) + Send + 'static) -> Answer<T> {
        Answer(Box::new(answer))
    }
}

impl<T: Send + 'static> Responder<Types, T> for Answer<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// The commands of one entry: their stored form, and the commands themselves once they are known, to be applied without decoding.
#[derive(Clone)]
pub(crate) struct Batch {
    bytes: Bytes,
    entry: Arc<Mutex<Option<Entry>>>,
}

impl Batch {
    pub(crate) fn proposed(bytes: Bytes, entry: Entry) -> Batch {
        let entry = Arc::new(Mutex::new(Some(entry)));
        Batch { bytes, entry }
    }

    pub(crate) fn stored(bytes: Bytes) -> Batch {
        let entry = Arc::default();
        Batch { bytes, entry }
    }

    /// Whether it counts only when it is synced, whatever the log's durability. Asked before it is applied; what is malformed is told then.
    pub(crate) fn must_sync(&self) -> bool {
        let mut entry = self.entry.lock();
        if entry.is_none() {
            *entry = super::codec::decode_entry(&self.bytes).ok();
        }
        let commands = entry.iter().flat_map(|entry| &entry.commands);
        commands.into_iter().any(Command::must_sync)
    }

    /// The commands. Clones share them: only the first to ask is spared the decoding.
    pub(crate) fn take(&self) -> Result<Entry, Malformed> {
        let entry = self.entry.lock().take();
        entry.map_or_else(|| super::codec::decode_entry(&self.bytes), Ok)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A log id as the segments have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub term: u64,
    pub index: u64,
}

impl From<&LogId> for Id {
    fn from(id: &LogId) -> Id {
        Id {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<Id> for LogId {
    fn from(id: Id) -> LogId {
        LogId::new(CommittedLeaderId::new(id.term), id.index)
    }
}

/// How a payload is stored.
pub(crate) fn encode_payload(payload: &Payload) -> (Kind, Bytes) {
    match payload {
        Payload::Blank => (Kind::Blank, Bytes::new()),
        Payload::Normal(batch) => (Kind::Normal, batch.bytes.clone()),
        Payload::Membership(membership) => (Kind::Membership, encode_membership(membership).into()),
    }
}

/// The entry that a record stores; records that are no entries are malformed here.
pub(crate) fn decode_entry(record: &Record<'_>) -> Result<RaftEntry, Malformed> {
    let payload = match record.kind {
        Kind::Blank => Payload::Blank,
        Kind::Normal => Payload::Normal(Batch::stored(Bytes::copy_from_slice(record.payload))),
        Kind::Membership => Payload::Membership(decode_membership(record.payload)?),
        _ => return Err(Malformed("not an entry")),
    };
    let id = Id {
        term: record.term,
        index: record.index,
    };
    Ok(RaftEntry {
        log_id: id.into(),
        payload,
    })
}

/// Layout: version 1, joint configurations (each its node ids), nodes (id, address).
pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let mut out = vec![1];
    codec::put_many(&mut out, membership.get_joint_config(), |out, config| {
        let ids: Vec<u64> = config.iter().copied().collect();
        codec::put_many(out, &ids, |out, id| codec::put_u64(out, *id));
    });
    let nodes: Vec<_> = membership.nodes().collect();
    codec::put_many(&mut out, &nodes, |out, (id, node)| {
        codec::put_u64(out, **id);
        codec::put_bytes(out, node.addr.as_bytes());
    });
    out
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, Malformed> {
    let mut reader = codec::Reader::new(bytes);
    if reader.u8()? != 1 {
        return Err(Malformed("unknown membership version"));
    }
    let configs = reader.many(|reader| {
        let ids = reader.many(codec::Reader::u64)?;
        Ok(ids.into_iter().collect::<BTreeSet<u64>>())
    })?;
    let nodes = reader.many(|reader| {
        let id = reader.u64()?;
        let address = String::from_utf8(reader.bytes()?.to_vec());
        let addr = address.map_err(|_| Malformed("node address is not text"))?;
        Ok((id, BasicNode { addr }))
    })?;
    reader.end()?;
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: BTreeMap<u64, BasicNode> = nodes.into_iter().collect();
    Membership::new(configs, nodes).map_err(|_| Malformed("membership contradicts itself"))
}

/// An id is a byte (0: none) and, after 1, term and index.
pub(crate) fn put_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.push(u8::from(id.is_some()));
    if let Some(id) = id.map(Id::from) {
        codec::put_u64(out, id.term);
        codec::put_u64(out, id.index);
    }
}

pub(crate) fn id(reader: &mut codec::Reader<'_>) -> Result<Option<LogId>, Malformed> {
    if !reader.bool()? {
        return Ok(None);
    }
    let (term, index) = (reader.u64()?, reader.u64()?);
    Ok(Some(Id { term, index }.into()))
}

/// Layout: last id, the membership's id, the membership with its length before it.
pub(crate) fn put_meta(out: &mut Vec<u8>, meta: &SnapshotMeta) {
    put_id(out, meta.last_log_id.as_ref());
    put_id(out, meta.last_membership.log_id().as_ref());
    codec::put_bytes(out, &encode_membership(meta.last_membership.membership()));
}

pub(crate) fn meta(reader: &mut codec::Reader<'_>) -> Result<SnapshotMeta, Malformed> {
    let last_log_id = id(reader)?;
    let membership_id = id(reader)?;
    let membership = decode_membership(reader.bytes()?)?;
    Ok(SnapshotMeta {
        last_log_id,
        last_membership: StoredMembership::new(membership_id, membership),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::codec::{encode_command, encode_entry};
    use crate::log::{FlushEnd, FlushScope, FlushStart};
    use ripen_cachestore::change::FlushSeq;

    fn stored(command: &Command) -> Batch {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, command);
        Batch::stored(encode_entry(7, 0, 1, &bytes))
    }

    #[test]
    fn the_start_of_a_flush_is_synced_on_every_node() {
        let start = Command::FlushStart(FlushStart {
            seq: FlushSeq(1),
            cutoff_ms: 0,
            scope: FlushScope::All,
            rows_max: 1,
        });
        let batch = stored(&start);
        assert!(batch.must_sync());
        assert_eq!(batch.take().unwrap().commands, [start]);
        let end = Command::FlushEnd(FlushEnd {
            seq: FlushSeq(1),
            applied: true,
            dead: Vec::new(),
        });
        assert!(!stored(&end).must_sync());
    }
}
