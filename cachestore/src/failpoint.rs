//! Named places on the way of a write, where a test can kill the process or cut a connection. Only in builds with debug assertions: a release has none of it,
//! and refuses the variable below like any unknown setting. Never does anything unless that variable names the place.
//!
//! `RIPEN_FAILPOINTS="flush-written=kill, flush-committed=cut@3"`: when that place is reached for the first (the third) time, once.
//! The crate `fail` was looked at: it needs a cargo feature, hence a second build of everything for the tests, and knows neither of the two actions.

use crate::store::Connection;

#[cfg(debug_assertions)]
mod armed;

/// A place of the name was reached. Does not return when it is to be killed there.
#[inline]
pub fn reach(name: &str) {
    #[cfg(debug_assertions)]
    armed::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// As [`reach`], where a connection can be cut: Postgres then ends it in the middle of whatever it was at, and its error is answered.
pub(crate) async fn reach_on(name: &str, client: &Connection) -> Result<(), tokio_postgres::Error> {
    #[cfg(debug_assertions)]
    if armed::reach(name) {
        let end = "SELECT pg_terminate_backend(pg_backend_pid())";
        return client.batch_execute(end).await;
    }
    let _ = (name, client);
    Ok(())
}

/// Whether the variable names this place at all, for places whose surroundings are too rare otherwise.
pub fn armed(name: &str) -> bool {
    #[cfg(debug_assertions)]
    return armed::any(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}
