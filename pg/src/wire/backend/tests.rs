//! Round trips of backend messages; random bytes.

use super::*;
use crate::sqlstate::{Field, SqlState};
use crate::wire::frame;
use proptest::prelude::*;

fn written(write: impl FnOnce(&mut BytesMut)) -> (u8, Vec<u8>) {
    let mut buf = BytesMut::from(&b"before"[..]);
    write(&mut buf);
    let (header, body) = frame::split(&buf[6..]).unwrap().expect("a whole message");
    assert_eq!(header.total() + 6, buf.len());
    (header.tag, body.to_vec())
}

#[test]
fn rows_read_as_written() {
    let (tag, body) = written(|buf| {
        let mut row = DataRow::begin(buf, 4);
        row.put_value(b"abc");
        row.put_null();
        row.put_with(|buf| buf.put_slice(b"12"));
        row.put_value(b"");
        row.finish();
    });
    let Backend::DataRow(values) = decode(tag, &body).unwrap() else {
        panic!("not DataRow")
    };
    let expected = [Some(&b"abc"[..]), None, Some(b"12"), Some(b"")];
    assert_eq!(values.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn an_unfinished_row_is_taken_back() {
    let mut buf = BytesMut::from(&b"x"[..]);
    DataRow::begin(&mut buf, 2).put_null();
    assert_eq!(&buf[..], b"x");
}

#[test]
fn descriptions_read_as_written() {
    let field = FieldDescription {
        name: b"id",
        table: TableOid(16384),
        attnum: 1,
        type_oid: TypeOid(20),
        type_len: 8,
        type_modifier: -1,
        format: 1,
    };
    let (_, body) = written(|buf| row_description(buf, [field, field].into_iter()));
    let columns = decode_row_description(&body).unwrap();
    assert_eq!(columns.iter().collect::<Vec<_>>(), [field, field]);
}

#[test]
fn errors_keep_all_fields() {
    let error = ErrorFields::error(SqlState::UNIQUE_VIOLATION, "duplicate key")
        .detail("Key (id)=(1) already exists.")
        .table("public", "t")
        .constraint("t_pkey")
        .with(Field::Line, "1");
    let (tag, body) = written(|buf| error_response(buf, &error));
    assert_eq!(tag, b'E');
    assert_eq!(decode_error(&body).unwrap(), error);
    let unknown = b"SERROR\0C23505\0Mx\0Zfuture\0\0";
    assert_eq!(decode_error(unknown).unwrap().iter().count(), 4);
}

#[test]
fn small_messages_read_as_written() {
    let (tag, body) = written(|buf| ready_for_query(buf, TransactionStatus::Failed));
    assert!(matches!(
        decode(tag, &body),
        Ok(Backend::ReadyForQuery(TransactionStatus::Failed))
    ));
    let (tag, body) = written(|buf| command_complete(buf, b"INSERT 0 1"));
    assert!(matches!(
        decode(tag, &body),
        Ok(Backend::CommandComplete(b"INSERT 0 1"))
    ));
    let (tag, body) = written(|buf| parameter_status(buf, b"TimeZone", b"UTC"));
    assert!(matches!(
        decode(tag, &body),
        Ok(Backend::ParameterStatus(b"TimeZone", b"UTC"))
    ));
    let (tag, body) = written(|buf| backend_key_data(buf, 9, b"1234"));
    assert!(
        matches!(decode(tag, &body), Ok(Backend::BackendKeyData(key)) if key.pid == 9 && key.secret == b"1234")
    );
    let (tag, body) = written(authentication_ok);
    assert!(matches!(
        decode(tag, &body),
        Ok(Backend::Authentication(Authentication::Ok))
    ));
    let (tag, body) = written(|buf| {
        negotiate_protocol_version(buf, (3, 2), [&b"_pq_.x"[..]].into_iter());
    });
    assert_eq!(
        (tag, &body[..]),
        (b'v', &b"\0\x03\0\x02\0\0\0\x01_pq_.x\0"[..])
    );
    let (_, body) = written(|buf| parameter_description(buf, &[TypeOid(23)]));
    assert_eq!(body, b"\0\x01\0\0\0\x17");
}

#[test]
fn mechanisms_are_listed() {
    let body = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    let expected = Authentication::Sasl(vec![b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]);
    assert_eq!(authentication(body), Ok(expected));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(tag in prop::sample::select(b"RSKZTDCENAdc1".to_vec()), body in prop::collection::vec(0u8..6, 0..80)) {
        match decode(tag, &body) {
            Ok(Backend::RowDescription(columns)) => prop_assert_eq!(columns.iter().count(), columns.len()),
            Ok(Backend::DataRow(values)) => prop_assert_eq!(values.iter().count(), values.len()),
            _ => {}
        }
    }
}
