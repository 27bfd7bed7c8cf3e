//! Transactions whose connection was lost: what they hold stays held until their backend is gone, for it may still carry out a COMMIT that is on its way.
//! Does; the grid decides what the end of a hold means.
//!
//! Behind another pooler the number in BackendKeyData is none of Postgres's: the hold ends at once then, as if the backend were gone.

use super::{Engine, Holds};
use crate::limits;
use ripen_cachestore::Store;
use ripen_cachestore::backends::BackendPid;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One of them.
pub struct Lost {
    pub(super) holds: Holds,
    pub(super) backend: BackendPid,
    /// When the backend started, as seen first.
    started: Option<String>,
}

impl Lost {
    pub(super) fn new(holds: Holds, backend: BackendPid) -> Lost {
        Lost {
            holds,
            backend,
            started: None,
        }
    }

    /// Whether it still lives, given the start of the process that has its number now. Another process may have got it meanwhile.
    fn lives(&mut self, found: Option<&Option<String>>) -> bool {
        let Some(started) = found else {
            return false;
        };
        if self.started.is_none() {
            self.started.clone_from(started);
        }
        self.started == *started
    }
}

/// Ends the holds as their backends go. What is left when it stops is dropped, which ends them too: no client is served any more.
pub async fn release_lost(
    engine: Arc<Engine>,
    store: Store,
    mut lost: mpsc::UnboundedReceiver<Lost>,
    stop: CancellationToken,
) {
    let mut waiting: Vec<Lost> = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            more = lost.recv() => match more {
                Some(more) => waiting.push(more),
                None => return,
            },
            () = tokio::time::sleep(limits::LOST_POLL), if !waiting.is_empty() => {}
        }
        let backends: Vec<BackendPid> = waiting.iter().map(|lost| lost.backend).collect();
        let living: HashMap<_, _> = match store.living(&backends).await {
            Ok(living) => living.into_iter().collect(),
            Err(error) => {
                tracing::debug!(%error, "cannot ask which backends live");
                // Not in a circle while more of them come in.
                tokio::time::sleep(limits::LOST_POLL).await;
                continue;
            }
        };
        let gone = waiting.extract_if(.., |lost| !lost.lives(living.get(&lost.backend)));
        for lost in gone.collect::<Vec<_>>() {
            engine.end(lost.holds, true).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_got_the_number_later_is_another_one() {
        let mut lost = Lost::new(Holds::default(), BackendPid(7));
        let (first, second) = (Some("08:00".to_owned()), Some("09:00".to_owned()));
        assert!(lost.lives(Some(&first)));
        assert!(lost.lives(Some(&first)));
        assert!(!lost.lives(Some(&second)));
        assert!(!lost.lives(None));
    }

    #[test]
    fn a_start_that_may_not_be_seen_says_nothing() {
        let mut lost = Lost::new(Holds::default(), BackendPid(7));
        assert!(lost.lives(Some(&None)));
        assert!(!lost.lives(None));
    }
}
