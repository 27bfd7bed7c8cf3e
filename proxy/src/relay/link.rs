//! One side of a session: a stream with its two buffers. Moves bytes, never looks at them.
//!
//! Reading goes through one scratch buffer per thread, so that an idle session holds no read buffer at all.

use crate::limits;
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::READ_CHUNK_BYTES].into_boxed_slice());
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link<S> {
    stream: S,
    /// Read and not yet handled.
    pub(crate) input: BytesMut,
    /// To be written.
    pub(crate) output: BytesMut,
    /// How many reads have brought bytes.
    pub(crate) reads: u64,
    unflushed: bool,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub(crate) fn new(stream: S) -> Link<S> {
        Link {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            reads: 0,
            unflushed: false,
            ended: false,
        }
    }

    /// Whether the peer has said that it will send no more.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the writer should wait for the peer to take some.
    pub(crate) fn output_full(&self) -> bool {
        self.output.len() >= limits::BUFFER_HIGH_BYTES
    }

    /// Writes what there is. Ready(true): something was written. Ready(false): there was nothing to write.
    pub(crate) fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut wrote = false;
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.output.advance(count);
                    (wrote, self.unflushed) = (true, true);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if wrote => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            shrink(&mut self.output);
        }
        Poll::Ready(Ok(wrote))
    }

    /// Writes what there is. What a broken peer will not take is dropped: what it said before it broke is still to be read.
    pub(crate) fn poll_write_or_drop(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(_)) = self.poll_write_out(cx) {
            self.output.clear();
        }
    }

    /// Reads once, if `input` holds less than `room` bytes. Ready: some came, or the end did. A broken connection is an end.
    pub(crate) fn poll_read_in(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<()> {
        if self.ended || self.input.len() >= room {
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.reads += 1;
                    self.input.extend_from_slice(buffer.filled());
                }
                Poll::Ready(Ok(()) | Err(_)) => self.ended = true,
                Poll::Pending => {
                    shrink(&mut self.input);
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
    }

    /// Tells the peer that no more will come. What is in `output` must have been written. Cancel safe.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await
    }

    /// Writes all of `output`. Cancel safe.
    pub(crate) async fn write_all(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            while !self.output.is_empty() || self.unflushed {
                match self.poll_write_out(cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Reads once more into `input`. False: the peer has ended. Cancel safe.
    pub(crate) async fn read_more(&mut self) -> bool {
        if !self.ended {
            std::future::poll_fn(|cx| self.poll_read_in(cx, usize::MAX)).await;
        }
        !self.ended
    }

    /// The stream without its buffers, which must be empty.
    pub(crate) fn into_stream(self) -> S {
        assert!(
            self.input.is_empty() && self.output.is_empty(),
            "bytes in hand would be lost"
        );
        self.stream
    }
}

fn shrink(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > limits::BUFFER_KEEP_BYTES {
        *buffer = BytesMut::new();
    }
}

impl Link<crate::tls::ClientStream> {
    /// Whether TLS protects it.
    pub(crate) fn stream_is_encrypted(&self) -> bool {
        self.stream.encrypted()
    }

    /// Whether TLS can be begun on it.
    pub(crate) fn stream_is_tcp(&self) -> bool {
        matches!(self.stream, crate::tls::ClientStream::Tcp(_))
    }
}
