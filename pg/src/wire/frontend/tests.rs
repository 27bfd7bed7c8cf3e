//! Round trips of frontend messages, and what malformed ones are answered.

use super::*;
use crate::wire::frame;
use proptest::prelude::*;

fn written(write: impl FnOnce(&mut BytesMut)) -> (u8, Vec<u8>) {
    let mut buf = BytesMut::new();
    write(&mut buf);
    let (header, body) = frame::split(&buf).unwrap().expect("a whole message");
    assert_eq!(header.total(), buf.len());
    (header.tag, body.to_vec())
}

#[test]
fn parse_reads_as_written() {
    let (tag, body) = written(|buf| parse(buf, b"s1", b"select $1", [TypeOid(23), TypeOid(0)]));
    let Frontend::Parse(parse) = decode(tag, &body).unwrap() else {
        panic!("not Parse")
    };
    assert_eq!((parse.name, parse.sql), (&b"s1"[..], &b"select $1"[..]));
    assert_eq!(
        parse.types.iter().collect::<Vec<_>>(),
        [TypeOid(23), TypeOid(0)]
    );
}

#[test]
fn bind_reads_as_written() {
    let params = [Some(&b"x"[..]), None, Some(&b""[..])];
    let (tag, body) = written(|buf| bind(buf, b"p", b"s", [1], params, [0, 1]));
    let Frontend::Bind(bind) = decode(tag, &body).unwrap() else {
        panic!("not Bind")
    };
    assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s"[..]));
    assert_eq!(bind.params.iter().collect::<Vec<_>>(), params);
    assert_eq!(bind.param_formats.get(2), 1, "one format holds for all");
    assert_eq!(bind.result_formats.iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(
        (bind.result_formats.get(0), bind.result_formats.get(1)),
        (0, 1)
    );
}

#[test]
fn small_messages_read_as_written() {
    let (tag, body) = written(|buf| execute(buf, b"c", 10));
    assert!(matches!(
        decode(tag, &body),
        Ok(Frontend::Execute(Execute {
            portal: b"c",
            max_rows: 10
        }))
    ));
    let (tag, body) = written(|buf| describe(buf, Target::Statement(b"s")));
    assert!(matches!(
        decode(tag, &body),
        Ok(Frontend::Describe(Target::Statement(b"s")))
    ));
    let (tag, body) = written(|buf| close(buf, Target::Portal(b"")));
    assert!(matches!(
        decode(tag, &body),
        Ok(Frontend::Close(Target::Portal(b"")))
    ));
    let (tag, body) = written(|buf| query(buf, b"select 1"));
    assert!(matches!(
        decode(tag, &body),
        Ok(Frontend::Query(b"select 1"))
    ));
    for (write, expected) in [
        (sync as fn(&mut BytesMut), b'S'),
        (flush, b'H'),
        (terminate, b'X'),
        (copy_done, b'c'),
    ] {
        let (tag, body) = written(write);
        assert_eq!(tag, expected);
        assert!(body.is_empty() && decode(tag, &body).is_ok());
    }
}

#[test]
fn malformed_messages_get_postgres_wording() {
    let says = |tag, body: &[u8]| decode(tag, body).unwrap_err().to_string();
    assert_eq!(says(b'Q', b"select 1"), "invalid string in message");
    assert_eq!(says(b'Q', b"a\0b"), "invalid message format");
    assert_eq!(says(b'S', b"x"), "invalid message format");
    assert_eq!(says(b'E', b"p\0\0"), "insufficient data left in message");
    assert_eq!(says(b'D', b"Xs\0"), "invalid DESCRIBE message subtype 88");
    assert_eq!(says(b'y', b""), "invalid frontend message type 121");
    let two_formats_one_param = b"\0\0\0\x02\0\0\0\0\0\x01\xff\xff\xff\xff\0\0";
    assert_eq!(
        says(b'B', two_formats_one_param),
        "bind message has 2 parameter formats but 1 parameters"
    );
    let negative_length = b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0";
    assert_eq!(
        says(b'B', negative_length),
        "insufficient data left in message"
    );
}

#[test]
fn zero_bytes_cannot_forge_the_next_field() {
    let (_, body) = written(|buf| parse(buf, b"a\0b", b"select 1\0x", []));
    assert_eq!(body, b"a\0select 1\0\0\0");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(tag: u8, known in prop::sample::select(b"QPBDCESHXFdcfp".to_vec()), body in prop::collection::vec(0u8..4, 0..80)) {
        for tag in [tag, known] {
            match decode(tag, &body) {
                Ok(Frontend::Bind(bind)) => {
                    prop_assert_eq!(bind.params.iter().count(), bind.params.len());
                }
                Ok(Frontend::Parse(parse)) => prop_assert_eq!(parse.types.iter().count(), parse.types.len()),
                _ => {}
            }
        }
    }

    #[test]
    fn cutting_a_bind_short_is_an_error(cut in 0usize..30) {
        let (tag, body) = written(|buf| bind(buf, b"p", b"s", [1, 0], [Some(&b"xyz"[..]), None], [1]));
        if cut < body.len() {
            prop_assert!(decode(tag, &body[..cut]).is_err());
        }
    }
}
