//! The way to the other nodes' logs, as openraft wants it. Never retries; openraft does.

use super::ballots::Ballots;
use super::disk::DiskFile;
use super::limits::{PEER_BACKOFF, SNAPSHOT_CHUNK_BYTES};
use super::messages::{Chunk, Request, Response};
use super::raft::{CommittedLeaderId, Membership, Types, Vote};
use super::snapshots::SnapshotFile;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Carries questions to other nodes and their answers back. The other side gives them to [`super::Log::answer`].
pub trait Peers: Send + Sync + 'static {
    /// Asks a node. Fails when no answer came within `patience`; the question may have arrived all the same. Must be cancel safe.
    fn ask(
        &self,
        node: u64,
        address: &str,
        question: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, io::Result<Bytes>>;
}

/// Of a node without others: nobody is ever reached.
pub(crate) struct Nobody;

impl Peers for Nobody {
    fn ask(&self, _: u64, _: &str, _: Bytes, _: Duration) -> BoxFuture<'static, io::Result<Bytes>> {
        Box::pin(async { Err(io::ErrorKind::NotConnected.into()) })
    }
}

/// Where members are reached by now: openraft goes on with the address that a member had when the way was made.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<Mutex<BTreeMap<u64, String>>>);

impl Addresses {
    /// The membership has changed.
    pub(crate) fn learn(&self, membership: &Membership) {
        let nodes = membership.nodes();
        *self.0.lock() = nodes.map(|(id, node)| (*id, node.addr.clone())).collect();
    }
}

/// Makes ways to nodes.
pub(crate) struct Network {
    pub peers: Arc<dyn Peers>,
    pub disk: Arc<dyn super::disk::Disk>,
    pub addresses: Addresses,
    pub ballots: Option<Arc<Ballots>>,
}

/// The way to one node.
pub(crate) struct Way {
    peers: Arc<dyn Peers>,
    disk: Arc<dyn super::disk::Disk>,
    node: u64,
    first_address: String,
    addresses: Addresses,
    ballots: Option<Arc<Ballots>>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Way {
        Way {
            peers: self.peers.clone(),
            disk: self.disk.clone(),
            node: target,
            first_address: node.addr.clone(),
            addresses: self.addresses.clone(),
            ballots: self.ballots.clone(),
        }
    }
}

impl Way {
    async fn ask(&self, request: &Request, option: &RPCOption) -> io::Result<Response> {
        let question = request.encode();
        let patience = option.soft_ttl();
        let address = self.addresses.0.lock().get(&self.node).cloned();
        let address = address.as_ref().unwrap_or(&self.first_address);
        let answer = self.peers.ask(self.node, address, question, patience);
        Response::decode(&answer.await?).map_err(io::Error::other)
    }

    async fn send_file(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
        option: &RPCOption,
    ) -> io::Result<Vote> {
        let file = self.disk.open(&snapshot.snapshot.0)?;
        let length = file.length()?;
        let mut offset = 0;
        loop {
            let bytes = read_chunk(&*file, offset, length)?;
            let next = offset + bytes.len() as u64;
            let chunk = Request::Snapshot(Chunk {
                vote,
                meta: snapshot.meta.clone(),
                offset,
                length,
                bytes,
            });
            let Response::Snapshot(theirs) = self.ask(&chunk, option).await? else {
                return Err(unexpected());
            };
            if next == length || theirs > vote {
                return Ok(theirs);
            }
            offset = next;
        }
    }
}

/// A few milliseconds of reading at most.
fn read_chunk(file: &dyn DiskFile, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; SNAPSHOT_CHUNK_BYTES.min((length - offset) as usize)];
    file.read_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, BasicNode, SnapshotFile>;

fn unexpected() -> io::Error {
    io::Error::other("the answer does not belong to the question")
}

fn failed(error: io::Error) -> RPCError<Types> {
    match error.kind() {
        io::ErrorKind::TimedOut => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

/// The answer, if it is of the kind that was asked for.
fn told<T>(
    answer: io::Result<Response>,
    kind: impl FnOnce(Response) -> Option<T>,
) -> Result<T, RPCError<Types>> {
    let told = answer.and_then(|response| kind(response).ok_or_else(unexpected));
    told.map_err(failed)
}

impl RaftNetworkV2<Types> for Way {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let term = request.vote.leader_id.term;
        let answer = self.ask(&Request::Append(request), &option).await;
        if let Some(ballots) = &self.ballots {
            ballots.confirmed(term, Instant::now());
        }
        told(answer, |response| match response {
            Response::Append(response) => Some(response),
            _ => None,
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        if let Some(ballots) = &self.ballots {
            ballots.stand(request.vote.leader_id.term, request.leadership_transfer);
        }
        let answer = self.ask(&Request::Vote(request), &option).await;
        told(answer, |response| match response {
            Response::Vote(response) => Some(response),
            _ => None,
        })
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.ask(&Request::PreVote(request), &option).await;
        told(answer, |response| match response {
            Response::Vote(response) => Some(response),
            _ => None,
        })
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_file(vote, &snapshot, &option) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let answer = self.ask(&Request::TransferLeader(request), &option).await;
        told(answer, |response| match response {
            Response::TransferLeader(response) => Some(response),
            _ => None,
        })
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(PEER_BACKOFF)))
    }
}
