//! What a client says after startup. Decoding borrows from the body; encoding writes whole messages. Never interprets SQL or values.
//!
//! A decoded view has been walked to its end: its iterators cannot fail.

use super::{Reader, WireError, put_count, put_message, put_text};
use crate::ids::TypeOid;
use bytes::{BufMut, BytesMut};

/// A frontend message.
#[derive(Clone, Copy, Debug)]
pub enum Frontend<'a> {
    /// Simple query: SQL without terminator.
    Query(&'a [u8]),
    /// Parse.
    Parse(Parse<'a>),
    /// Bind.
    Bind(Bind<'a>),
    /// Describe.
    Describe(Target<'a>),
    /// Execute.
    Execute(Execute<'a>),
    /// Close.
    Close(Target<'a>),
    /// Sync.
    Sync,
    /// Flush.
    Flush,
    /// Terminate.
    Terminate,
    /// FunctionCall, not taken apart.
    FunctionCall(&'a [u8]),
    /// CopyData.
    CopyData(&'a [u8]),
    /// CopyDone.
    CopyDone,
    /// CopyFail: the reason.
    CopyFail(&'a [u8]),
    /// PasswordMessage, SASLInitialResponse, SASLResponse or GSSResponse, not taken apart.
    Password(&'a [u8]),
}

/// Parse.
#[derive(Clone, Copy, Debug)]
pub struct Parse<'a> {
    /// Statement name; empty: the unnamed one.
    pub name: &'a [u8],
    /// SQL.
    pub sql: &'a [u8],
    /// Parameter types given in advance; 0 = to be inferred. May be fewer than the parameters.
    pub types: Types<'a>,
}

/// Bind.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// Portal name; empty: the unnamed one.
    pub portal: &'a [u8],
    /// Statement name.
    pub statement: &'a [u8],
    /// Formats of the parameters.
    pub param_formats: Formats<'a>,
    /// Values of the parameters.
    pub params: Values<'a>,
    /// Formats asked for the result columns. Whether their number fits is only known with the columns.
    pub result_formats: Formats<'a>,
}

/// Execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Portal name.
    pub portal: &'a [u8],
    /// Rows at most; 0 or less: all.
    pub max_rows: i32,
}

/// What Describe and Close speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

/// A list of type OIDs in the message.
#[derive(Clone, Copy, Debug)]
pub struct Types<'a>(&'a [u8]);

impl<'a> Types<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TypeOid> + use<'a> {
        self.0
            .chunks_exact(4)
            .map(|oid| TypeOid(u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]])))
    }
}

/// A list of format codes: none (all text), one (for all), or one each.
#[derive(Clone, Copy, Debug)]
pub struct Formats<'a>(&'a [u8]);

impl<'a> Formats<'a> {
    /// How many codes are given.
    pub fn len(&self) -> usize {
        self.0.len() / 2
    }

    /// Whether none is given: all text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The codes as given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = i16> + use<'a> {
        self.0
            .chunks_exact(2)
            .map(|code| i16::from_be_bytes([code[0], code[1]]))
    }

    /// The code that holds for column or parameter `index`: 0 text, 1 binary, others are unknown to Postgres as well.
    pub fn get(&self, index: usize) -> i16 {
        let index = if self.len() == 1 { 0 } else { index };
        match self.0.get(2 * index..2 * index + 2) {
            Some(code) => i16::from_be_bytes([code[0], code[1]]),
            None => 0,
        }
    }
}

/// Values behind their lengths: parameters of Bind, columns of DataRow.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// Walks over `count` values so that iterating cannot fail.
    pub(crate) fn decode(reader: &mut Reader<'a>, count: usize) -> Result<Values<'a>, WireError> {
        let start = reader.0;
        for _ in 0..count {
            reader.value()?;
        }
        let bytes = &start[..start.len() - reader.0.len()];
        Ok(Values { count, bytes })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One by one; `None` is NULL.
    pub fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut reader = Reader(self.bytes);
        (0..self.count).map(move |_| reader.value().expect("walked over when decoded"))
    }
}

/// Decodes a whole message.
pub fn decode(tag: u8, body: &[u8]) -> Result<Frontend<'_>, WireError> {
    let mut reader = Reader(body);
    let message = match tag {
        b'Q' => Frontend::Query(reader.text()?),
        b'P' => Frontend::Parse(decode_parse(&mut reader)?),
        b'B' => Frontend::Bind(decode_bind(&mut reader)?),
        b'D' => Frontend::Describe(decode_target(&mut reader, "DESCRIBE")?),
        b'C' => Frontend::Close(decode_target(&mut reader, "CLOSE")?),
        b'E' => Frontend::Execute(Execute {
            portal: reader.text()?,
            max_rows: reader.i32()?,
        }),
        b'S' => Frontend::Sync,
        b'H' => Frontend::Flush,
        b'X' => Frontend::Terminate,
        b'F' => Frontend::FunctionCall(reader.rest()),
        b'd' => Frontend::CopyData(reader.rest()),
        b'c' => Frontend::CopyDone,
        b'f' => Frontend::CopyFail(reader.text()?),
        b'p' => Frontend::Password(reader.rest()),
        other => return Err(WireError::FrontendType(other)),
    };
    reader.end().map(|()| message)
}

fn decode_parse<'a>(reader: &mut Reader<'a>) -> Result<Parse<'a>, WireError> {
    let (name, sql) = (reader.text()?, reader.text()?);
    let count = reader.count()?;
    let types = Types(reader.take(4 * count)?);
    Ok(Parse { name, sql, types })
}

fn decode_bind<'a>(reader: &mut Reader<'a>) -> Result<Bind<'a>, WireError> {
    let (portal, statement) = (reader.text()?, reader.text()?);
    let param_formats = decode_formats(reader)?;
    let count = reader.count()?;
    if param_formats.len() > 1 && param_formats.len() != count {
        return Err(WireError::FormatCount {
            formats: param_formats.len(),
            params: count,
        });
    }
    let params = Values::decode(reader, count)?;
    let result_formats = decode_formats(reader)?;
    Ok(Bind {
        portal,
        statement,
        param_formats,
        params,
        result_formats,
    })
}

fn decode_formats<'a>(reader: &mut Reader<'a>) -> Result<Formats<'a>, WireError> {
    let count = reader.count()?;
    reader.take(2 * count).map(Formats)
}

fn decode_target<'a>(
    reader: &mut Reader<'a>,
    message: &'static str,
) -> Result<Target<'a>, WireError> {
    match (reader.u8()?, reader.text()?) {
        (b'S', name) => Ok(Target::Statement(name)),
        (b'P', name) => Ok(Target::Portal(name)),
        (subtype, _) => Err(WireError::Subtype { message, subtype }),
    }
}

/// Writes Query.
pub fn query(buf: &mut BytesMut, sql: &[u8]) {
    put_message(buf, b'Q', |buf| put_text(buf, sql));
}

/// Writes Parse.
pub fn parse(
    buf: &mut BytesMut,
    name: &[u8],
    sql: &[u8],
    types: impl IntoIterator<Item = TypeOid>,
) {
    put_message(buf, b'P', |buf| {
        put_text(buf, name);
        put_text(buf, sql);
        put_counted_list(buf, types, |buf, oid| buf.put_u32(oid.0));
    });
}

/// Writes Bind. Format lists: none (text), one (for all), or one each.
pub fn bind<'a>(
    buf: &mut BytesMut,
    portal: &[u8],
    statement: &[u8],
    param_formats: impl IntoIterator<Item = i16>,
    params: impl IntoIterator<Item = Option<&'a [u8]>>,
    result_formats: impl IntoIterator<Item = i16>,
) {
    put_message(buf, b'B', |buf| {
        put_text(buf, portal);
        put_text(buf, statement);
        put_counted_list(buf, param_formats, BytesMut::put_i16);
        put_counted_list(buf, params, put_value);
        put_counted_list(buf, result_formats, BytesMut::put_i16);
    });
}

/// Writes Describe.
pub fn describe(buf: &mut BytesMut, target: Target<'_>) {
    put_target(buf, b'D', target);
}

/// Writes Close.
pub fn close(buf: &mut BytesMut, target: Target<'_>) {
    put_target(buf, b'C', target);
}

/// Writes Execute; `max_rows` 0: all.
pub fn execute(buf: &mut BytesMut, portal: &[u8], max_rows: i32) {
    put_message(buf, b'E', |buf| {
        put_text(buf, portal);
        buf.put_i32(max_rows);
    });
}

/// Writes Sync.
pub fn sync(buf: &mut BytesMut) {
    put_message(buf, b'S', |_| ());
}

/// Writes Flush.
pub fn flush(buf: &mut BytesMut) {
    put_message(buf, b'H', |_| ());
}

/// Writes Terminate.
pub fn terminate(buf: &mut BytesMut) {
    put_message(buf, b'X', |_| ());
}

/// Writes PasswordMessage with a cleartext or md5 password.
pub fn password(buf: &mut BytesMut, password: &[u8]) {
    put_message(buf, b'p', |buf| put_text(buf, password));
}

/// Writes SASLInitialResponse.
pub fn sasl_initial(buf: &mut BytesMut, mechanism: &str, data: &[u8]) {
    put_message(buf, b'p', |buf| {
        put_text(buf, mechanism.as_bytes());
        put_value(buf, Some(data));
    });
}

/// Writes SASLResponse.
pub fn sasl_response(buf: &mut BytesMut, data: &[u8]) {
    put_message(buf, b'p', |buf| buf.put_slice(data));
}

/// Writes CopyData.
pub fn copy_data(buf: &mut BytesMut, data: &[u8]) {
    put_message(buf, b'd', |buf| buf.put_slice(data));
}

/// Writes CopyDone.
pub fn copy_done(buf: &mut BytesMut) {
    put_message(buf, b'c', |_| ());
}

/// Writes CopyFail.
pub fn copy_fail(buf: &mut BytesMut, reason: &[u8]) {
    put_message(buf, b'f', |buf| put_text(buf, reason));
}

fn put_target(buf: &mut BytesMut, tag: u8, target: Target<'_>) {
    let (kind, name) = match target {
        Target::Statement(name) => (b'S', name),
        Target::Portal(name) => (b'P', name),
    };
    put_message(buf, tag, |buf| {
        buf.put_u8(kind);
        put_text(buf, name);
    });
}

fn put_value(buf: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => buf.put_i32(-1),
        Some(value) => {
            buf.put_i32(i32::try_from(value.len()).expect("a value is below 2 GB"));
            buf.put_slice(value);
        }
    }
}

fn put_counted_list<T>(
    buf: &mut BytesMut,
    items: impl IntoIterator<Item = T>,
    put: impl Fn(&mut BytesMut, T),
) {
    let at = buf.len();
    put_count(buf, 0);
    let mut count = 0u16;
    for item in items {
        put(buf, item);
        count = count
            .checked_add(1)
            .expect("the protocol counts at most 65535");
    }
    buf[at..at + 2].copy_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests;
