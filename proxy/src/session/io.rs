//! Both sides of a session and the one place where it waits for them. Moves bytes between sockets and buffers, never looks at them.

use crate::limits;
use crate::relay::link::Link;
use crate::tls::ClientStream;
use ripen_cachestore::dial::Stream;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

/// See the module.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) client: Link<ClientStream>,
    /// `None` while the session needs no Postgres.
    pub(crate) upstream: Option<Box<Link<Stream>>>,
}

/// The client can no longer be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientGone;

impl Io {
    /// Writes what is to be written and reads what there is room for (`client_room`: bytes of the client's that may be held). Returns when bytes
    /// came, a side ended, or a full buffer has emptied. Cancel safe.
    pub(crate) async fn turn(&mut self, client_room: usize) -> Result<(), ClientGone> {
        std::future::poll_fn(|cx| self.poll_turn(cx, client_room)).await
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        client_room: usize,
    ) -> Poll<Result<(), ClientGone>> {
        let mut moved = false;
        let was_full = self.client.output_full();
        if let Poll::Ready(Err(_)) = self.client.poll_write_out(cx) {
            return Poll::Ready(Err(ClientGone));
        }
        moved |= was_full && !self.client.output_full();
        if let Some(upstream) = self.upstream.as_deref_mut() {
            let was_full = upstream.output_full();
            upstream.poll_write_or_drop(cx);
            moved |= was_full && !upstream.output_full();
            if !self.client.output_full() {
                moved |= upstream
                    .poll_read_in(cx, limits::BUFFER_HIGH_BYTES)
                    .is_ready();
            }
        }
        moved |= self.client.poll_read_in(cx, client_room).is_ready();
        if moved {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Awaits something else while what is in the buffers goes out and Postgres's answers come in.
    pub(crate) async fn while_waiting<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            let _ = self.client.poll_write_out(cx);
            if let Some(upstream) = self.upstream.as_deref_mut() {
                upstream.poll_write_or_drop(cx);
                while upstream
                    .poll_read_in(cx, limits::BUFFER_HIGH_BYTES)
                    .is_ready()
                {}
            }
            Poll::Pending
        })
        .await
    }

    /// Whether more for Postgres should wait until it has taken some.
    pub(crate) fn upstream_full(&self) -> bool {
        self.upstream
            .as_ref()
            .is_some_and(|upstream| upstream.output_full())
    }

    /// Whether Postgres has closed and everything it said is handled as far as it goes.
    pub(crate) fn upstream_ended(&self) -> bool {
        self.upstream
            .as_ref()
            .is_some_and(|upstream| upstream.ended())
    }
}
