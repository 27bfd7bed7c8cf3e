//! One Ripen at a time writes behind to a database: claims it before anything else is done there, refuses to start when another has it, and notices when
//! another has taken over. Nodes of one cluster are one Ripen here: they share the claim, and that another of them leads ends nobody.
//! Keeps people from mistakes; that nothing is lost or doubled rests on the epoch and identity in `ripen.progress`.
//!
//! ```text
//! waiting ── lock free ──► claimed ── connection lost ──► waiting again, still serving
//!    └ CLAIM_WAIT over: another Ripen has it → end          └ somebody else leads → end
//! ```

use crate::limits::{CLAIM_PERIOD, CLAIM_WAIT, HOME_POLL};
use ripen_cachestore::claim::{Claim, Claimant};
use ripen_cachestore::progress::{LogIdentity, LogKey, Owner};
use ripen_cachestore::{Store, StoreError};
use ripen_grid::grid::Grid;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Why this Ripen must not go on.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// At the start.
    #[error(
        "another Ripen writes behind to this database: {holder} (backend {backend} of Postgres); stop it first, \
         or, if it is gone and Postgres has not noticed, run SELECT pg_terminate_backend({backend}) there"
    )]
    Taken {
        /// Who, as far as is known.
        holder: String,
        /// Its connection.
        backend: i32,
    },
    /// A former member.
    #[error(
        "this data folder is of no more use: its log ({own:016x}) was recovered by another node after the loss of a majority, and goes on as log {heir:016x}; \
         to let this node join the others, move the folder away and start it with an empty one and \"join\""
    )]
    Succeeded {
        /// The folder's log.
        own: u64,
        /// What was made of it.
        heir: u64,
    },
    /// A node in front of another database than the others.
    #[error(
        "this node's \"upstream\" is not the database of its cluster, whose log ({log:016x}) has never written there: set it as on the other nodes. If it is that database, restored from a          time before the cluster: INSERT INTO ripen.progress (log, identity, epoch, applied) VALUES ({number}, {identity}, 0, 0)"
    )]
    OtherDatabase {
        /// The cluster's log.
        log: u64,
        /// As it stands in `ripen.progress`.
        identity: i64,
        /// Its number.
        number: i32,
    },
    /// Later.
    #[error(
        "another Ripen has taken over the write-behind queue of this database: {0}; what is pending here stays in the data folder, \
         to be written when this one is started again after the other has been stopped"
    )]
    Superseded(String),
}

/// This process and its data folder, in words.
#[derive(Clone, Debug)]
pub struct Holder {
    place: String,
    pid: u32,
}

impl Holder {
    /// The process that has opened that folder.
    pub fn of(folder: &Path) -> Holder {
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.is_empty() {
            "an unknown host"
        } else {
            host.trim()
        };
        Holder {
            place: format!("data folder {} on {host}", folder.display()),
            pid: std::process::id(),
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        format!("{}, pid {}", self.place, self.pid)
    }

    /// Whether somebody leads who came after this process. `led`: whether it had taken over before the owner was asked for; `own`: in which epoch, as seen here.
    /// An owner of before is what a Postgres says that goes on from an earlier past: the next flush takes over again.
    fn superseded(&self, led: bool, own: &mut Option<u64>, owner: &Owner) -> bool {
        if owner.holder == self.words() {
            *own = Some(owner.epoch);
            return false;
        }
        led && own.is_none_or(|own| owner.epoch >= own)
    }

    /// Whether the other must be believed to live. What is told of is the process that led last, not for certain the one that holds the lock.
    /// Who shares it may be any node of a cluster.
    fn fears(&self, claimant: &Claimant) -> bool {
        let owner = claimant.owner.as_ref();
        claimant.of_cluster || !owner.is_some_and(|owner| self.succeeds(&owner.holder))
    }

    /// An earlier process of the same folder: gone for certain, since the folder's lock is ours.
    fn succeeds(&self, other: &str) -> bool {
        other
            .rsplit_once(", pid ")
            .is_some_and(|(place, _)| place == self.place)
    }
}

/// Whether a foreigner leads who came after this cluster, of which nodes lead in turn. `own`: the newest epoch of one of them that was seen. Whoever led before this node
/// has seen its own cluster lead may be somebody of before.
fn supersedes(cluster: LogIdentity, own: &mut Option<u64>, owner: &Owner) -> bool {
    if owner.identity == cluster {
        *own = (*own).max(Some(owner.epoch));
        return false;
    }
    own.is_some_and(|own| owner.epoch >= own)
}

/// The claim's task.
pub struct Claiming {
    /// The system of record.
    pub store: Store,
    /// The log's number.
    pub log_number: i32,
    /// The log's identity, if this process is a node of a cluster.
    pub cluster: Option<LogIdentity>,
    /// This process.
    pub holder: Holder,
    /// Has taken over once its queue is settled.
    pub grid: Arc<Grid>,
    /// Becomes true when the database may be worked on.
    pub claimed: watch::Sender<bool>,
}

impl Claiming {
    /// Runs until stopped; ends by itself only when this Ripen must not go on. Gives the claim up when dropped.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ClaimError> {
        let ended = stop.run_until_cancelled(self.keep()).await;
        ended.unwrap_or(Ok(()))
    }

    async fn keep(&self) -> Result<(), ClaimError> {
        let (mut refused_since, mut own, mut at_home) = (None, None, false);
        loop {
            let lost = match self.connect().await {
                Ok(claim) if !at_home => match self.find_home(&claim).await? {
                    Ok(()) => {
                        at_home = true;
                        self.hold(&claim, &mut refused_since, &mut own).await?
                    }
                    Err(error) => error,
                },
                Ok(claim) => self.hold(&claim, &mut refused_since, &mut own).await?,
                Err(error) => error,
            };
            tracing::debug!(error = %lost, "the claim on the database is to be made anew");
            sleep(CLAIM_PERIOD).await;
        }
    }

    async fn connect(&self) -> Result<Claim, StoreError> {
        let number = self.log_number;
        match self.cluster {
            None => self.store.claim(number).await,
            Some(identity) => {
                let formers = self.grid.queues[0].schedule.formers();
                let log = LogKey { number, identity };
                self.store.claim_as_member(log, &formers).await
            }
        }
    }

    /// Waits until the database is known to be that of the log, which only a node among several can doubt. The inner error is Postgres's: the claim's connection is lost then.
    async fn find_home(&self, claim: &Claim) -> Result<Result<(), StoreError>, ClaimError> {
        let (Some(identity), Some(member)) = (self.cluster, self.grid.member()) else {
            return Ok(Ok(()));
        };
        let mut foreign_since = None;
        loop {
            if let Some(lost) = self.check_succession(claim).await? {
                return Ok(Err(lost));
            }
            if self.grid.queues[0].schedule.taken_over() {
                match claim.is_known().await {
                    Ok(true) => return Ok(Ok(())),
                    Ok(false) => {}
                    Err(error) => return Ok(Err(error)),
                }
                // The leader may just be at it, in a database that has been restored.
                let since = foreign_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= CLAIM_WAIT {
                    return Err(ClaimError::OtherDatabase {
                        log: identity.0,
                        identity: identity.stored(),
                        number: self.log_number,
                    });
                }
            } else if member.leadership().borrow().here {
                // The first one ever.
                return Ok(Ok(()));
            }
            sleep(HOME_POLL).await;
        }
    }

    /// Takes the claim and looks after it until its connection is lost.
    async fn hold(
        &self,
        claim: &Claim,
        refused_since: &mut Option<Instant>,
        own: &mut Option<u64>,
    ) -> Result<StoreError, ClaimError> {
        let mut taken = false;
        loop {
            if let Some(lost) = self.check_succession(claim).await? {
                return Ok(lost);
            }
            if !taken {
                taken = match claim.take().await {
                    Ok(None) => true,
                    Ok(Some(claimant)) => {
                        self.wait(claimant, refused_since)?;
                        false
                    }
                    Err(error) => return Ok(error),
                };
            }
            if taken {
                // Nobody may be listening any more.
                let _ = self.claimed.send(true);
            }
            let led = self.grid.settled();
            match claim.owner().await {
                Ok(Some(owner)) if self.superseded(led, own, &owner) => {
                    return Err(ClaimError::Superseded(owner.holder));
                }
                Ok(_) => {}
                Err(error) => return Ok(error),
            }
            sleep(CLAIM_PERIOD).await;
        }
    }

    /// Ends a former member of a cluster that was recovered. An error of Postgres is answered: the claim's connection is lost then.
    async fn check_succession(&self, claim: &Claim) -> Result<Option<StoreError>, ClaimError> {
        let Some(identity) = self.cluster else {
            return Ok(None);
        };
        let number = self.log_number;
        match claim.successor(LogKey { number, identity }).await {
            Ok(None) => Ok(None),
            Ok(Some(heir)) => Err(ClaimError::Succeeded {
                own: identity.0,
                heir: heir.0,
            }),
            Err(error) => Ok(Some(error)),
        }
    }

    fn superseded(&self, led: bool, own: &mut Option<u64>, owner: &Owner) -> bool {
        match self.cluster {
            None => self.holder.superseded(led, own, owner),
            Some(cluster) => supersedes(cluster, own, owner),
        }
    }

    /// Somebody else has it. Who has worked already goes on: the other may be a remnant of its own, and if not, it will lead and that is noticed.
    fn wait(
        &self,
        claimant: Claimant,
        refused_since: &mut Option<Instant>,
    ) -> Result<(), ClaimError> {
        let since = *refused_since.get_or_insert_with(Instant::now);
        if *self.claimed.borrow() || since.elapsed() < CLAIM_WAIT {
            return Ok(());
        }
        if self.holder.fears(&claimant) {
            let unknown = || "one that has not said where it runs".to_owned();
            return Err(ClaimError::Taken {
                backend: claimant.backend,
                holder: claimant.owner.map_or_else(unknown, |owner| owner.holder),
            });
        }
        let backend = claimant.backend;
        tracing::warn!(
            backend,
            "Postgres still has a connection of this data folder's last process; going on without the lock that keeps a second Ripen out"
        );
        let _ = self.claimed.send(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: LogIdentity = LogIdentity(1);

    fn holder() -> Holder {
        let place = "data folder /a on h".to_owned();
        Holder { place, pid: 7 }
    }

    fn owner(holder: &str, epoch: u64) -> Owner {
        Owner {
            epoch,
            holder: holder.to_owned(),
            identity: OWN,
        }
    }

    #[test]
    fn only_who_has_led_can_be_superseded() {
        let mut own = None;
        for other in ["data folder /b on h, pid 3", "data folder /a on h, pid 8"] {
            assert!(holder().superseded(true, &mut own, &owner(other, 1)));
            assert!(!holder().superseded(false, &mut own, &owner(other, 1)));
        }
        assert!(!holder().superseded(true, &mut own, &owner(&holder().words(), 1)));
    }

    #[test]
    fn who_led_before_supersedes_nobody() {
        let (mut own, other) = (None, "data folder /b on h, pid 3");
        assert!(!holder().superseded(true, &mut own, &owner(&holder().words(), 5)));
        assert!(!holder().superseded(true, &mut own, &owner(other, 4)));
        assert!(holder().superseded(true, &mut own, &owner(other, 5)));
    }

    #[test]
    fn other_nodes_of_the_cluster_supersede_nobody() {
        let (mut own, other) = (None, "data folder /b on h, pid 3");
        for epoch in [5, 6, 4] {
            assert!(!supersedes(OWN, &mut own, &owner(other, epoch)));
        }
        let foreign = |epoch| Owner {
            identity: LogIdentity(2),
            ..owner(other, epoch)
        };
        assert!(!supersedes(OWN, &mut own, &foreign(5)));
        assert!(supersedes(OWN, &mut own, &foreign(6)));
        assert!(!supersedes(OWN, &mut None, &foreign(6)));
    }

    #[test]
    fn only_the_last_process_of_the_same_folder_is_known_to_be_gone() {
        let claimant = |holder: Option<&str>| Claimant {
            backend: 1,
            of_cluster: false,
            owner: holder.map(|holder| owner(holder, 1)),
        };
        let holder = holder();
        assert!(!holder.fears(&claimant(Some("data folder /a on h, pid 6"))));
        assert!(holder.fears(&claimant(Some("data folder /a on other, pid 6"))));
        assert!(holder.fears(&claimant(Some("data folder /b on h, pid 6"))));
        assert!(holder.fears(&claimant(None)));
        let of_cluster = Claimant {
            of_cluster: true,
            ..claimant(Some("data folder /a on h, pid 6"))
        };
        assert!(holder.fears(&of_cluster));
    }
}
