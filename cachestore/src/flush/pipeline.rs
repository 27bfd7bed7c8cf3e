//! Sends several commands to Postgres before waiting for the first answer. Never reorders them.

use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::task::Poll;

/// Starts all commands in order, then waits for all answers in order; the first error ends the waiting. A command of tokio-postgres is sent when it is
/// polled for the first time, so each is polled once, in order, before any is waited for. Answers that nobody waits for any more are discarded by the connection.
pub async fn pipeline<T, E>(mut commands: Vec<BoxFuture<'_, Result<T, E>>>) -> Result<Vec<T>, E> {
    let mut early: Vec<Option<Result<T, E>>> = poll_fn(|context| {
        let started = commands
            .iter_mut()
            .map(|command| match command.as_mut().poll(context) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            });
        Poll::Ready(started.collect())
    })
    .await;
    let mut results = Vec::with_capacity(commands.len());
    for (command, early) in commands.into_iter().zip(early.drain(..)) {
        results.push(match early {
            Some(result) => result?,
            None => command.await?,
        });
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn all_start_in_order_before_any_ends_and_the_first_error_counts() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let command = |number: u32| -> BoxFuture<'static, Result<u32, u32>> {
            let log = log.clone();
            Box::pin(async move {
                log.lock().unwrap().push(number);
                tokio::task::yield_now().await;
                log.lock().unwrap().push(number + 100);
                if number > 1 { Err(number) } else { Ok(number) }
            })
        };
        let run = |numbers: [u32; 3]| pipeline(numbers.map(command).into_iter().collect());
        assert_eq!(run([0, 1, 2]).await, Err(2));
        assert_eq!(run([3, 2, 1]).await, Err(3));
        let log = log.lock().unwrap();
        assert_eq!(log[..4], [0, 1, 2, 100]);
    }
}
