//! Follows what Postgres says: forwards it to the client byte for byte, withholds the answers to the session's own questions, and reports what the
//! session must act on. Synchronous; `session.rs` moves the bytes.
//!
//! Invariants: a message's body is never waited for unless it is one of the small ones that are read; bytes leave in the order they came; a
//! ReadyForQuery is never forwarded from here, only reported, because the transaction's fences have to go first.

pub(crate) mod expect;
pub(crate) mod link;

use crate::limits;
use crate::portals::Names;
use bytes::{Buf, Bytes, BytesMut};
use expect::{Awaited, Expect};

/// Bytes of a message's tag and length.
pub(crate) const HEADER_BYTES: usize = 5;

/// What Postgres said that the session must act on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// All input is handled as far as it goes.
    Nothing,
    /// ReadyForQuery for the client, with the transaction status. Not forwarded yet.
    Ready(u8),
    /// The session's own query has ended.
    OwnDone(OwnAnswer),
    /// A setting has changed (ParameterStatus; forwarded).
    Setting(Bytes, Bytes),
    /// COPY IN has begun.
    CopyIn,
    /// An extended message failed: Postgres ignores everything up to Sync.
    Failed,
    /// Not the protocol as we know it.
    Nonsense(u8),
}

/// How the session's own query went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnAnswer {
    /// Columns of the last row, as text.
    pub(crate) row: Option<Vec<Option<String>>>,
    /// How many rows each of its statements says it was about.
    pub(crate) counts: Vec<u64>,
    /// The ErrorResponse, if it failed, header included.
    pub(crate) error: Option<Bytes>,
    /// Transaction status afterwards.
    pub(crate) status: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    /// What is still to be answered.
    pub(crate) awaited: Awaited,
    /// Bytes left of a message whose head is handled, and whether they are forwarded.
    rest: usize,
    rest_quiet: bool,
    own: OwnAnswer,
    /// An error that came when nothing was asked: Postgres is about to close. Withheld until it has.
    pub(crate) farewell: Option<Bytes>,
}

impl Relay {
    /// Whether the input stands between two messages.
    pub(crate) fn between_messages(&self) -> bool {
        self.rest == 0
    }

    /// Handles `input` up to the next thing worth telling, appending what is the client's to `output`.
    pub(crate) fn step(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
        names: &mut Names,
    ) -> Said {
        // `run` bytes at the start of `input` are to be forwarded in one piece.
        let mut run = 0;
        loop {
            let here = input.len() - run;
            if self.rest > 0 && here > 0 {
                let part = self.rest.min(here);
                self.rest -= part;
                if self.rest_quiet {
                    forward(input, output, run);
                    input.advance(part);
                    run = 0;
                } else {
                    run += part;
                }
                continue;
            }
            let Some((tag, length)) = head(&input[run..]) else {
                forward(input, output, run);
                return Said::Nothing;
            };
            if length < 4 {
                forward(input, output, run);
                return Said::Nonsense(tag);
            }
            let whole = length + 1;
            let quiet = self.awaited.front().is_some_and(Expect::quiet);
            if self.reads(tag) && whole <= limits::LOGIN_FRAME_BYTES_MAX {
                forward(input, output, run);
                run = 0;
                if input.len() < whole {
                    return Said::Nothing;
                }
                let frame = input.split_to(whole).freeze();
                match self.read(tag, &frame, output, names) {
                    Some(said) => return said,
                    None => continue,
                }
            }
            let said = self.note(tag, names);
            if let Some(Said::Nonsense(_)) = said {
                forward(input, output, run);
                return Said::Nonsense(tag);
            }
            let withheld = quiet && !asynchronous(tag) && tag != b'E';
            (self.rest, self.rest_quiet) = (whole, withheld);
            if let Some(said) = said {
                forward(input, output, run);
                return said;
            }
        }
    }

    /// Whether the message's body is read here, not only its tag.
    fn reads(&self, tag: u8) -> bool {
        match tag {
            b'Z' | b'S' => true,
            b'D' => matches!(self.awaited.front(), Some(Expect::Own)),
            b'E' if self.awaited.is_empty() => true,
            b'C' => matches!(self.awaited.front(), Some(Expect::Redo)),
            b'E' => matches!(
                self.awaited.front(),
                Some(Expect::Own | Expect::Redo | Expect::Refused { .. })
            ),
            _ => false,
        }
    }

    /// A message that is here in whole.
    fn read(
        &mut self,
        tag: u8,
        frame: &Bytes,
        output: &mut BytesMut,
        names: &mut Names,
    ) -> Option<Said> {
        let body = &frame[HEADER_BYTES..];
        match tag {
            b'Z' => return self.ready(body.first().copied().unwrap_or(b'I')),
            b'S' => {
                output.extend_from_slice(frame);
                let mut parts = body.split(|byte| *byte == 0);
                let mut next = || frame.slice_ref(parts.next().unwrap_or_default());
                return Some(Said::Setting(next(), next()));
            }
            b'D' => self.own.row = text_row(body),
            b'C' => self.own.counts.push(rows_of(body)),
            _ => match self.awaited.front() {
                Some(Expect::Refused { error }) => {
                    output.extend_from_slice(error);
                    self.awaited.skip_to_sync(names);
                    return Some(Said::Failed);
                }
                None => self.farewell = Some(frame.clone()),
                _ => self.own.error = Some(frame.clone()),
            },
        }
        None
    }

    /// A ReadyForQuery: ends whatever simple query, function call or Sync is the oldest.
    fn ready(&mut self, status: u8) -> Option<Said> {
        if self.awaited.was_not_ignored() {
            self.awaited.ready();
            return Some(Said::Ready(status));
        }
        match self.awaited.front() {
            Some(Expect::Own | Expect::Redo) => {
                self.awaited.pop();
                let answer = OwnAnswer {
                    status,
                    ..std::mem::take(&mut self.own)
                };
                Some(Said::OwnDone(answer))
            }
            Some(Expect::Sync | Expect::Query { .. } | Expect::End) => {
                self.awaited.pop();
                self.awaited.ready();
                Some(Said::Ready(status))
            }
            _ => Some(Said::Nonsense(b'Z')),
        }
    }

    /// A message of which only the tag is looked at: ticks off what it answers.
    fn note(&mut self, tag: u8, names: &mut Names) -> Option<Said> {
        let front = self.awaited.front();
        let answered = match tag {
            b'1' | b'2' | b'3' | b'n' if matches!(front, Some(Expect::Redo)) => return None,
            b'1' => matches!(front, Some(Expect::Parse { .. })),
            b'2' => matches!(front, Some(Expect::Bind { .. })),
            b'3' => matches!(
                front,
                Some(Expect::CloseStatement { .. } | Expect::ClosePortal { .. })
            ),
            b'n' => matches!(front, Some(Expect::Describe)),
            b'T' if matches!(front, Some(Expect::Query { .. } | Expect::Own)) => return None,
            b'T' => matches!(front, Some(Expect::Describe)),
            b'C' | b'I'
                if matches!(
                    front,
                    Some(Expect::Query { .. } | Expect::End | Expect::Own)
                ) =>
            {
                return None;
            }
            b'C' | b'I' | b's' => matches!(front, Some(Expect::Execute)),
            b'G' => return Some(Said::CopyIn),
            b'E' if front.is_some_and(Expect::extended) => {
                self.awaited.skip_to_sync(names);
                return Some(Said::Failed);
            }
            // Rows, COPY data, function results, notices, notifications, and errors of simple queries tick nothing off.
            _ => return None,
        };
        if !answered {
            return Some(Said::Nonsense(tag));
        }
        self.awaited.pop();
        None
    }
}

/// Tag and length (which counts itself, not the tag) of the message at the start of `bytes`.
pub(crate) fn head(bytes: &[u8]) -> Option<(u8, usize)> {
    let (tag, rest) = bytes.split_first()?;
    let length = rest.first_chunk::<4>()?;
    Some((*tag, u32::from_be_bytes(*length) as usize))
}

/// Messages that come at any time and answer nothing: notices, notifications, settings.
fn asynchronous(tag: u8) -> bool {
    matches!(tag, b'N' | b'A' | b'S')
}

fn forward(input: &mut BytesMut, output: &mut BytesMut, count: usize) {
    if count == 0 {
        return;
    }
    if count == input.len() && output.is_empty() {
        std::mem::swap(input, output);
        input.clear();
    } else {
        output.extend_from_slice(&input[..count]);
        input.advance(count);
    }
}

/// The number at the end of a command tag; 0 where there is none.
fn rows_of(tag: &[u8]) -> u64 {
    let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
    let last = tag.rsplit(|byte| *byte == b' ').next();
    let number = last.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    number.unwrap_or(0)
}

/// The columns of a DataRow in text format; `None` when it is damaged.
fn text_row(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        let Ok(length) = usize::try_from(length) else {
            columns.push(None);
            continue;
        };
        let (value, rest) = body.split_at_checked(length)?;
        columns.push(Some(String::from_utf8_lossy(value).into_owned()));
        body = rest;
    }
    Some(columns)
}

#[cfg(test)]
mod tests;
