//! Takes the client's messages in order and gives each to whom it concerns. Never takes one while its turn has not come: what is awaited from Postgres comes first.

use super::answerer::Answerer;
use super::{End, Segment, Session};
use crate::limits;
use crate::relay::{HEADER_BYTES, head};
use bytes::{Buf, Bytes};
use ripen_pg::wire::frontend::{self, Frontend};

/// The rest of a message that goes on byte by byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passing {
    left: usize,
    to_upstream: bool,
}

impl<A: Answerer> Session<A> {
    /// Takes the client's next message, or what is there of a long one. False: there is none, or its turn has not come.
    pub(super) async fn take(&mut self) -> Result<bool, End> {
        if self.io.client.output_full() || self.io.upstream_full() {
            return Ok(false);
        }
        if self.passing.is_some() {
            return Ok(self.pass_some());
        }
        let Some((tag, length)) = head(&self.io.client.input) else {
            return Ok(false);
        };
        let whole = length.saturating_add(1);
        match tag {
            b'd' | b'c' | b'f' => self.take_copy(tag, whole),
            b'S' | b'H' if self.in_copy() && self.segment != Segment::Here => {
                self.take_ignored(whole)
            }
            _ if self.segment == Segment::Sent => Ok(false),
            b'X' => Err(End::Quit),
            _ if !plausible(tag, length) => {
                self.secure_unknown().await?;
                Err(End::Raw)
            }
            b'S' => self.take_sync(whole).await,
            _ if self.skipping => Ok(self.pass(whole, false)),
            _ if !self.has_room() => Ok(false),
            b'Q' | b'P' | b'B' | b'F' if whole > limits::FRAME_HELD_BYTES_MAX => {
                self.take_large(tag, whole).await
            }
            _ => match self.frame(whole) {
                Some(frame) => self.take_frame(tag, frame).await.map(|()| true),
                None => Ok(false),
            },
        }
    }

    async fn take_frame(&mut self, tag: u8, frame: Bytes) -> Result<(), End> {
        match frontend::decode(tag, &frame[HEADER_BYTES..]) {
            Ok(Frontend::Query(sql)) => self.query(&frame, sql).await,
            Ok(Frontend::Parse(_)) => self.parse(&frame).await,
            Ok(Frontend::Bind(bind)) => self.bind(&frame, bind).await,
            Ok(Frontend::Describe(target)) => self.describe(&frame, target).await,
            Ok(Frontend::Execute(execute)) => self.execute(&frame, execute).await,
            Ok(Frontend::Close(target)) => self.close(&frame, target).await,
            Ok(Frontend::Flush) => {
                self.flush();
                Ok(())
            }
            // A function call; or Postgres has its own words for what is malformed.
            Ok(_) | Err(_) => self.pass_unknown(tag, &frame).await,
        }
    }

    /// COPY data: Postgres ignores it when no COPY is under way, so it may go there whenever a pipeline does.
    fn take_copy(&mut self, tag: u8, whole: usize) -> Result<bool, End> {
        let upstream = self.segment != Segment::Here && !self.skipping;
        if upstream && tag != b'd' {
            self.copies.ended += 1;
        }
        Ok(self.pass(whole, upstream))
    }

    /// Sync and Flush during COPY IN, which Postgres ignores.
    fn take_ignored(&mut self, whole: usize) -> Result<bool, End> {
        Ok(self.pass(whole, false))
    }

    async fn take_sync(&mut self, whole: usize) -> Result<bool, End> {
        let Some(frame) = self.frame(whole) else {
            return Ok(false);
        };
        self.sync(&frame).await.map(|()| true)
    }

    /// A message too long to be held: it may do anything.
    async fn take_large(&mut self, tag: u8, whole: usize) -> Result<bool, End> {
        let accepted = self.before_large(tag).await?;
        Ok(self.pass(whole, accepted))
    }

    /// The whole message, if all of it is here; otherwise room is made for it.
    fn frame(&mut self, whole: usize) -> Option<Bytes> {
        if self.io.client.input.len() < whole {
            self.client_room = whole.max(limits::BUFFER_HIGH_BYTES);
            return None;
        }
        self.client_room = limits::BUFFER_HIGH_BYTES;
        Some(self.io.client.input.split_to(whole).freeze())
    }

    /// Begins to pass a message on byte by byte, to Postgres or to nobody.
    fn pass(&mut self, whole: usize, to_upstream: bool) -> bool {
        self.passing = Some(Passing {
            left: whole,
            to_upstream,
        });
        self.pass_some()
    }

    fn pass_some(&mut self) -> bool {
        let Some(passing) = self.passing.as_mut() else {
            return false;
        };
        let input = &mut self.io.client.input;
        let part = passing.left.min(input.len());
        passing.left -= part;
        match self
            .io
            .upstream
            .as_deref_mut()
            .filter(|_| passing.to_upstream)
        {
            Some(upstream) => upstream.output.extend_from_slice(&input.split_to(part)),
            None => input.advance(part),
        }
        if passing.left == 0 {
            self.passing = None;
        }
        part > 0
    }

    /// Whether one more reply may be awaited. If not, Postgres is asked to send those it has.
    fn has_room(&mut self) -> bool {
        if self.relay.awaited.len() < limits::REPLIES_AWAITED_MAX {
            self.asked = false;
            return true;
        }
        self.ask_for_replies();
        false
    }
}

/// Whether Postgres would accept a message of this type and length (which counts itself).
fn plausible(tag: u8, length: usize) -> bool {
    let max = match tag {
        b'Q' | b'P' | b'B' | b'F' => limits::LARGE_FRAME_BYTES_MAX,
        b'S' if length != 4 => return false,
        b'E' | b'D' | b'C' | b'H' | b'S' => limits::SMALL_FRAME_BYTES_MAX,
        _ => return false,
    };
    (4..=max + 4).contains(&length)
}
