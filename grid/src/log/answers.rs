//! What a node's log answers to the others: hands their questions to openraft, and puts snapshots together that arrive in parts.

use super::ballots::Ballots;
use super::disk::DiskFile;
use super::error::LogError;
use super::messages::{Chunk, Request, Response};
use super::open::consensus;
use super::raft::{LogId, Types};
use super::segments::Directory;
use super::snapshots::SnapshotFile;
use super::state::State;
use bytes::Bytes;
use openraft::Raft;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// See the module.
pub(crate) struct Answers {
    raft: Raft<Types, State>,
    directory: Directory,
    ballots: Option<Arc<Ballots>>,
    incoming: Mutex<Option<Incoming>>,
}

/// A snapshot of which the beginning has arrived.
struct Incoming {
    last: Option<LogId>,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    received: u64,
}

impl Answers {
    pub(crate) fn new(
        raft: Raft<Types, State>,
        directory: Directory,
        ballots: Option<Arc<Ballots>>,
    ) -> Answers {
        Answers {
            raft,
            directory,
            ballots,
            incoming: Mutex::default(),
        }
    }

    pub(crate) async fn answer(&self, question: &[u8]) -> Result<Bytes, LogError> {
        let question = Request::decode(question).map_err(consensus)?;
        let raft = &self.raft;
        let response = match question {
            Request::Append(append) => {
                Response::Append(raft.append_entries(append).await.map_err(consensus)?)
            }
            Request::Vote(vote) => {
                self.check(vote.leadership_transfer)?;
                Response::Vote(raft.vote(vote).await.map_err(consensus)?)
            }
            Request::PreVote(vote) => {
                self.check(vote.leadership_transfer)?;
                Response::Vote(raft.pre_vote(vote).await.map_err(consensus)?)
            }
            Request::Snapshot(chunk) => self.take(chunk).await?,
            Request::TransferLeader(transfer) => {
                if let Some(ballots) = &self.ballots {
                    ballots.forget(Instant::now());
                }
                let taken = raft.handle_transfer_leader(transfer).await;
                Response::TransferLeader(taken.map_err(consensus)?)
            }
        };
        Ok(response.encode())
    }

    /// Refuses to vote as long as this node's voice may count for another leader.
    fn check(&self, handed_over: bool) -> Result<(), LogError> {
        let may_vote = |ballots: &Arc<Ballots>| ballots.may_vote(Instant::now());
        match handed_over || self.ballots.as_ref().is_none_or(may_vote) {
            true => Ok(()),
            false => Err(consensus("this node's voice may still count for another")),
        }
    }

    async fn take(&self, chunk: Chunk) -> Result<Response, LogError> {
        let mut incoming = self.incoming.lock().await;
        let last = chunk.meta.last_log_id;
        if chunk.offset == 0 {
            *incoming = Some(self.begin(last)?);
        }
        let Some(file) = incoming
            .as_mut()
            .filter(|file| file.last == last && file.received == chunk.offset)
        else {
            return Err(consensus("a part of a snapshot came out of order"));
        };
        let written = file.file.write_at(&chunk.bytes, chunk.offset);
        written.map_err(|error| LogError::io("write", &file.path, error))?;
        file.received += chunk.bytes.len() as u64;
        if file.received < chunk.length {
            return Ok(Response::Snapshot(chunk.vote));
        }
        let snapshot = openraft::Snapshot {
            meta: chunk.meta,
            snapshot: SnapshotFile(file.path.clone()),
        };
        let installed = self.raft.install_full_snapshot(chunk.vote, snapshot).await;
        if let Some(file) = incoming.take() {
            // The state has read it; at worst it is written over the next time.
            let _ = self.directory.disk.remove(&file.path);
        }
        Ok(Response::Snapshot(installed.map_err(consensus)?.vote))
    }

    fn begin(&self, last: Option<LogId>) -> Result<Incoming, LogError> {
        let path = self.directory.path.join("incoming");
        let file = self.directory.disk.create(&path);
        let file = file.map_err(|error| LogError::io("create", &path, error))?;
        Ok(Incoming {
            last,
            file,
            path,
            received: 0,
        })
    }
}
