//! A thread with a runtime of its own: its tasks take turns on it and wake no other thread of ours. Does nothing by itself.

use crate::limits::THREAD_STACK_BYTES;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// What its tasks may wait for, beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Time.
    Time,
    /// Time and sockets.
    TimeAndSockets,
}

/// See the module. Dropped, it ends without waiting for anything.
pub struct RuntimeThread {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RuntimeThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(name: &str, waits: Waits) -> std::io::Result<RuntimeThread> {
        let mut builder = Builder::new_current_thread();
        builder.enable_time();
        if waits == Waits::TimeAndSockets {
            builder.enable_io();
        }
        let runtime = builder.build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || {
                // A dropped sender says the same.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(RuntimeThread {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// No thread: where this is called from, tasks take turns already. For logs whose disk blocks nobody.
    pub fn here() -> RuntimeThread {
        RuntimeThread {
            runtime: Handle::current(),
            stop: None,
            thread: None,
        }
    }

    /// Where to spawn.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Ends the thread, whatever its tasks are at. Not cancel safe: dropped, it does not wait for the end.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let joining = tokio::task::spawn_blocking(move || thread.join());
        // A panic of a task does not reach the thread.
        let _ = joining.await;
    }
}
