//! Whatever the pieces in which Postgres's words arrive, the client gets the same bytes and the session the same reports.

use super::*;
use proptest::prelude::*;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::backend::{self, TransactionStatus};

fn name(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn parse(quiet: bool) -> Expect {
    Expect::Parse {
        name: name("s"),
        before: None,
        quiet,
    }
}

fn bind(quiet: bool) -> Expect {
    Expect::Bind {
        name: name("p"),
        before: None,
        quiet,
    }
}

fn error(buf: &mut BytesMut, message: &str) {
    let fields = ErrorFields::error(SqlState::DIVISION_BY_ZERO, message);
    backend::error_response(buf, &fields);
}

fn row(buf: &mut BytesMut, value: &[u8]) {
    let mut row = backend::DataRow::begin(buf, 1);
    row.put_value(value);
    row.finish();
}

/// Feeds `said` in pieces that end at `cuts`; gives what the client gets and what is reported.
fn run(expects: Vec<Expect>, said: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<Said>) {
    let (mut relay, mut names) = (Relay::default(), Names::default());
    expects
        .into_iter()
        .for_each(|expect| relay.awaited.push(expect));
    let (mut input, mut output, mut reports) = (BytesMut::new(), BytesMut::new(), Vec::new());
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (said.len() + 1)).collect();
    ends.push(said.len());
    ends.sort_unstable();
    let (mut start, mut client) = (0, Vec::new());
    for end in ends {
        input.extend_from_slice(&said[start..end]);
        start = end;
        loop {
            match relay.step(&mut input, &mut output, &mut names) {
                Said::Nothing => break,
                Said::Nonsense(tag) => {
                    reports.push(Said::Nonsense(tag));
                    return (client, reports);
                }
                report => reports.push(report),
            }
        }
        client.extend_from_slice(&output.split());
    }
    (client, reports)
}

fn expects() -> Vec<Expect> {
    let name = name("gone");
    vec![
        Expect::Own,
        parse(true),
        bind(false),
        Expect::Describe,
        Expect::Execute,
        parse(false),
        Expect::ClosePortal { name, before: None },
        Expect::Sync,
        Expect::Refused {
            error: Bytes::from_static(b"E\0\0\0\x05\0"),
        },
        Expect::Sync,
        Expect::Query { before: None },
    ]
}

fn said() -> (BytesMut, BytesMut) {
    let (mut said, mut wanted) = (BytesMut::new(), BytesMut::new());
    let mut both = |write: &dyn Fn(&mut BytesMut)| {
        write(&mut said);
        write(&mut wanted);
        std::mem::take(&mut said)
    };
    let mut all = BytesMut::new();
    let own: &dyn Fn(&mut BytesMut) = &|buf| {
        backend::row_description(buf, std::iter::empty());
        row(buf, b"own");
        backend::command_complete(buf, b"SELECT 1");
    };
    own(&mut all);
    all.extend_from_slice(&both(&|buf| {
        backend::parameter_status(buf, b"TimeZone", b"UTC")
    }));
    backend::ready_for_query(&mut all, TransactionStatus::InTransaction);
    backend::parse_complete(&mut all);
    all.extend_from_slice(&both(&|buf| {
        backend::bind_complete(buf);
        backend::row_description(buf, std::iter::empty());
        row(buf, &[7; 300]);
        backend::notice_response(buf, &ErrorFields::notice("by the way"));
        row(buf, b"");
        backend::command_complete(buf, b"SELECT 2");
        error(buf, "the second Parse");
    }));
    backend::ready_for_query(&mut all, TransactionStatus::Failed);
    error(&mut all, "made to fail");
    wanted_refusal(&mut all, &mut wanted);
    (all, wanted)
}

fn wanted_refusal(all: &mut BytesMut, wanted: &mut BytesMut) {
    wanted.extend_from_slice(b"E\0\0\0\x05\0");
    backend::ready_for_query(all, TransactionStatus::Failed);
    let mut copy = BytesMut::new();
    copy.extend_from_slice(b"G\0\0\0\x07\0\0\0");
    error(&mut copy, "of a simple query");
    all.extend_from_slice(&copy);
    wanted.extend_from_slice(&copy);
    backend::ready_for_query(all, TransactionStatus::Idle);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(cuts in proptest::collection::vec(any::<usize>(), 0..40)) {
        let (said, wanted) = said();
        let (client, reports) = run(expects(), &said, &cuts);
        prop_assert_eq!(&client[..], &wanted[..]);
        let own = OwnAnswer {
            row: Some(vec![Some("own".to_owned())]),
            counts: Vec::new(),
            error: None,
            status: b'T',
        };
        let expected = [
            Said::Setting(name("TimeZone"), name("UTC")),
            Said::OwnDone(own),
            Said::Failed,
            Said::Ready(b'E'),
            Said::Failed,
            Said::Ready(b'E'),
            Said::CopyIn,
            Said::Ready(b'I'),
        ];
        prop_assert_eq!(&reports[..], &expected[..]);
    }
}

#[test]
fn an_answer_to_no_question_is_nonsense() {
    let (client, reports) = run(vec![Expect::Sync], b"2\0\0\0\x04", &[]);
    assert_eq!(
        (client.len(), &reports[..]),
        (0, &[Said::Nonsense(b'2')][..])
    );
}

#[test]
fn an_error_when_nothing_was_asked_is_withheld() {
    let mut said = BytesMut::new();
    error(&mut said, "terminating connection");
    let (client, reports) = run(Vec::new(), &said, &[3]);
    assert_eq!((client.len(), reports.len()), (0, 0));
}
