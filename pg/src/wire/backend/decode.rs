//! What Postgres says, read by a session or the replication client. Borrows from the body. Never needed for messages that are only relayed.

use super::{FieldDescription, TransactionStatus};
use crate::ids::{TableOid, TypeOid};
use crate::sqlstate::ErrorFields;
use crate::wire::frontend::Values;
use crate::wire::startup::CancelKey;
use crate::wire::{Reader, WireError};

/// A backend message that somebody here reads.
#[derive(Clone, Debug)]
pub enum Backend<'a> {
    /// `R`
    Authentication(Authentication<'a>),
    /// `S`: name and value.
    ParameterStatus(&'a [u8], &'a [u8]),
    /// `K`
    BackendKeyData(CancelKey),
    /// `Z`
    ReadyForQuery(TransactionStatus),
    /// `T`
    RowDescription(Columns<'a>),
    /// `D`
    DataRow(Values<'a>),
    /// `C`: the tag.
    CommandComplete(&'a [u8]),
    /// `E`
    Error(ErrorFields),
    /// `N`
    Notice(ErrorFields),
    /// `A`
    Notification(Notification<'a>),
    /// `d`
    CopyData(&'a [u8]),
    /// `c`
    CopyDone,
    /// Any other type, not taken apart: tag and body.
    Other(u8, &'a [u8]),
}

/// NotificationResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Process id of the notifying backend.
    pub pid: u32,
    /// Channel.
    pub channel: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

/// What an Authentication message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Done.
    Ok,
    /// The password as it is.
    Cleartext,
    /// The password hashed with this salt.
    Md5([u8; 4]),
    /// Choose a mechanism.
    Sasl(Vec<&'a [u8]>),
    /// The server's challenge.
    SaslContinue(&'a [u8]),
    /// The server's proof.
    SaslFinal(&'a [u8]),
    /// A method by its number that is not done here (Kerberos, GSS, SSPI, …).
    Other(u32),
}

/// The columns of a RowDescription; walked over when decoded.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Columns<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = FieldDescription<'a>> + use<'a> {
        let mut reader = Reader(self.bytes);
        (0..self.count).map(move |_| decode_field(&mut reader).expect("walked over when decoded"))
    }
}

/// Decodes a whole message.
pub fn decode(tag: u8, body: &[u8]) -> Result<Backend<'_>, WireError> {
    let mut reader = Reader(body);
    Ok(match tag {
        b'R' => Backend::Authentication(authentication(body)?),
        b'S' => {
            let (name, value) = decode_parameter_status(body)?;
            Backend::ParameterStatus(name, value)
        }
        b'K' => Backend::BackendKeyData(CancelKey {
            pid: reader.u32()?,
            secret: reader.rest().to_vec(),
        }),
        b'Z' => {
            let status = TransactionStatus::from_byte(reader.u8()?).ok_or(WireError::Format)?;
            reader.end()?;
            Backend::ReadyForQuery(status)
        }
        b'T' => Backend::RowDescription(decode_row_description(body)?),
        b'D' => Backend::DataRow(decode_data_row(body)?),
        b'C' => {
            let tag = reader.text()?;
            reader.end()?;
            Backend::CommandComplete(tag)
        }
        b'E' => Backend::Error(decode_error(body)?),
        b'N' => Backend::Notice(decode_error(body)?),
        b'A' => {
            let (pid, channel, payload) = (reader.u32()?, reader.text()?, reader.text()?);
            reader.end()?;
            Backend::Notification(Notification {
                pid,
                channel,
                payload,
            })
        }
        b'd' => Backend::CopyData(body),
        b'c' => Backend::CopyDone,
        other => Backend::Other(other, body),
    })
}

/// Decodes the body of an Authentication message.
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, WireError> {
    let mut reader = Reader(body);
    let asked = match reader.u32()? {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5(reader.u32()?.to_be_bytes()),
        10 => Authentication::Sasl(decode_mechanisms(&mut reader)?),
        11 => Authentication::SaslContinue(reader.rest()),
        12 => Authentication::SaslFinal(reader.rest()),
        other => {
            reader.rest();
            Authentication::Other(other)
        }
    };
    reader.end().map(|()| asked)
}

fn decode_mechanisms<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, WireError> {
    let mut mechanisms = Vec::new();
    loop {
        match reader.text()? {
            [] => return Ok(mechanisms),
            mechanism => mechanisms.push(mechanism),
        }
    }
}

/// Decodes the body of ParameterStatus into name and value.
pub fn decode_parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let mut reader = Reader(body);
    let pair = (reader.text()?, reader.text()?);
    reader.end().map(|()| pair)
}

/// Decodes the body of ErrorResponse or NoticeResponse; fields unknown here are kept.
pub fn decode_error(body: &[u8]) -> Result<ErrorFields, WireError> {
    let (mut reader, mut fields) = (Reader(body), ErrorFields::empty());
    loop {
        match reader.u8()? {
            0 => return reader.end().map(|()| fields),
            code => fields.push(code, reader.text()?),
        }
    }
}

/// Decodes the body of RowDescription.
pub fn decode_row_description(body: &[u8]) -> Result<Columns<'_>, WireError> {
    let mut reader = Reader(body);
    let count = reader.count()?;
    let bytes = reader.0;
    for _ in 0..count {
        decode_field(&mut reader)?;
    }
    reader.end().map(|()| Columns { count, bytes })
}

fn decode_field<'a>(reader: &mut Reader<'a>) -> Result<FieldDescription<'a>, WireError> {
    Ok(FieldDescription {
        name: reader.text()?,
        table: TableOid(reader.u32()?),
        attnum: reader.i16()?,
        type_oid: TypeOid(reader.u32()?),
        type_len: reader.i16()?,
        type_modifier: reader.i32()?,
        format: reader.i16()?,
    })
}

/// Decodes the body of DataRow.
pub fn decode_data_row(body: &[u8]) -> Result<Values<'_>, WireError> {
    let mut reader = Reader(body);
    let count = reader.count()?;
    let values = Values::decode(&mut reader, count)?;
    reader.end().map(|()| values)
}
