//! The frontend/backend protocol, version 3, as bytes: framing, startup, messages of both sides. Never reads a socket; callers own the buffers.
//!
//! Source of all layouts: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use crate::sqlstate::{ErrorFields, SqlState};
use bytes::{BufMut, BytesMut};

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod startup;

/// Bytes that are not the message they should be. Display is Postgres's wording of the same refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length field that cannot be. The stream cannot be followed any further.
    #[error("invalid message length")]
    Length,
    /// The body ends before its last field.
    #[error("insufficient data left in message")]
    Short,
    /// Bytes are left over, or a count is negative.
    #[error("invalid message format")]
    Format,
    /// A string without its terminator.
    #[error("invalid string in message")]
    Text,
    /// A tag that no frontend sends.
    #[error("invalid frontend message type {0}")]
    FrontendType(u8),
    /// A tag that no backend sends, or not here.
    #[error("unexpected backend message type {0}")]
    BackendType(u8),
    /// Neither a statement nor a portal.
    #[error("invalid {message} message subtype {subtype}")]
    Subtype {
        /// `DESCRIBE` or `CLOSE`.
        message: &'static str,
        /// The byte found.
        subtype: u8,
    },
    /// Formats given, but not none, one, or one per parameter.
    #[error("bind message has {formats} parameter formats but {params} parameters")]
    FormatCount {
        /// Formats in the message.
        formats: usize,
        /// Parameters in the message.
        params: usize,
    },
    /// A startup packet too short or too long.
    #[error("invalid length of startup packet")]
    StartupLength,
    /// A startup packet whose list of parameters does not end as it should.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    StartupLayout,
    /// A protocol that is not 3.x.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Protocol {
        /// Major version asked for.
        major: u16,
        /// Minor version asked for.
        minor: u16,
    },
}

impl WireError {
    /// The SQLSTATE that Postgres gives this refusal.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            WireError::Protocol { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// Whether the session must end: the stream can no longer be followed. Otherwise the statement fails (and, in the extended protocol, everything up to Sync is skipped).
    pub fn is_fatal(&self) -> bool {
        !matches!(
            self,
            WireError::Short
                | WireError::Format
                | WireError::Text
                | WireError::Subtype { .. }
                | WireError::FormatCount { .. }
        )
    }

    /// The response to the client that sent these bytes.
    pub fn fields(&self) -> ErrorFields {
        if self.is_fatal() {
            ErrorFields::fatal(self.sqlstate(), self.to_string())
        } else {
            ErrorFields::error(self.sqlstate(), self.to_string())
        }
    }
}

/// Walks through a body field by field. Never reads past its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, WireError> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A count of things in 16 bits, unsigned as Postgres reads it since 65535 parameters are allowed.
    pub fn count(&mut self) -> Result<usize, WireError> {
        self.u16().map(usize::from)
    }

    /// A string up to its zero byte, which is consumed.
    pub fn text(&mut self) -> Result<&'a [u8], WireError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.take(end.ok_or(WireError::Text)?)?;
        self.u8()?;
        Ok(text)
    }

    /// A value behind its length; −1 is NULL.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| WireError::Short)?;
                self.take(length).map(Some)
            }
        }
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(WireError::Format)
        }
    }
}

/// Writes tag, length and whatever `body` writes.
pub(crate) fn put_message(buf: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    buf.put_u8(tag);
    put_counted(buf, body);
}

/// Writes a length that includes itself, and whatever `body` writes.
pub(crate) fn put_counted(buf: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = buf.len();
    buf.put_u32(0);
    body(buf);
    patch_length(buf, start, start);
}

/// Sets the length field at `at` to the number of bytes from `from` to the end.
pub(crate) fn patch_length(buf: &mut BytesMut, at: usize, from: usize) {
    let length = i32::try_from(buf.len() - from).expect("a message is below 2 GB");
    buf[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes a string and its terminator. What follows a zero byte inside is cut: it could not be told from the next field.
pub(crate) fn put_text(buf: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|byte| *byte == 0);
    buf.put_slice(&text[..end.unwrap_or(text.len())]);
    buf.put_u8(0);
}

/// A count in 16 bits.
pub(crate) fn put_count(buf: &mut BytesMut, count: usize) {
    buf.put_u16(u16::try_from(count).expect("the protocol counts at most 65535"));
}
