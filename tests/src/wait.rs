//! Waiting for facts, with a deadline, and ports to be found at. Never waits "a bit".

use anyhow::{Context, bail};
use rand::Rng;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long anything that should happen at once may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Ok(Some)`; errors count as "not yet".
///
/// # Errors
/// After [`DEADLINE`], with what was awaited and the last error.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let end = Instant::now() + DEADLINE;
    let mut last = None;
    while Instant::now() < end {
        match ask().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("waited in vain: {what}")),
        None => bail!("waited in vain: {what}"),
    }
}

/// What was given to the tests of this process, some of which run at once: whoever gets a port takes a while to listen there.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 that is free now, below the range from which the system gives ports to outgoing connections. Given once.
pub fn free_port() -> u16 {
    let mut rng = rand::rng();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = rng.random_range(12_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return port;
        }
    }
}
