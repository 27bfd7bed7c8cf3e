//! Writes a server's message as one line, with everything that must be equal on two servers, and without what cannot be:
//! process ids, cancel keys, and OIDs of what the test itself created.

use super::Message;
use std::fmt;

/// OIDs from here on are given in order of creation.
const FIRST_USER_OID: u32 = 16_384;

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        write!(f, "{tag}")?;
        let mut body = Body(&self.body);
        let written = match self.tag {
            b'T' => columns(f, &mut body),
            b'D' => values(f, &mut body),
            b'E' | b'N' => fields(f, &mut body),
            b'C' | b'S' => texts(f, &mut body),
            b't' => types(f, &mut body),
            b'Z' | b'G' | b'H' | b'W' | b'd' => bytes(f, self.body.as_slice()),
            b'R' => bytes(f, self.body.get(..4).unwrap_or_default()),
            b'V' => value(f, body.value().unwrap_or_default()),
            b'A' => notification(f, &mut body),
            b'K' => Some(Ok(())),
            _ => bytes(f, self.body.as_slice()),
        };
        written.unwrap_or_else(|| write!(f, " broken {:02x?}", self.body))
    }
}

/// What is not yet read of a body; `None` when it is too short.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    /// The outer `None`: too short. The inner one: NULL.
    fn value(&mut self) -> Option<Option<&'a [u8]>> {
        let length = self.u32()?;
        if length == u32::MAX {
            return Some(None);
        }
        self.take(usize::try_from(length).ok()?).map(Some)
    }
}

fn oid(number: u32) -> String {
    if number >= FIRST_USER_OID {
        "user".to_owned()
    } else {
        number.to_string()
    }
}

fn columns(f: &mut fmt::Formatter<'_>, body: &mut Body<'_>) -> Option<fmt::Result> {
    for _ in 0..body.u16()? {
        let name = body.text()?;
        let (table, column, kind) = (oid(body.u32()?), body.u16()?, oid(body.u32()?));
        let (length, modifier, format) = (body.u16()?, body.u32()?, body.u16()?);
        let written = write!(
            f,
            " {name:?}({table}.{column} {kind} {} {} {format})",
            length.cast_signed(),
            modifier.cast_signed()
        );
        if written.is_err() {
            return Some(written);
        }
    }
    Some(Ok(()))
}

fn values(f: &mut fmt::Formatter<'_>, body: &mut Body<'_>) -> Option<fmt::Result> {
    for _ in 0..body.u16()? {
        value(f, body.value()?)?.ok()?;
    }
    Some(Ok(()))
}

fn value(f: &mut fmt::Formatter<'_>, value: Option<&[u8]>) -> Option<fmt::Result> {
    Some(
        match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => write!(f, " NULL"),
            Some((_, Ok(text))) if !text.contains(|c: char| c.is_control() && c != '\n') => {
                write!(f, " {text:?}")
            }
            Some((bytes, _)) => hex(f, bytes),
        },
    )
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    write!(f, " \\x")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn fields(f: &mut fmt::Formatter<'_>, body: &mut Body<'_>) -> Option<fmt::Result> {
    loop {
        match body.take(1)?[0] {
            0 => return Some(Ok(())),
            kind => write!(f, " {}={:?}", char::from(kind), body.text()?).ok()?,
        }
    }
}

fn texts(f: &mut fmt::Formatter<'_>, body: &mut Body<'_>) -> Option<fmt::Result> {
    while !body.0.is_empty() {
        write!(f, " {:?}", body.text()?).ok()?;
    }
    Some(Ok(()))
}

fn types(f: &mut fmt::Formatter<'_>, body: &mut Body<'_>) -> Option<fmt::Result> {
    for _ in 0..body.u16()? {
        write!(f, " {}", oid(body.u32()?)).ok()?;
    }
    Some(Ok(()))
}

fn notification(f: &mut fmt::Formatter<'_>, body: &mut Body<'_>) -> Option<fmt::Result> {
    body.u32()?;
    texts(f, body)
}

fn bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> Option<fmt::Result> {
    if bytes.is_empty() {
        Some(Ok(()))
    } else {
        value(f, Some(bytes))
    }
}
