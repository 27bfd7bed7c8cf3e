//! The thread that carries a log: batching, consensus and applying take turns on it, so that a batch of commands wakes two other threads (the writer, and
//! those who wait), not one for each step. Does nothing for a session.

use super::{Log, LogError, LogOptions, Machine};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// See the module. Dropped, it ends without waiting for anything; what is acknowledged is on disk.
pub struct LogThread {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LogThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> std::io::Result<LogThread> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                // A dropped sender says the same.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(LogThread {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// [`Log::open`] on this thread. Cancel safe like that one.
    pub async fn open(&self, options: LogOptions, machine: impl Machine) -> Result<Log, LogError> {
        let opening = self.runtime.spawn(Log::open(options, machine));
        opening.await.map_err(|error| LogError::Consensus {
            detail: error.to_string(),
        })?
    }

    /// Ends the thread. Shut the log down before.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let joining = tokio::task::spawn_blocking(move || thread.join());
        // A panic there has been reported as a failure of the log.
        let _ = joining.await;
    }
}
