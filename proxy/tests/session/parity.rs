//! Scripts of raw messages whose answers must be the same with and without the proxy.

use super::postgres::postgres;
use super::proxy::transparent;
use super::raw::{Message, Raw, bind, finish, parse, run, tags};
use bytes::BytesMut;
use ripen_pg::wire::frontend::{self, Target};

/// Runs a script on both and compares all answers.
#[track_caller]
fn same(script: impl Fn(&mut Raw) -> Vec<Message>) -> Vec<Message> {
    let direct = script(&mut Raw::connect(postgres().port));
    let proxy = transparent();
    let proxied = script(&mut Raw::connect(proxy.port));
    for (number, (left, right)) in direct.iter().zip(&proxied).enumerate() {
        assert_eq!(
            left, right,
            "message {number}: direct on the left, proxied on the right"
        );
    }
    assert_eq!(tags(&direct), tags(&proxied));
    proxied
}

#[test]
fn the_greeting_is_postgres_own() {
    let proxy = transparent();
    let (direct, proxied) = (Raw::connect(postgres().port), Raw::connect(proxy.port));
    assert_eq!(direct.greeting, proxied.greeting);
    assert!(proxied.key.is_some());
}

#[test]
fn simple_queries_are_answered_alike() {
    let messages = same(|raw| {
        let texts = [
            "SELECT 1, 'a', NULL::text",
            "",
            " ; ",
            "SELECT 1; SELECT 2",
            "SELECT 1; SELECT 1/0; SELECT 3",
            "SELEC 1",
            "BEGIN",
            "SELECT 1/0",
            "SELECT 1",
            "ROLLBACK",
            "COMMIT",
            "BEGIN; SELECT 1; COMMIT; SELECT 2",
            "DO $$ BEGIN RAISE NOTICE 'hello'; RAISE WARNING 'there' USING DETAIL = 'd', HINT = 'h'; END $$",
            "SET application_name TO 'x'",
            "SET TimeZone TO 'UTC'",
            "SHOW application_name",
            "CREATE TABLE t (a int PRIMARY KEY)",
            "INSERT INTO t VALUES (1), (2)",
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = a + 5",
            "DELETE FROM t",
            "DROP TABLE t",
            "BEGIN; SAVEPOINT s; SELECT 1/0; ROLLBACK TO s; COMMIT",
            "ROLLBACK",
        ];
        texts.iter().flat_map(|sql| raw.query(sql)).collect()
    });
    assert!(tags(&messages).contains('N'));
}

#[test]
fn pipelines_skip_to_sync_after_an_error() {
    let messages = same(|raw| {
        run(&mut raw.out, "SELECT $1::int + 1", &[Some("41")]);
        run(&mut raw.out, "SELECT 1/0", &[]);
        run(&mut raw.out, "SELECT 3", &[]);
        frontend::query(&mut raw.out, b"SELECT 'ignored'");
        frontend::sync(&mut raw.out);
        run(&mut raw.out, "SELECT 4", &[]);
        let mut answers = finish(raw);
        answers.extend(raw.until(b'Z'));
        answers
    });
    assert_eq!(tags(&messages), "12TDC1EZ12TDCZ");
}

#[test]
fn many_pipelined_segments_keep_their_order() {
    let messages = same(|raw| {
        for number in 0..200 {
            run(
                &mut raw.out,
                "SELECT $1::text",
                &[Some(&number.to_string())],
            );
            frontend::sync(&mut raw.out);
            frontend::query(&mut raw.out, format!("SELECT {number}").as_bytes());
        }
        raw.send();
        (0..400).flat_map(|_| raw.until(b'Z')).collect()
    });
    assert_eq!(tags(&messages), "12TDCZTDCZ".repeat(200));
}

#[test]
fn a_pipeline_longer_than_the_awaited_replies_is_answered() {
    let messages = same(|raw| {
        for _ in 0..3000 {
            parse(&mut raw.out, "", "SELECT 1");
            bind(&mut raw.out, "", "", &[]);
            frontend::execute(&mut raw.out, b"", 0);
        }
        finish(raw)
    });
    assert_eq!(messages.len(), 3000 * 4 + 1);
}

#[test]
fn named_statements_and_portals_live_and_die_as_in_postgres() {
    same(|raw| {
        let mut answers = Vec::new();
        parse(&mut raw.out, "s", "SELECT generate_series(1, $1::int)");
        frontend::describe(&mut raw.out, Target::Statement(b"s"));
        answers.extend(finish(raw));
        parse(&mut raw.out, "s", "SELECT 2");
        answers.extend(finish(raw));
        answers.extend(raw.query("BEGIN"));
        bind(&mut raw.out, "p", "s", &[Some("5")]);
        frontend::execute(&mut raw.out, b"p", 2);
        frontend::flush(&mut raw.out);
        raw.send();
        answers.extend(raw.until(b's'));
        answers.extend(finish(raw));
        for limit in [2, 2, 2] {
            frontend::execute(&mut raw.out, b"p", limit);
            answers.extend(finish(raw));
        }
        bind(&mut raw.out, "p", "s", &[Some("1")]);
        answers.extend(finish(raw));
        answers.extend(raw.query("ROLLBACK"));
        frontend::execute(&mut raw.out, b"p", 0);
        answers.extend(finish(raw));
        frontend::close(&mut raw.out, Target::Statement(b"s"));
        frontend::close(&mut raw.out, Target::Portal(b"nothing"));
        bind(&mut raw.out, "", "s", &[Some("1")]);
        answers.extend(finish(raw));
        answers.extend(raw.query("PREPARE q AS SELECT 7"));
        bind(&mut raw.out, "", "q", &[]);
        frontend::execute(&mut raw.out, b"", 0);
        answers.extend(finish(raw));
        parse(&mut raw.out, "", "SELECT 8");
        answers.extend(finish(raw));
        answers.extend(raw.query("SELECT 9"));
        bind(&mut raw.out, "", "", &[]);
        answers.extend(finish(raw));
        answers
    });
}

#[test]
fn copy_in_out_and_failed_are_relayed() {
    same(|raw| {
        let mut answers = raw.query("CREATE TEMP TABLE c (a int, b text)");
        frontend::query(&mut raw.out, b"COPY c FROM STDIN");
        frontend::copy_data(&mut raw.out, b"1\tone\n");
        frontend::sync(&mut raw.out);
        frontend::flush(&mut raw.out);
        frontend::copy_data(&mut raw.out, b"2\ttwo\n");
        frontend::copy_done(&mut raw.out);
        raw.send();
        answers.extend(raw.until(b'Z'));
        frontend::query(&mut raw.out, b"COPY c FROM STDIN");
        frontend::copy_data(&mut raw.out, b"3\tthree\n");
        frontend::copy_fail(&mut raw.out, b"no more");
        raw.send();
        answers.extend(raw.until(b'Z'));
        frontend::query(
            &mut raw.out,
            b"COPY c FROM STDIN; SELECT 1; COPY c FROM STDIN",
        );
        frontend::copy_data(&mut raw.out, b"4\tfour\n");
        frontend::copy_done(&mut raw.out);
        frontend::copy_data(&mut raw.out, b"not a number\n");
        frontend::copy_data(&mut raw.out, b"ignored\n");
        frontend::copy_done(&mut raw.out);
        raw.send();
        answers.extend(raw.until(b'Z'));
        answers.extend(raw.query("COPY c TO STDOUT"));
        answers.extend(raw.query("SELECT a + 0, b || '' FROM c"));
        answers
    });
}

#[test]
fn copy_in_by_the_extended_protocol_ignores_its_first_sync() {
    let messages = same(|raw| {
        let mut answers = raw.query("CREATE TEMP TABLE c (a int)");
        for bad in [false, true] {
            parse(&mut raw.out, "", "COPY c FROM STDIN");
            bind(&mut raw.out, "", "", &[]);
            frontend::execute(&mut raw.out, b"", 0);
            frontend::sync(&mut raw.out);
            raw.send();
            answers.extend(raw.until(b'G'));
            frontend::copy_data(&mut raw.out, if bad { b"x\n" } else { b"1\n" });
            frontend::copy_done(&mut raw.out);
            answers.extend(finish(raw));
            // All at once, not waiting for CopyInResponse.
            parse(&mut raw.out, "", "COPY c FROM STDIN");
            bind(&mut raw.out, "", "", &[]);
            frontend::execute(&mut raw.out, b"", 0);
            frontend::sync(&mut raw.out);
            frontend::copy_data(&mut raw.out, if bad { b"y\n" } else { b"2\n" });
            frontend::copy_done(&mut raw.out);
            answers.extend(finish(raw));
        }
        parse(&mut raw.out, "", "COPY c TO STDOUT");
        bind(&mut raw.out, "", "", &[]);
        frontend::execute(&mut raw.out, b"", 0);
        answers.extend(finish(raw));
        answers
    });
    assert!(tags(&messages).ends_with("12HddcCZ"));
}

#[test]
fn copy_in_by_the_extended_protocol_may_fail_before_its_end() {
    let messages = same(|raw| {
        let mut answers = raw.query("CREATE TEMP TABLE c (a int)");
        begin_copy(raw);
        answers.extend(raw.until(b'G'));
        frontend::copy_data(&mut raw.out, b"x\n");
        raw.send();
        answers.extend(raw.until(b'E'));
        frontend::copy_data(&mut raw.out, b"1\n");
        frontend::copy_done(&mut raw.out);
        answers.extend(finish(raw));
        answers
    });
    assert!(tags(&messages).ends_with("12GEZ"));
}

#[test]
fn copy_in_may_fail_before_it_reads_the_sync_sent_ahead() {
    let messages = same(|raw| {
        let mut answers = raw.query(
            "BEGIN;
             CREATE TEMP TABLE c (a int);
             CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
             CREATE TRIGGER refuse BEFORE INSERT ON c FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()",
        );
        begin_copy(raw);
        answers.extend(raw.until(b'Z'));
        answers.extend(raw.query("ROLLBACK"));
        answers
    });
    assert!(tags(&messages).ends_with("12GEZCZ"));
}

/// Sends the Sync ahead of the data, as libpq does.
fn begin_copy(raw: &mut Raw) {
    parse(&mut raw.out, "", "COPY c FROM STDIN");
    bind(&mut raw.out, "", "", &[]);
    frontend::execute(&mut raw.out, b"", 0);
    frontend::sync(&mut raw.out);
    raw.send();
}

#[test]
fn function_calls_are_relayed() {
    let messages = same(|raw| {
        let oid = |raw: &mut Raw, name: &str| {
            raw.value(&format!("SELECT '{name}'::regproc::oid"))
                .parse::<u32>()
                .unwrap()
        };
        let mut answers = Vec::new();
        let (sqrt, div) = (oid(raw, "dsqrt"), oid(raw, "int4div"));
        for (function, arguments) in [(sqrt, vec!["16"]), (div, vec!["1", "0"]), (0, vec![])] {
            let mut body = Vec::new();
            body.extend_from_slice(&function.to_be_bytes());
            body.extend_from_slice(&0u16.to_be_bytes());
            body.extend_from_slice(&(arguments.len() as u16).to_be_bytes());
            for argument in arguments {
                body.extend_from_slice(&(argument.len() as u32).to_be_bytes());
                body.extend_from_slice(argument.as_bytes());
            }
            body.extend_from_slice(&0u16.to_be_bytes());
            message(&mut raw.out, b'F', &body);
            raw.send();
            answers.extend(raw.until(b'Z'));
        }
        answers
    });
    assert!(tags(&messages).starts_with("VZEZ"));
}

fn message(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.extend_from_slice(&[tag]);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

#[test]
fn malformed_messages_fail_as_in_postgres() {
    same(|raw| {
        let mut answers = Vec::new();
        for (tag, body) in [
            (b'B', &b"x"[..]),
            (b'P', b"\0SELECT 1\0"),
            (b'E', b"\0"),
            (b'D', b"Zx\0"),
            (b'C', b"Qx\0"),
            (b'D', b"Snone\0"),
            (b'D', b"Pnone\0"),
            (b'E', b"none\0\0\0\0\0"),
        ] {
            message(&mut raw.out, tag, body);
            answers.extend(finish(raw));
        }
        message(&mut raw.out, b'Q', b"SELECT 1");
        raw.send();
        answers.extend(raw.until(b'Z'));
        answers.extend(raw.query("SELECT 1"));
        answers
    });
    for (tag, body) in [(b'y', &b"abc"[..]), (b'E', &[0; 20_000])] {
        same(|raw| {
            message(&mut raw.out, tag, body);
            raw.send();
            raw.rest()
        });
    }
}

#[test]
fn long_messages_stream_both_ways() {
    let messages = same(|raw| {
        let long = "x".repeat(5_000_000);
        let mut answers = raw.query(&format!("SELECT '{long}'"));
        run(&mut raw.out, "SELECT length($1), $1", &[Some(&long)]);
        answers.extend(finish(raw));
        parse(&mut raw.out, "named", &format!("SELECT length('{long}')"));
        bind(&mut raw.out, "", "named", &[]);
        frontend::execute(&mut raw.out, b"", 0);
        answers.extend(finish(raw));
        parse(&mut raw.out, "named", "SELECT 1");
        answers.extend(finish(raw));
        answers.extend(
            raw.query("COPY (SELECT repeat('y', 3000000) FROM generate_series(1, 5)) TO STDOUT"),
        );
        answers
    });
    assert_eq!(
        messages.iter().map(|message| message.body.len()).max(),
        Some(5_000_000 + 6 + 11)
    );
}

#[test]
fn what_a_half_closed_client_asked_is_answered() {
    same(|raw| {
        frontend::query(&mut raw.out, b"SELECT pg_sleep(0.2), 1");
        raw.send();
        raw.half_close();
        raw.rest()
    });
    same(|raw| {
        run(&mut raw.out, "SELECT 1", &[]);
        frontend::flush(&mut raw.out);
        raw.send();
        raw.half_close();
        raw.rest()
    });
    same(|raw| {
        frontend::query(
            &mut raw.out,
            b"COPY (SELECT 1) TO STDOUT; CREATE TEMP TABLE c (a int); COPY c FROM STDIN",
        );
        frontend::copy_data(&mut raw.out, b"1\n");
        raw.send();
        raw.half_close();
        raw.rest()
    });
}
