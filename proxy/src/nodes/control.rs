//! What may be asked of this node from outside: how it and its cluster are, to let another lead, to go for good. Asks the log or the member; decides nothing.

use crate::config::units::show_duration;
use crate::limits::{
    GIVE_BACK_WAIT, NODE_DRAIN_WAIT, NODE_LEAVE_PERIOD, NODE_LEAVE_WAIT, SHUTDOWN_TIMEOUT,
};
use crate::registry::Registry;
use futures_util::future::BoxFuture;
use ripen_grid::cluster::status::{MemberStatus, Unsafe};
use ripen_grid::cluster::{DrainError, Operator};
use ripen_grid::log::Log;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A node's controls.
pub trait NodeControl: Send + Sync {
    /// What this node knows by itself, at once.
    fn status(&self) -> MemberStatus;

    /// What this node and its leader know together, and whether one more node may be lost. Bounded, cancel safe.
    fn view(&self) -> BoxFuture<'_, (MemberStatus, Result<(), Unsafe>)>;

    /// Lets another lead, and takes no new clients. Bounded, cancel safe.
    fn drain(&self) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Goes for good: its clients are sent away, the others go on without this node, which stops then. Bounded; cancelled, it may go or stay.
    fn leave(&self) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Why this node takes no new clients although it could.
    fn not_ready(&self) -> Option<&'static str> {
        None
    }

    /// Whether the others go on without this node.
    fn has_left(&self) -> bool {
        false
    }
}

/// Why a node does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No cluster, or no other node in it.
    #[error("a node alone: there is no other that could go on")]
    Alone,
    /// Not in time.
    #[error("{what} within {}; ask again, or look at the cluster with \"ripen node status\"", show_duration(*patience))]
    Late {
        /// What has not happened.
        what: &'static str,
        /// How long was waited.
        patience: Duration,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] ripen_grid::log::LogError),
}

impl From<DrainError> for ControlError {
    fn from(error: DrainError) -> ControlError {
        match error {
            DrainError::Alone => ControlError::Alone,
            DrainError::Log(error) => ControlError::Log(error),
        }
    }
}

/// What `/node` answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// This node, and the members as its leader sees them.
    #[serde(flatten)]
    pub status: MemberStatus,
    /// Why no further node may be lost; `None`: one may be.
    pub not_safe: Option<String>,
    /// Why this node takes no new clients although it could.
    pub not_ready: Option<String>,
}

impl NodeReport {
    /// Asks a node.
    pub async fn of(node: &dyn NodeControl) -> NodeReport {
        let (status, safe) = node.view().await;
        NodeReport {
            status,
            not_safe: safe.err().map(|reason| reason.to_string()),
            not_ready: node.not_ready().map(str::to_owned),
        }
    }
}

/// A node alone.
pub struct Alone {
    /// Its log.
    pub log: Log,
}

impl NodeControl for Alone {
    fn status(&self) -> MemberStatus {
        MemberStatus::of_log(&self.log)
    }

    fn view(&self) -> BoxFuture<'_, (MemberStatus, Result<(), Unsafe>)> {
        Box::pin(async { (self.status(), Err(Unsafe::Alone)) })
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async { Err(ControlError::Alone) })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async { Err(ControlError::Alone) })
    }
}

/// Waits until the others know that this process holds nothing any more. Cancel safe.
pub type GivenBack = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A member of a cluster.
pub struct Clustered {
    operator: Operator,
    clients: Arc<Registry>,
    given_back: GivenBack,
    /// Whether it was asked to drain or to leave, and nothing has failed since.
    drained: AtomicBool,
    left: AtomicBool,
    /// Ends the process in order.
    stop: CancellationToken,
}

impl Clustered {
    /// `clients`: those who are sent away before the node goes; `stop`: cancelled when it has left.
    pub fn new(
        operator: Operator,
        clients: Arc<Registry>,
        given_back: GivenBack,
        stop: CancellationToken,
    ) -> Clustered {
        Clustered {
            operator,
            clients,
            given_back,
            drained: AtomicBool::new(false),
            left: AtomicBool::new(false),
            stop,
        }
    }

    /// Takes no new clients from now on, unless it does not succeed.
    async fn quietly(
        &self,
        patience: Duration,
        late: &'static str,
        doing: impl Future<Output = Result<(), ControlError>>,
    ) -> Result<(), ControlError> {
        let before = self.drained.swap(true, Ordering::Relaxed);
        let mut draining = Draining((!before).then_some(&self.drained));
        let done = tokio::time::timeout(patience, doing).await;
        done.unwrap_or(Err(ControlError::Late {
            what: late,
            patience,
        }))?;
        draining.0 = None;
        Ok(())
    }

    async fn go(&self) -> Result<(), ControlError> {
        if self.operator.status().members.len() <= 1 {
            return Err(ControlError::Alone);
        }
        // Nobody is sent away for nothing.
        while matches!(
            self.operator.view().await.1,
            Err(Unsafe::NoLeader | Unsafe::Silent { .. })
        ) {
            tokio::time::sleep(NODE_LEAVE_PERIOD).await;
        }
        // Who does not belong any more hears nothing of the log: what its sessions then ask for would stand on the other nodes, and they would wait for it here.
        let away = self.clients.send_away();
        away.complete(SHUTDOWN_TIMEOUT).await;
        // Transactions that outlive their sessions may hold something for long. The leader gives it back when their backends are gone.
        drop(tokio::time::timeout(GIVE_BACK_WAIT, (self.given_back)()).await);
        self.operator.leave().await;
        away.for_good();
        self.left.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// Takes clients again when dropped, cancelled too.
struct Draining<'a>(Option<&'a AtomicBool>);

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        if let Some(drained) = self.0 {
            drained.store(false, Ordering::Relaxed);
        }
    }
}

impl NodeControl for Clustered {
    fn status(&self) -> MemberStatus {
        self.operator.status()
    }

    fn view(&self) -> BoxFuture<'_, (MemberStatus, Result<(), Unsafe>)> {
        Box::pin(self.operator.view())
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async {
            let late = "no other node has taken over";
            let handing_over = async { Ok(self.operator.drain().await?) };
            self.quietly(NODE_DRAIN_WAIT, late, handing_over).await
        })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async {
            let late = "the cluster has not let this node go";
            self.quietly(NODE_LEAVE_WAIT, late, self.go()).await?;
            tracing::info!("this node has left its cluster, and stops");
            self.stop.cancel();
            Ok(())
        })
    }

    fn not_ready(&self) -> Option<&'static str> {
        let drained = self.drained.load(Ordering::Relaxed);
        drained.then_some("drained: waiting to be stopped")
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests;
