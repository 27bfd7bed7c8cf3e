//! Transactions that go on without their sessions: what they hold stays held until they have ended.
//!
//! - Whose connection was lost: until its backend is gone, for it may still carry out a COMMIT that is on its way. Behind another pooler the number in
//!   BackendKeyData is none of Postgres's: as if the backend were gone.
//! - Which was prepared: until nothing is prepared under its name any more, whoever ended it.
//!
//! Does; the grid decides what the end of a hold means.

use super::{Engine, Holds};
use crate::limits;
use ripen_cachestore::backends::BackendPid;
use ripen_cachestore::{Store, StoreError};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What the keeper of them is told.
pub enum Word {
    /// One more.
    Keep(Outliving),
    /// One of them may just have ended.
    Look,
}

/// One of them.
pub struct Outliving {
    holds: Holds,
    /// Where it may still run.
    backend: Option<Backend>,
}

struct Backend {
    pid: BackendPid,
    /// When it started, as seen first.
    started: Option<String>,
}

impl Backend {
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

impl Outliving {
    pub(super) fn new(holds: Holds, backend: Option<BackendPid>) -> Outliving {
        let backend = backend.map(|pid| Backend { pid, started: None });
        Outliving { holds, backend }
    }

    /// Whether it goes on, given who lived, and what was prepared after that.
    fn goes_on(
        &mut self,
        living: &HashMap<BackendPid, Option<String>>,
        prepared: &BTreeSet<String>,
    ) -> bool {
        let lives = |backend: &mut Backend| backend.lives(living.get(&backend.pid));
        if self.backend.as_mut().is_some_and(lives) {
            return true;
        }
        self.backend = None;
        !self.holds.prepared.is_disjoint(prepared)
    }
}

/// Ends the holds as their transactions end. What is left when it stops is dropped, which ends them too: no client is served any more.
pub async fn end_outliving(
    engine: Arc<Engine>,
    store: Store,
    mut words: mpsc::UnboundedReceiver<Word>,
    stop: CancellationToken,
) {
    let mut kept: Vec<Outliving> = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            word = words.recv() => match word {
                Some(Word::Keep(more)) => kept.push(more),
                Some(Word::Look) => {}
                None => return,
            },
            () = tokio::time::sleep(limits::OUTLIVING_POLL), if !kept.is_empty() => {}
        }
        if let Err(error) = end_some(&engine, &store, &mut kept).await {
            tracing::debug!(%error, "cannot ask which transactions go on");
            // Not in a circle while more of them come in.
            tokio::time::sleep(limits::OUTLIVING_POLL).await;
        }
    }
}

async fn end_some(
    engine: &Engine,
    store: &Store,
    kept: &mut Vec<Outliving>,
) -> Result<(), StoreError> {
    let backends = kept.iter().filter_map(|one| one.backend.as_ref());
    let backends: Vec<BackendPid> = backends.map(|backend| backend.pid).collect();
    let living = store.living(&backends).await?.into_iter().collect();
    let prepared = if kept.iter().all(|one| one.holds.prepared.is_empty()) {
        BTreeSet::new()
    } else {
        store.prepared_names().await?
    };
    let over = kept.extract_if(.., |one| !one.goes_on(&living, &prepared));
    let mut over: Vec<Outliving> = over.collect();
    // What they may have prepared is held before they end.
    if over.iter().any(|one| one.holds.unread)
        && let Err(error) = adopt_unknown(engine, store, kept).await
    {
        kept.append(&mut over);
        return Err(error);
    }
    for one in over {
        engine.end(one.holds, true).await;
    }
    Ok(())
}

async fn adopt_unknown(
    engine: &Engine,
    store: &Store,
    kept: &mut Vec<Outliving>,
) -> Result<(), StoreError> {
    let known: BTreeSet<String> = kept
        .iter()
        .flat_map(|one| one.holds.prepared.iter().cloned())
        .collect();
    for prepared in store.prepared().await? {
        if !known.contains(&prepared.gid) {
            let holds = engine.adopt(prepared).await;
            kept.push(Outliving::new(holds, None));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> Backend {
        Backend {
            pid: BackendPid(7),
            started: None,
        }
    }

    #[test]
    fn a_process_that_got_the_number_later_is_another_one() {
        let mut lost = backend();
        let (first, second) = (Some("08:00".to_owned()), Some("09:00".to_owned()));
        assert!(lost.lives(Some(&first)));
        assert!(lost.lives(Some(&first)));
        assert!(!lost.lives(Some(&second)));
        assert!(!lost.lives(None));
    }

    #[test]
    fn a_start_that_may_not_be_seen_says_nothing() {
        let mut lost = backend();
        assert!(lost.lives(Some(&None)));
        assert!(!lost.lives(None));
    }

    #[test]
    fn what_may_be_prepared_goes_on_after_its_backend() {
        let mut holds = Holds::default();
        holds.prepared.insert("x".to_owned());
        let mut one = Outliving::new(holds, Some(BackendPid(7)));
        let (none, living) = (HashMap::new(), HashMap::from([(BackendPid(7), None)]));
        let (nothing, x) = (BTreeSet::new(), BTreeSet::from(["x".to_owned()]));
        assert!(one.goes_on(&living, &nothing));
        assert!(one.goes_on(&none, &x));
        assert!(!one.goes_on(&none, &nothing));
    }
}
