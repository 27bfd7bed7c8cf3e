//! Where messages begin and end in a stream, whatever their size. Never buffers a body unless a session must read it, and then only up to [`BODY_MAX`].

use super::WireError;

/// Bodies above this are reported without their bytes: nothing a session must read in full is larger, except an error with a huge text, which is relayed all the same.
pub const BODY_MAX: usize = 64 * 1024;

/// Tag and length field.
pub const HEADER_LEN: usize = 5;

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message type.
    pub tag: u8,
    /// Bytes of the body, without tag and length field.
    pub len: usize,
}

impl Header {
    /// Bytes of the whole message.
    pub fn total(self) -> usize {
        HEADER_LEN + self.len
    }
}

/// The header at the start of `bytes`, if all of it is there. The body may still be on its way.
pub fn peek(bytes: &[u8]) -> Result<Option<Header>, WireError> {
    match bytes {
        [tag, a, b, c, d, ..] => {
            let length = i32::from_be_bytes([*a, *b, *c, *d]);
            let body = length.checked_sub(4).ok_or(WireError::Length)?;
            let len = usize::try_from(body).map_err(|_| WireError::Length)?;
            Ok(Some(Header { tag: *tag, len }))
        }
        _ => Ok(None),
    }
}

/// The first whole message of `bytes`: header and body. `None` while bytes are missing; the caller bounds how long it waits and how much it buffers.
pub fn split(bytes: &[u8]) -> Result<Option<(Header, &[u8])>, WireError> {
    let Some(header) = peek(bytes)? else {
        return Ok(None);
    };
    Ok(bytes
        .get(HEADER_LEN..header.total())
        .map(|body| (header, body)))
}

/// A message of the backend, reported when its last byte has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Tag and body length.
    pub header: Header,
    /// The body, for the messages a session reads ([`is_read`]) of at most [`BODY_MAX`] bytes; else `None`.
    pub body: Option<&'a [u8]>,
}

/// Whether a session looks into a backend message of this type. Rows and COPY data are only relayed.
pub fn is_read(tag: u8) -> bool {
    matches!(
        tag,
        b'Z' | b'E'
            | b'N'
            | b'S'
            | b'K'
            | b'R'
            | b'C'
            | b'T'
            | b't'
            | b'1'
            | b'2'
            | b'3'
            | b'n'
            | b's'
            | b'I'
            | b'G'
            | b'H'
            | b'W'
            | b'A'
            | b'c'
            | b'v'
            | b'V'
    )
}

/// Follows a backend's stream that is forwarded as it comes, chunk by chunk.
///
/// ```text
/// while let Some(frame) = splitter.next(&mut chunk)? { … }   // chunk shrinks by what was consumed
/// ```
#[derive(Debug, Default)]
pub struct FrameSplitter {
    head: [u8; HEADER_LEN],
    head_len: usize,
    header: Option<Header>,
    body: Vec<u8>,
    body_seen: usize,
}

impl FrameSplitter {
    /// A splitter at a message boundary.
    pub fn new() -> FrameSplitter {
        FrameSplitter::default()
    }

    /// Whether the stream stands between two messages, so that another message may be injected for the client.
    pub fn at_boundary(&self) -> bool {
        self.head_len == 0
    }

    /// Consumes `chunk` up to the end of the next message and reports that message; `None` when the chunk is used up.
    /// An error means that the stream cannot be followed: close it.
    pub fn next<'s, 'c: 's>(
        &'s mut self,
        chunk: &mut &'c [u8],
    ) -> Result<Option<Frame<'s>>, WireError> {
        if self.at_boundary()
            && let Some((header, body)) = split(chunk)?
        {
            *chunk = &chunk[header.total()..];
            let body = keeps(header).then_some(body);
            return Ok(Some(Frame { header, body }));
        }
        let Some(header) = self.take_header(chunk)? else {
            return Ok(None);
        };
        if !self.take_body(header, chunk) {
            return Ok(None);
        }
        (self.head_len, self.header, self.body_seen) = (0, None, 0);
        let body = keeps(header).then_some(self.body.as_slice());
        Ok(Some(Frame { header, body }))
    }

    fn take_header(&mut self, chunk: &mut &[u8]) -> Result<Option<Header>, WireError> {
        if self.header.is_none() {
            let taken = chunk.len().min(HEADER_LEN - self.head_len);
            self.head[self.head_len..self.head_len + taken].copy_from_slice(&chunk[..taken]);
            self.head_len += taken;
            *chunk = &chunk[taken..];
            self.header = peek(&self.head[..self.head_len])?;
            self.body.clear();
        }
        Ok(self.header)
    }

    fn take_body(&mut self, header: Header, chunk: &mut &[u8]) -> bool {
        let taken = chunk.len().min(header.len - self.body_seen);
        if keeps(header) {
            self.body.extend_from_slice(&chunk[..taken]);
        }
        self.body_seen += taken;
        *chunk = &chunk[taken..];
        self.body_seen == header.len
    }
}

fn keeps(header: Header) -> bool {
    header.len <= BODY_MAX && is_read(header.tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag], &length.to_be_bytes()[..], body].concat()
    }

    fn frames(chunks: &[&[u8]]) -> Vec<(u8, Option<Vec<u8>>)> {
        let mut splitter = FrameSplitter::new();
        let mut found = Vec::new();
        for mut chunk in chunks.iter().copied() {
            while let Some(frame) = splitter.next(&mut chunk).unwrap() {
                found.push((frame.header.tag, frame.body.map(<[u8]>::to_vec)));
            }
            assert!(chunk.is_empty());
        }
        assert!(splitter.at_boundary());
        found
    }

    #[test]
    fn impossible_length_is_refused() {
        assert_eq!(peek(&[b'Q', 0, 0, 0, 3]), Err(WireError::Length));
        assert_eq!(peek(&[b'Q', 255, 255, 255, 255]), Err(WireError::Length));
        assert_eq!(peek(&[b'Q', 128, 0, 0, 0]), Err(WireError::Length));
        assert_eq!(peek(&[b'Q', 0, 0, 0]), Ok(None));
        assert_eq!(
            peek(&[b'Q', 0, 0, 0, 4]),
            Ok(Some(Header { tag: b'Q', len: 0 }))
        );
    }

    #[test]
    fn rows_and_oversized_messages_come_without_body() {
        let huge = vec![7; BODY_MAX + 1];
        let stream = [message(b'D', b"row"), message(b'E', &huge)].concat();
        assert_eq!(frames(&[&stream]), [(b'D', None), (b'E', None)]);
        let (head, tail) = stream.split_at(BODY_MAX);
        assert_eq!(frames(&[head, tail]), [(b'D', None), (b'E', None)]);
    }

    #[test]
    fn chunk_position_is_the_end_of_the_message() {
        let stream = [message(b'Z', b"I"), message(b'Z', b"T")].concat();
        let (mut splitter, mut chunk) = (FrameSplitter::new(), stream.as_slice());
        assert!(splitter.next(&mut chunk).unwrap().is_some());
        assert_eq!(chunk.len(), 6);
    }

    proptest! {
        #[test]
        fn tearing_changes_nothing(
            messages in prop::collection::vec((prop::sample::select(b"ZEDCT1d".to_vec()), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            step in 1usize..30,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let chunks: Vec<&[u8]> = stream.chunks(step).collect();
            let expected: Vec<_> = messages
                .into_iter()
                .map(|(tag, body)| (tag, is_read(tag).then_some(body)))
                .collect();
            prop_assert_eq!(frames(&chunks), expected.clone());
            prop_assert_eq!(frames(&[&stream]), expected);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut splitter, mut chunk) = (FrameSplitter::new(), bytes.as_slice());
            while let Ok(Some(_)) = splitter.next(&mut chunk) {}
        }
    }
}
