//! The threads that carry sessions. A session stays on the one that was least loaded when it came, so that its steps wake no other thread.
//! Never looks at what sessions do.

use crate::tls::ClientStream;
use ripen_grid::thread::{RuntimeThread, Waits};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::TaskTracker;
use tracing::warn;

/// See the module. The default has none: sessions run where they are accepted.
#[derive(Default)]
pub struct Carriers {
    carriers: Vec<Carrier>,
}

struct Carrier {
    thread: RuntimeThread,
    sessions: Arc<AtomicUsize>,
}

/// A connection that no runtime watches yet.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    fn watched(self) -> io::Result<ClientStream> {
        Ok(match self {
            Accepted::Tcp(stream) => ClientStream::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => ClientStream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// A session that is counted.
struct Carried(Arc<AtomicUsize>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Carriers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start(threads: usize) -> io::Result<Carriers> {
        let start = |_| {
            Ok(Carrier {
                thread: RuntimeThread::start("sessions", Waits::TimeAndSockets)?,
                sessions: Arc::default(),
            })
        };
        let carriers = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(Carriers { carriers })
    }

    /// Runs `session` with the stream on one of the threads.
    pub(crate) fn carry<F>(
        &self,
        sessions: &TaskTracker,
        stream: Accepted,
        session: impl FnOnce(ClientStream) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let load = |carrier: &&Carrier| carrier.sessions.load(Ordering::Relaxed);
        let carrier = self.carriers.iter().min_by_key(load);
        let carried = carrier.map(|carrier| {
            carrier.sessions.fetch_add(1, Ordering::Relaxed);
            Carried(carrier.sessions.clone())
        });
        let task = async move {
            let _carried = carried;
            match stream.watched() {
                Ok(stream) => session(stream).await,
                Err(error) => warn!(%error, "could not serve a connection"),
            }
        };
        match carrier {
            Some(carrier) => sessions.spawn_on(task, carrier.thread.runtime()),
            None => sessions.spawn(task),
        };
    }
}
