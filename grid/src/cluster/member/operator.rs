//! What whoever runs a node may ask of it: how it and its cluster are, to let another lead, to go. Does; what is safe, `status` decides.

use super::{CONTROL_LANE, Member, Shared};
use crate::cluster::control::{Question, Told};
use crate::cluster::limits::{ASK_PATIENCE, HAND_OVER_PERIOD, JOIN_PERIOD};
use crate::cluster::status::{MemberStatus, Seen, Unsafe, Whereabouts};
use crate::log::{Log, LogError};
use std::sync::Arc;
use std::time::Duration;

/// A member's operator. Outlives it: then nobody leads, and nothing is asked any more. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    shared: Arc<Shared>,
    log: Log,
}

/// Why nobody else leads.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no other voter.
    #[error("no other node has a voice: there is nobody to lead instead")]
    Alone,
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Member {
    /// The way to ask this node from outside.
    pub fn operator(&self) -> Operator {
        Operator {
            shared: self.shared.clone(),
            log: self.log.clone(),
        }
    }
}

impl Operator {
    /// What this node knows by itself, at once.
    pub fn status(&self) -> MemberStatus {
        self.shared.status(&self.log)
    }

    /// What this node knows, with what the leader sees of the members if it answers in time; and whether one more node may be lost. Cancel safe.
    pub async fn view(&self) -> (MemberStatus, Result<(), Unsafe>) {
        let own = self.status();
        if own.leads {
            let safe = own.safe();
            return (own, safe);
        }
        match self.leaders(&own).await {
            Ok(leaders) => {
                let safe = leaders.safe();
                (own.completed(leaders), safe)
            }
            Err(unknown) => (own, Err(unknown)),
        }
    }

    /// Whether one more node may be lost. Cancel safe.
    ///
    /// # Errors
    /// Why not; also when the leader cannot be asked.
    pub async fn safe(&self) -> Result<(), Unsafe> {
        self.view().await.1
    }

    async fn leaders(&self, own: &MemberStatus) -> Result<MemberStatus, Unsafe> {
        let others = own.leader.as_ref().filter(|leader| leader.node != own.node);
        let leader = others.ok_or(Unsafe::NoLeader)?;
        let silent = || Unsafe::Silent {
            node: leader.node,
            address: leader.address.clone(),
        };
        let address = leader.address.as_deref().ok_or_else(silent)?;
        let question = Question::Status.encode();
        let links = &self.shared.links;
        let asked = links.ask(
            Some(leader.node),
            address,
            CONTROL_LANE,
            question,
            ASK_PATIENCE,
        );
        let answer = asked.await.map_err(|_| silent())?;
        serde_json::from_slice(&answer).map_err(|_| silent())
    }

    /// Lets another lead if this node does, and returns when another is known to. Tries again for as long as nobody could: to be bounded by the caller. Cancel safe.
    ///
    /// # Errors
    /// When there is nobody who ever could, or the log has ended.
    pub async fn drain(&self) -> Result<(), DrainError> {
        let mut leadership = self.log.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            if now.leader.is_some_and(|leader| leader != self.shared.node) {
                return Ok(());
            }
            if now.here {
                self.hand_over().await?;
            }
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() {
                    return Err(LogError::Stopped.into());
                },
                () = tokio::time::sleep(HAND_OVER_PERIOD) => {}
            }
        }
    }

    async fn hand_over(&self) -> Result<(), DrainError> {
        let status = self.status();
        if status.voters().all(|seen| seen.node == status.node) {
            return Err(DrainError::Alone);
        }
        if let Some(heir) = status.heir() {
            tracing::info!(heir, "another node is asked to lead");
            self.log.hand_over(heir).await?;
        }
        Ok(())
    }

    /// Asks the others to go on without this node, and returns when they do. It is to be closed then, and its directory is of no more use. Cancel safe.
    pub async fn leave(&self) {
        let node = self.shared.node;
        let question = Question::Leave(node);
        loop {
            let mut others = self.log.members().addresses;
            if others.remove(&node).is_none() {
                return;
            }
            match self.shared.wish(&self.log, &question).await {
                Some(Told::Done) => return,
                Some(Told::Later) => {}
                // Who is no member any more hears of no leader, nor that it is none: the others know.
                Some(Told::Elsewhere(_)) | None => {
                    if self.shared.search(others.into_values(), &question).await {
                        return;
                    }
                }
            }
            tokio::time::sleep(JOIN_PERIOD).await;
        }
    }
}

impl Shared {
    pub(super) fn status(&self, log: &Log) -> MemberStatus {
        let may_read = self.leases.may_read(log);
        MemberStatus {
            address: self.address.clone(),
            may_read,
            ..MemberStatus::of_log(log)
        }
    }
}

impl MemberStatus {
    /// What a log says. A node alone reads whenever it leads, and has no address.
    pub fn of_log(log: &Log) -> MemberStatus {
        let leadership = *log.leadership().borrow();
        let (members, (last, reach)) = (log.members(), log.reach());
        let own = log.node();
        let here = leadership.here;
        let leader = |node| Whereabouts {
            node,
            address: members.addresses.get(&node).cloned(),
        };
        let seen = |(node, address): (&u64, &String)| {
            let ours = here && *node == own;
            let reach = reach.get(node);
            let silent = reach.and_then(|reach| reach.silent);
            Seen {
                node: *node,
                address: address.clone(),
                votes: members.voters.contains(node),
                silent_ms: if ours { Some(0) } else { silent.map(ms) },
                matched: if ours {
                    Some(last)
                } else {
                    reach.map(|reach| reach.matched)
                },
            }
        };
        MemberStatus {
            node: own,
            address: String::new(),
            leads: here,
            leader: leadership.leader.map(leader),
            term: leadership.term,
            may_read: here,
            last,
            changing: log.changes_voters(),
            members: members.addresses.iter().map(seen).collect(),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
