//! The log's errors, as its callers meet them. Never formatted for clients here.

use std::path::PathBuf;
use std::sync::Arc;

/// Why the log cannot do what it was asked. Cheap to clone: one failure is told to everybody who waits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// A read, write or sync failed. What is on disk is unknown, so nothing more is acknowledged; restart the process to find out.
    #[error("log storage failed: could not {action} \"{path}\": {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// There is no room for more log. Nothing that needed it was acknowledged.
    #[error("log storage is full: could not {action} \"{path}\"", path = path.display())]
    Full {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
    },
    /// A file holds what was never written so. Never repaired silently.
    #[error("log file \"{path}\" is damaged at byte {offset}: {detail}", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A file was written by a version of Ripen that this one does not know.
    #[error("log file \"{path}\" has format version {found}, this program reads version {known}", path = path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The only version this program reads.
        known: u32,
    },
    /// Another process uses the directory.
    #[error("log directory \"{dir}\" is in use by another process", dir = dir.display())]
    Locked {
        /// Which directory.
        dir: PathBuf,
    },
    /// The state machine refused its snapshot.
    #[error("state could not be restored from the snapshot at log index {index}: {detail}")]
    Restore {
        /// The snapshot's last index.
        index: u64,
        /// What the machine said.
        detail: String,
    },
    /// Consensus failed, or its state contradicts itself.
    #[error("log consensus failed: {detail}")]
    Consensus {
        /// What it said.
        detail: String,
    },
    /// The command is larger than a record may be. Nothing was proposed.
    #[error("a change of {bytes} bytes is too large for the log")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// Leadership was lost after the proposal was written: another leader may have committed it or not.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
    /// Another node leads. Nothing was proposed.
    #[error("this node does not lead the log")]
    NotLeader,
    /// The log was shut down before the proposal was known to be durable: it may or may not be found after a restart.
    #[error("log is shut down")]
    Stopped,
}

impl LogError {
    /// The SQLSTATE a client should see.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            LogError::Io { .. } => "58030",
            LogError::Full { .. } => "53100",
            LogError::Damaged { .. } => "XX001",
            LogError::Version { .. } | LogError::Locked { .. } => "55000",
            LogError::Restore { .. } | LogError::Consensus { .. } => "XX000",
            LogError::TooLarge { .. } => "54000",
            LogError::Unknown => "08007",
            LogError::NotLeader | LogError::Stopped => "57P01",
        }
    }

    /// Whether proposing the same again, on the node that leads then, is safe and may succeed. False where the outcome is unknown.
    pub fn retry(&self) -> bool {
        matches!(self, LogError::NotLeader)
    }

    /// An IO error with its place; a full disk is told apart.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> LogError {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let path = path.into();
        match source.kind() {
            StorageFull | QuotaExceeded => LogError::Full { action, path },
            _ => LogError::Io {
                action,
                path,
                source: Arc::new(source),
            },
        }
    }
}
