//! What a transaction in Postgres holds here, from its first statement that needs it to its end. Does; the grid decides what holds and their ends mean.
//! Never lets a session tell its client of an end before what was held is given back, or kept for those who outlive the session (`outliving.rs`).

use super::outliving::{Outliving, Word};
use super::publisher::Withdrawn;
use super::rewiring::Stay;
use super::{Engine, errors};
use crate::eval::Params;
use crate::plan::{PassPlan, ScopeTemplate, StatementKind, TxControl};
use crate::session::answerer::{Asker, Outcome, Snapshot};
use ripen_cachestore::backends::BackendPid;
use ripen_cachestore::catalog::Epoch;
use ripen_cachestore::prepared::Prepared;
use ripen_grid::grid::{Hold, Holder};
use ripen_grid::scope::Scope;
use ripen_pg::ids::TableOid;
use ripen_pg::sqlstate::ErrorFields;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a session's transaction in Postgres holds: ownership of scopes, and what must happen before its end is acknowledged.
#[derive(Default)]
pub struct Holds {
    holds: Vec<Hold>,
    withdrawn: Vec<Withdrawn>,
    catalog: CatalogChange,
    /// Under these names it may go on without its session.
    pub(super) prepared: BTreeSet<String>,
    /// It may go on under any name: there was a text that nobody read.
    pub(super) unread: bool,
    /// It may have ended one that went on.
    ends_prepared: bool,
    /// The catalog's epoch when it first may have written anything.
    wrote_since: Option<Epoch>,
    stay: Option<Stay<Hold>>,
}

/// Whether its end changes the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum CatalogChange {
    #[default]
    None,
    /// Nobody knows what was prepared.
    Perhaps,
    Surely,
}

impl Holds {
    /// Those of a transaction that was prepared before anybody here knew of it.
    fn adopted(gid: String, hold: Hold, stay: Stay<Hold>) -> Holds {
        Holds {
            holds: vec![hold],
            stay: Some(stay),
            catalog: CatalogChange::Perhaps,
            prepared: [gid].into(),
            ..Holds::default()
        }
    }

    /// One more scope.
    pub(super) fn add(&mut self, hold: Option<Hold>) {
        self.holds.extend(hold);
    }

    fn note(&mut self, plan: &PassPlan) {
        let effects = &plan.effects;
        if effects.ddl || effects.grants {
            self.catalog = CatalogChange::Surely;
        }
        self.prepared.extend(effects.prepared().cloned());
        self.unread |= plan.kind == StatementKind::Unknown;
        if ends_prepared(plan) {
            self.ends_prepared = true;
            self.catalog = self.catalog.max(CatalogChange::Perhaps);
        }
    }
}

/// Alone in its text, or Postgres refuses it.
fn ends_prepared(plan: &PassPlan) -> bool {
    plan.effects.transaction[..] == [TxControl::EndPrepared]
}

impl Engine {
    /// See [`crate::session::answerer::Answerer::enter`].
    pub(super) async fn take_holds(
        &self,
        asker: Asker<'_>,
        plan: &PassPlan,
        params: Option<&Params<'_>>,
        snapshot: Snapshot,
        holds: &mut Holds,
    ) -> Result<(), ErrorFields> {
        self.counters.passed(&plan.reason);
        holds.note(plan);
        let sure = self.is_sure(plan, holds).await?;
        let scope = |template: &ScopeTemplate| match template {
            template if sure || template.is_nothing() => {
                self.scope(template, params, asker.settings)
            }
            _ => Scope::Everything,
        };
        let writes = scope(&plan.writes);
        let withdrawn = self.to_be_withdrawn(plan);
        let covered = holds.holds.iter().any(|hold| hold.covers(&writes));
        let rewires = self.grid.has_peers() && plan.effects.rewires;
        let news = rewires || (self.grid.has_peers() && !withdrawn.is_empty());
        // What others are at by now may touch anything until they end.
        let writes = match rewires && !writes.is_nothing() {
            true => Scope::Everything,
            false => writes,
        };
        if !writes.is_nothing() && (!covered || news) {
            let holder = Holder {
                backend: asker.backend.map(|pid| pid.0),
                rewires: plan.effects.rewires,
                withdrawn: withdrawn.iter().copied().collect(),
            };
            // The flush may be waiting for rows that this very command sets free.
            let hold = match ends_prepared(plan) {
                true => self.grid.seize(writes, holder).await,
                false => self.grid.hold(writes, holder).await,
            };
            let hold = hold.map_err(|error| errors::of_grid(&error))?;
            holds.holds.push(hold);
            if self.grid.has_peers() && sure && !self.is_sure(plan, holds).await? {
                // Another node has changed the schema while it was asked for.
                let holder = Holder {
                    backend: asker.backend.map(|pid| pid.0),
                    ..Holder::default()
                };
                let all = self.grid.hold(Scope::Everything, holder).await;
                let all = all.map_err(|error| errors::of_grid(&error))?;
                holds.holds.push(all);
            }
        }
        if !withdrawn.is_empty() {
            holds
                .withdrawn
                .push(self.publisher.withdraw(withdrawn).await);
        }
        let reads = match snapshot {
            Snapshot::OfStatement => scope(&plan.reads),
            Snapshot::First => Scope::Everything,
            // Constraints look at the newest rows, whatever the snapshot.
            Snapshot::Taken if !plan.writes.is_nothing() => scope(&plan.reads),
            Snapshot::Taken => Scope::Nothing,
        };
        self.barrier(&reads).await
    }

    /// Whether the statement touches what its plan says and no more, as far as others who come through here can tell. Those whose plans the statement makes
    /// unsure hold everything until they end.
    async fn is_sure(&self, plan: &PassPlan, holds: &mut Holds) -> Result<bool, ErrorFields> {
        let stay = holds.stay.get_or_insert_with(|| self.rewiring.begin());
        if plan.effects.rewires {
            let others = stay.rewires();
            if !others.is_empty() {
                let hold = self.grid.hold(Scope::Everything, Holder::default()).await;
                let hold = Arc::new(hold.map_err(|error| errors::of_grid(&error))?);
                others
                    .iter()
                    .for_each(|given| given.lock().push(hold.clone()));
            }
        }
        let met = stay.is_met();
        // In this order: a change that is not met has had the catalog read anew.
        let epoch = self.keeper.epoch();
        if !plan.writes.is_nothing() {
            holds.wrote_since.get_or_insert(epoch);
        }
        let met = met || self.grid.is_rewired_elsewhere();
        Ok(!met && plan.epoch == epoch && self.keeper.is_fresh())
    }

    /// A transaction that has written here goes on in Postgres: whoever changes what statements touch must know of it, and so must its end.
    pub(super) fn at_work(&self, holds: &mut Holds) {
        holds.stay.get_or_insert_with(|| self.rewiring.begin());
        holds.wrote_since.get_or_insert(self.keeper.epoch());
    }

    /// Published tables that the statement may leave without replica identity: they are taken out first, once they are held.
    fn to_be_withdrawn(&self, plan: &PassPlan) -> BTreeSet<TableOid> {
        let tables = plan.effects.unpublish.iter().copied();
        tables.filter(|table| self.cached(*table)).collect()
    }

    /// See [`crate::session::answerer::Answerer::leave`].
    pub(super) async fn give_back(&self, holds: Holds, outcome: Outcome) {
        let ends_prepared = holds.ends_prepared;
        let goes_on = holds.unread || !holds.prepared.is_empty();
        match outcome {
            Outcome::RolledBack => self.end(holds, false).await,
            Outcome::Unknown(Some(backend)) => self.outlive(holds, Some(backend)),
            Outcome::Committed if goes_on => {
                // It may have come to an end before, or other transactions of the same text.
                self.read_catalog(holds.catalog).await;
                self.outlive(holds, None);
            }
            Outcome::Unknown(None) if goes_on => self.outlive(holds, None),
            Outcome::Committed | Outcome::Unknown(None) => self.end(holds, true).await,
        }
        if ends_prepared {
            self.tell_outliving(Word::Look);
        }
    }

    fn outlive(&self, holds: Holds, backend: Option<BackendPid>) {
        self.tell_outliving(Word::Keep(Outliving::new(holds, backend)));
    }

    /// At a stop nobody takes it, and dropping it ends the holds.
    fn tell_outliving(&self, word: Word) {
        drop(self.outliving.send(word));
    }

    /// The transaction has ended in Postgres.
    pub(super) async fn end(&self, holds: Holds, changed: bool) {
        // Before the catalog is read: that wakes the upkeep, which puts back what may be.
        drop(holds.withdrawn);
        let overtaken = holds
            .wrote_since
            .is_some_and(|epoch| epoch != self.keeper.epoch());
        if changed {
            self.read_catalog(holds.catalog).await;
            if overtaken {
                // The schema was changed meanwhile, perhaps by others: what it has written may be more than it holds.
                let all = self.seize_surely(Scope::Everything).await;
                self.grid.release(all, true);
            }
        }
        for hold in holds.holds {
            self.grid.release(hold, changed);
        }
        drop(holds.stay);
    }

    /// Tries until it is held: what has been done cannot be undone.
    async fn seize_surely(&self, scope: Scope) -> Hold {
        loop {
            match self.grid.seize(scope.clone(), Holder::default()).await {
                Ok(hold) => return hold,
                Err(error) => tracing::warn!(%error, "waiting for a leader"),
            }
        }
    }

    async fn read_catalog(&self, change: CatalogChange) {
        let sure = match change {
            CatalogChange::None => return,
            CatalogChange::Perhaps => false,
            CatalogChange::Surely => true,
        };
        if !self.grid.has_peers() {
            return match sure {
                true => self.keeper.reload().await,
                false => self.keeper.reload_if_changed().await,
            };
        }
        // Who cannot be asked may have changed.
        if sure || self.keeper.is_outdated().await.unwrap_or(true) {
            while let Err(error) = self.grid.tell_catalog_changed().await {
                tracing::warn!(%error, "waiting for a leader to tell of a change of the schema");
            }
            self.keeper.reload().await;
        }
    }

    /// Takes hold of what is prepared in Postgres by now, perhaps by an earlier process. To be called before anything is served.
    ///
    /// # Errors
    /// When Postgres cannot be asked; nothing is held then.
    pub async fn adopt_prepared(&self) -> Result<(), ripen_cachestore::StoreError> {
        for prepared in self.keeper.store().prepared().await? {
            self.outlive(self.adopt(prepared).await, None);
        }
        Ok(())
    }

    /// The flush may be waiting for rows of it, so it is not waited for.
    pub(super) async fn adopt(&self, prepared: Prepared) -> Holds {
        let mut stay = self.rewiring.begin();
        if prepared.tables.is_none() {
            // Nobody else is at work yet, or holds everything.
            stay.rewires();
        }
        let scope = prepared.tables.map_or(Scope::Everything, Scope::Tables);
        Holds::adopted(prepared.gid, self.seize_surely(scope).await, stay)
    }
}
