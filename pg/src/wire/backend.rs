//! What Postgres says, written for a client: one function per message, straight into the output buffer. Never decides what to say.

use super::{patch_length, put_count, put_message, put_text};
use crate::ids::{TableOid, TypeOid};
use crate::sqlstate::ErrorFields;
use bytes::{BufMut, BytesMut};

mod decode;
pub use decode::Authentication;
pub use decode::{
    Backend, Columns, Notification, authentication, decode, decode_data_row, decode_error,
    decode_parameter_status, decode_row_description,
};

/// Transaction status in ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    Idle = b'I',
    /// In a transaction block.
    InTransaction = b'T',
    /// In a failed transaction block.
    Failed = b'E',
}

impl TransactionStatus {
    /// The status for its byte.
    pub fn from_byte(byte: u8) -> Option<TransactionStatus> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InTransaction),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }
}

/// A column of RowDescription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldDescription<'a> {
    /// Name, in the client's encoding.
    pub name: &'a [u8],
    /// Table it comes from, 0 when it is computed.
    pub table: TableOid,
    /// `attnum` there, else 0.
    pub attnum: i16,
    /// Data type.
    pub type_oid: TypeOid,
    /// `typlen`: negative when it varies.
    pub type_len: i16,
    /// `atttypmod`, −1 without one.
    pub type_modifier: i32,
    /// 0 text, 1 binary; always 0 after Describe of a statement.
    pub format: i16,
}

/// Writes AuthenticationOk.
pub fn authentication_ok(buf: &mut BytesMut) {
    put_message(buf, b'R', |buf| buf.put_i32(0));
}

/// Writes ParameterStatus.
pub fn parameter_status(buf: &mut BytesMut, name: &[u8], value: &[u8]) {
    put_message(buf, b'S', |buf| {
        put_text(buf, name);
        put_text(buf, value);
    });
}

/// Writes BackendKeyData. Protocol 3.0 knows only secrets of 4 bytes.
pub fn backend_key_data(buf: &mut BytesMut, pid: u32, secret: &[u8]) {
    put_message(buf, b'K', |buf| {
        buf.put_u32(pid);
        buf.put_slice(secret);
    });
}

/// Writes ReadyForQuery.
pub fn ready_for_query(buf: &mut BytesMut, status: TransactionStatus) {
    put_message(buf, b'Z', |buf| buf.put_u8(status as u8));
}

/// Writes ParseComplete.
pub fn parse_complete(buf: &mut BytesMut) {
    put_message(buf, b'1', |_| ());
}

/// Writes BindComplete.
pub fn bind_complete(buf: &mut BytesMut) {
    put_message(buf, b'2', |_| ());
}

/// Writes CloseComplete.
pub fn close_complete(buf: &mut BytesMut) {
    put_message(buf, b'3', |_| ());
}

/// Writes NoData.
pub fn no_data(buf: &mut BytesMut) {
    put_message(buf, b'n', |_| ());
}

/// Writes PortalSuspended.
pub fn portal_suspended(buf: &mut BytesMut) {
    put_message(buf, b's', |_| ());
}

/// Writes EmptyQueryResponse.
pub fn empty_query_response(buf: &mut BytesMut) {
    put_message(buf, b'I', |_| ());
}

/// Writes CommandComplete.
pub fn command_complete(buf: &mut BytesMut, tag: &[u8]) {
    put_message(buf, b'C', |buf| put_text(buf, tag));
}

/// Writes ParameterDescription.
pub fn parameter_description(buf: &mut BytesMut, types: &[TypeOid]) {
    put_message(buf, b't', |buf| {
        put_count(buf, types.len());
        types.iter().for_each(|oid| buf.put_u32(oid.0));
    });
}

/// Writes RowDescription.
pub fn row_description<'a>(
    buf: &mut BytesMut,
    fields: impl ExactSizeIterator<Item = FieldDescription<'a>>,
) {
    put_message(buf, b'T', |buf| {
        put_count(buf, fields.len());
        for field in fields {
            put_text(buf, field.name);
            buf.put_u32(field.table.0);
            buf.put_i16(field.attnum);
            buf.put_u32(field.type_oid.0);
            buf.put_i16(field.type_len);
            buf.put_i32(field.type_modifier);
            buf.put_i16(field.format);
        }
    });
}

/// Writes ErrorResponse.
pub fn error_response(buf: &mut BytesMut, error: &ErrorFields) {
    put_fields(buf, b'E', error);
}

/// Writes NoticeResponse.
pub fn notice_response(buf: &mut BytesMut, notice: &ErrorFields) {
    put_fields(buf, b'N', notice);
}

fn put_fields(buf: &mut BytesMut, tag: u8, fields: &ErrorFields) {
    put_message(buf, tag, |buf| {
        for (code, value) in fields.iter() {
            buf.put_u8(code);
            put_text(buf, value);
        }
        buf.put_u8(0);
    });
}

/// Writes NegotiateProtocolVersion: the newest version spoken here, and the options refused.
pub fn negotiate_protocol_version<'a>(
    buf: &mut BytesMut,
    (major, minor): (u16, u16),
    refused: impl Iterator<Item = &'a [u8]> + Clone,
) {
    put_message(buf, b'v', |buf| {
        buf.put_u16(major);
        buf.put_u16(minor);
        let count = refused.clone().count();
        buf.put_i32(i32::try_from(count).expect("a startup packet is below 10 kB"));
        refused.for_each(|name| put_text(buf, name));
    });
}

/// A DataRow being written, column by column. Dropped without [`DataRow::finish`] it is taken back.
#[derive(Debug)]
pub struct DataRow<'b> {
    buf: &'b mut BytesMut,
    start: usize,
    left: u16,
    finished: bool,
}

impl<'b> DataRow<'b> {
    /// Begins a row of that many columns.
    pub fn begin(buf: &'b mut BytesMut, columns: usize) -> DataRow<'b> {
        let left = u16::try_from(columns).expect("a Postgres row has at most 1664 columns");
        let start = buf.len();
        buf.put_u8(b'D');
        buf.put_u32(0);
        buf.put_u16(left);
        DataRow {
            buf,
            start,
            left,
            finished: false,
        }
    }

    /// NULL.
    pub fn put_null(&mut self) {
        self.count_column();
        self.buf.put_i32(-1);
    }

    /// A value in its final form.
    pub fn put_value(&mut self, value: &[u8]) {
        self.put_with(|buf| buf.put_slice(value));
    }

    /// A value that is what `write` appends.
    pub fn put_with<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        self.count_column();
        let at = self.buf.len();
        self.buf.put_u32(0);
        let result = write(self.buf);
        patch_length(self.buf, at, at + 4);
        result
    }

    /// Ends the row; all columns must have been put.
    pub fn finish(mut self) {
        assert_eq!(self.left, 0, "columns are missing");
        patch_length(self.buf, self.start + 1, self.start + 1);
        self.finished = true;
    }

    fn count_column(&mut self) {
        self.left = self.left.checked_sub(1).expect("too many columns");
    }
}

impl Drop for DataRow<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.buf.truncate(self.start);
        }
    }
}

#[cfg(test)]
mod tests;
