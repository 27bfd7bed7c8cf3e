//! Which connections of sessions lead to the system of record. Asks the store's [`ripen_cachestore::home::Home`], which the log keeps true; never asks Postgres.

use super::Engine;
use crate::limits::HOME_NUDGE;
use crate::session::abroad::{gone, not_home};
use ripen_cachestore::home::Server;
use ripen_pg::sqlstate::ErrorFields;
use std::time::Duration;
use tokio::time::{Instant, timeout};

impl Engine {
    /// See [`crate::session::answerer::Answerer::until_home`].
    pub(super) async fn wait_home(
        &self,
        server: Option<Server>,
        patience: Duration,
    ) -> Result<(), ErrorFields> {
        let home = &self.grid.home;
        let deadline = Instant::now() + patience;
        let mut named = home.watch();
        while !home.is(server) {
            if server.is_some_and(|server| home.was(server)) {
                return Err(gone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || server.is_none() {
                return Err(not_home());
            }
            home.doubt();
            // Again and again: who leads may change, or not have met it yet.
            let _ = timeout(HOME_NUDGE.min(left), named.changed()).await;
        }
        Ok(())
    }
}
