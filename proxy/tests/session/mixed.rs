//! Sessions that are answered partly from memory, partly by Postgres. Row 1 is the same in both; row 2 says where it was read.

use super::memory::{Memory, remembering};
use super::postgres::postgres;
use super::proxy::Proxy;
use super::raw::{Message, Raw, bind, finish, parse, run, tags};
use ripen_pg::wire::frontend::{self, Target};
use std::sync::atomic::Ordering;

const SETUP: &str = "CREATE TABLE kv (id int PRIMARY KEY, v text, n int8);
    INSERT INTO kv VALUES (1, 'same', 7), (2, 'postgres', 8);
    CREATE TABLE other (id int PRIMARY KEY, v text);
    CREATE SCHEMA s CREATE TABLE kv (id int PRIMARY KEY, v text);
    INSERT INTO s.kv VALUES (2, 'schema');";

fn memory(database: &str) -> Proxy<Memory> {
    let remembered = [
        "INSERT INTO kv VALUES (1, 'same', 7)",
        "INSERT INTO kv VALUES (2, 'memory', 8)",
    ];
    remembering(database, SETUP, &remembered)
}

fn value(messages: &[Message]) -> String {
    let row = messages.iter().find(|message| message.tag == b'D');
    let row = row.unwrap_or_else(|| panic!("no row in {messages:?}"));
    let length = u32::from_be_bytes(row.body[2..6].try_into().unwrap()) as usize;
    String::from_utf8(row.body[6..6 + length].to_vec()).unwrap()
}

const ROW_2: &str = "SELECT v FROM kv WHERE id = 2";

#[test]
fn answers_from_memory_are_postgres_own_to_the_byte() {
    let proxy = memory("parity");
    let script = |port| {
        let mut raw = Raw::connect_to(port, "parity");
        let mut answers = raw.query("SELECT * FROM kv WHERE id = 1");
        answers.extend(raw.query("SELECT v AS x, id FROM kv WHERE id IN (1)"));
        parse(&mut raw.out, "s", "SELECT id, v, n FROM kv WHERE id = $1");
        frontend::describe(&mut raw.out, Target::Statement(b"s"));
        answers.extend(finish(&mut raw));
        for formats in [&[][..], &[1], &[1, 0, 1]] {
            let values = [Some(&b"\0\0\0\x01"[..])];
            let out = &mut raw.out;
            frontend::bind(out, b"", b"s", [1], values, formats.iter().copied());
            frontend::describe(out, Target::Portal(b""));
            frontend::execute(out, b"", 0);
            frontend::execute(out, b"", 0);
            frontend::close(out, Target::Portal(b""));
            answers.extend(finish(&mut raw));
        }
        bind(&mut raw.out, "", "s", &[Some("1")]);
        frontend::execute(&mut raw.out, b"", 1);
        frontend::execute(&mut raw.out, b"", 1);
        frontend::execute(&mut raw.out, b"", 5);
        answers.extend(finish(&mut raw));
        frontend::close(&mut raw.out, Target::Statement(b"s"));
        answers.extend(finish(&mut raw));
        answers
    };
    let (direct, proxied) = (script(postgres().port), script(proxy.port));
    assert_eq!(direct, proxied);
    let calls = proxy.front.answerer.calls();
    assert_eq!(calls, ["read"; 6], "all of it came from memory");
}

#[test]
fn simple_queries_with_literals_mean_what_they_say() {
    let texts = [
        "SELECT v, 'it''s', 5, 1.50 FROM kv WHERE id = 1",
        "SELECT v FROM kv WHERE id IN (1, 7) ORDER BY id",
        "SELECT id FROM kv WHERE id = 1 AND v = 'same' LIMIT 1",
        "SELECT id FROM kv WHERE id = 1 ORDER BY 1",
        "SELECT n + 1 AS more, n - 2 FROM kv WHERE id = '1'",
        "SELECT 1 FROM kv WHERE id = -1",
        "SELECT v FROM kv WHERE id = 99999999999",
        "SELECT v FROM kv WHERE id = 'x'",
        "SELECT v FROM kv WHERE id = 1.0",
        "SELECT interval '1 day', date '2020-02-03' FROM kv WHERE id = 1",
        "SELECT E'a\\nb', $$x$$ FROM kv WHERE id = 1 -- comment",
        "SELECT v FROM kv WHERE id = 1; SELECT 2",
        "SELECT v || 'x' || 5 FROM kv WHERE id = 1",
        "SELECT 'a' 'b'",
        "SELECT nothing FROM kv WHERE id = 1",
        "SELECT 1/0 FROM kv WHERE id = 1",
        "SELECT 1/0 FROM kv WHERE id = 5",
    ];
    let proxy = memory("literals");
    let (mut direct, mut proxied) = (
        Raw::connect_to(postgres().port, "literals"),
        Raw::connect_to(proxy.port, "literals"),
    );
    for sql in texts {
        assert_eq!(direct.query(sql), proxied.query(sql), "{sql}");
    }
    let reads = proxy
        .front
        .answerer
        .calls()
        .iter()
        .filter(|call| *call == "read")
        .count();
    assert!(reads >= 4, "{reads}");
}

#[test]
fn what_cannot_be_answered_here_fails_as_in_postgres() {
    let proxy = memory("failures");
    let script = |port| {
        let mut raw = Raw::connect_to(port, "failures");
        parse(&mut raw.out, "s", "SELECT v FROM kv WHERE id = $1");
        let mut answers = finish(&mut raw);
        for values in [
            &[][..],
            &[Some("x")],
            &[Some("1"), Some("2")],
            &[Some("99999999999")],
            &[None],
        ] {
            bind(&mut raw.out, "", "s", values);
            frontend::execute(&mut raw.out, b"", 0);
            run(&mut raw.out, "SELECT 'skipped or not'", &[]);
            answers.extend(finish(&mut raw));
        }
        parse(&mut raw.out, "s", "SELECT 1");
        answers.extend(finish(&mut raw));
        bind(&mut raw.out, "p", "s", &[Some("1")]);
        bind(&mut raw.out, "p", "s", &[Some("1")]);
        answers.extend(finish(&mut raw));
        bind(&mut raw.out, "", "nothing", &[]);
        answers.extend(finish(&mut raw));
        parse(&mut raw.out, "", "SELECT v FROM kv WHERE id = $1");
        answers.extend(finish(&mut raw));
        answers.extend(raw.query("SELECT v FROM kv WHERE id = 1"));
        bind(&mut raw.out, "", "", &[Some("1")]);
        answers.extend(finish(&mut raw));
        answers
    };
    let (direct, proxied) = (script(postgres().port), script(proxy.port));
    for (number, (left, right)) in direct.iter().zip(&proxied).enumerate() {
        assert_eq!(left, right, "message {number}");
    }
    assert_eq!(tags(&direct), tags(&proxied));
}

#[test]
fn a_statement_prepared_here_moves_to_postgres_unseen() {
    let proxy = memory("moves");
    let mut raw = Raw::connect_to(proxy.port, "moves");
    for name in ["", "s"] {
        parse(&mut raw.out, name, "SELECT v FROM kv WHERE id = $1");
        assert_eq!(tags(&finish(&mut raw)), "1Z");
        for (bypass, expected) in [
            (false, "memory"),
            (true, "postgres"),
            (false, "memory"),
            (true, "postgres"),
        ] {
            proxy.front.answerer.bypass.store(bypass, Ordering::SeqCst);
            bind(&mut raw.out, "", name, &[Some("2")]);
            frontend::describe(&mut raw.out, Target::Portal(b""));
            frontend::execute(&mut raw.out, b"", 0);
            let answers = finish(&mut raw);
            assert_eq!(
                (tags(&answers).as_str(), value(&answers).as_str()),
                ("2TDCZ", expected)
            );
        }
        proxy.front.answerer.bypass.store(false, Ordering::SeqCst);
    }
    let calls = proxy.front.answerer.calls();
    let round = [
        "read",
        "enter Select 1 OfStatement",
        "leave Select Committed",
    ];
    assert_eq!(calls, [round; 4].concat());
}

#[test]
fn a_pipeline_keeps_its_order_and_goes_on_where_it_went() {
    let proxy = memory("pipeline");
    let mut raw = Raw::connect_to(proxy.port, "pipeline");
    run(&mut raw.out, "SELECT v FROM kv WHERE id = $1", &[Some("2")]);
    run(&mut raw.out, "SELECT 'passed'", &[]);
    run(&mut raw.out, "SELECT v FROM kv WHERE id = $1", &[Some("2")]);
    let answers = finish(&mut raw);
    assert_eq!(tags(&answers), "12TDC12TDC12TDCZ");
    assert_eq!(value(&answers), "memory");
    assert_eq!(value(&answers[5..]), "passed");
    assert_eq!(value(&answers[10..]), "postgres");
    run(&mut raw.out, "SELECT v FROM kv WHERE id = $1", &[Some("2")]);
    run(&mut raw.out, "SELECT 1/0", &[]);
    run(&mut raw.out, "SELECT v FROM kv WHERE id = $1", &[Some("2")]);
    assert_eq!(tags(&finish(&mut raw)), "12TDC1EZ");
    assert_eq!(raw.value(ROW_2), "memory");
}

#[test]
fn a_row_limit_suspends_a_portal_here() {
    let proxy = memory("limits");
    let script = |port| {
        let mut raw = Raw::connect_to(port, "limits");
        let mut answers = raw.query("BEGIN");
        parse(
            &mut raw.out,
            "",
            "SELECT id FROM kv WHERE id = ANY($1::int[]) ORDER BY id",
        );
        bind(&mut raw.out, "", "", &[Some("{1,2}")]);
        for limit in [1, 1, 1, 1] {
            frontend::execute(&mut raw.out, b"", limit);
            answers.extend(finish(&mut raw));
        }
        bind(&mut raw.out, "", "", &[Some("{1,2}")]);
        frontend::execute(&mut raw.out, b"", 1);
        parse(&mut raw.out, "now", "SELECT 'now in Postgres'");
        bind(&mut raw.out, "q", "now", &[]);
        frontend::execute(&mut raw.out, b"q", 0);
        frontend::execute(&mut raw.out, b"", 0);
        frontend::describe(&mut raw.out, Target::Portal(b""));
        answers.extend(finish(&mut raw));
        answers.extend(raw.query("COMMIT"));
        answers
    };
    let proxied = script(proxy.port);
    assert_eq!(script(postgres().port), proxied);
    let reads = proxy.front.answerer.calls();
    assert_eq!(reads.iter().filter(|call| *call == "read").count(), 2);
}

#[test]
fn writes_are_queued_where_postgres_would_commit_them() {
    let proxy = memory("writes");
    let mut raw = Raw::connect_to(proxy.port, "writes");
    let calls = || proxy.front.answerer.calls();
    assert_eq!(
        tags(&raw.query("UPDATE kv SET v = 'queued' WHERE id = 2")),
        "CZ"
    );
    assert_eq!(raw.value(ROW_2), "queued");
    assert_eq!(calls(), ["write", "read"]);
    run(
        &mut raw.out,
        "UPDATE kv SET n = n + $1 WHERE id = 2 RETURNING n",
        &[Some("5")],
    );
    let answers = finish(&mut raw);
    assert_eq!(
        (tags(&answers).as_str(), value(&answers).as_str()),
        ("12TDCZ", "13")
    );
    assert_eq!(calls(), ["write"]);
    for value in ["a", "b"] {
        run(
            &mut raw.out,
            "UPDATE kv SET v = $1 WHERE id = 2",
            &[Some(value)],
        );
    }
    assert_eq!(tags(&finish(&mut raw)), "12nC12nCZ");
    let entered = calls();
    assert_eq!(
        entered.len(),
        3,
        "two writes of one pipeline are one transaction: {entered:?}"
    );
    assert_eq!(Raw::connect_to(postgres().port, "writes").value(ROW_2), "b");
    raw.query("BEGIN");
    raw.query("UPDATE kv SET v = 'in a block' WHERE id = 2");
    assert_eq!(raw.value(ROW_2), "in a block");
    assert_eq!(tags(&raw.query("ROLLBACK")), "CZ");
    let entered = calls();
    assert!(!entered.contains(&"write".to_owned()), "{entered:?}");
    raw.query("SET default_transaction_read_only TO on");
    let refused = raw.query("UPDATE kv SET v = 'x' WHERE id = 2");
    assert_eq!(tags(&refused), "EZ");
}

#[test]
fn a_block_of_reads_needs_no_postgres() {
    let proxy = memory("blocks");
    let mut raw = Raw::connect_to(proxy.port, "blocks");
    let direct = Raw::connect_to(postgres().port, "blocks").query("BEGIN");
    assert_eq!(raw.query("BEGIN"), direct);
    assert_eq!(raw.value(ROW_2), "memory");
    assert_eq!(raw.query("COMMIT")[1].body, b"I");
    for (begin, end) in [("BEGIN", "COMMIT"), ("START TRANSACTION", "ROLLBACK")] {
        run(&mut raw.out, begin, &[]);
        run(&mut raw.out, "SELECT v FROM kv WHERE id = $1", &[Some("2")]);
        let answers = finish(&mut raw);
        assert_eq!(tags(&answers), "12nC12TDCZ");
        assert_eq!(answers.last().unwrap().body, b"T");
        run(&mut raw.out, end, &[]);
        assert_eq!(finish(&mut raw).last().unwrap().body, b"I");
    }
    assert_eq!(proxy.front.answerer.calls(), ["read"; 3]);
}

#[test]
fn a_block_moves_to_postgres_with_its_first_statement_that_must() {
    let proxy = memory("promotes");
    let mut raw = Raw::connect_to(proxy.port, "promotes");
    raw.query("BEGIN");
    assert_eq!(raw.value(ROW_2), "memory");
    let answers = raw.query("UPDATE other SET v = 'x'");
    assert_eq!(
        (tags(&answers).as_str(), &answers[1].body[..]),
        ("CZ", &b"T"[..])
    );
    assert_eq!(
        raw.value(ROW_2),
        "postgres",
        "a transaction in Postgres reads there"
    );
    assert_eq!(raw.query("SELECT 1/0").last().unwrap().body, b"E");
    assert_eq!(tags(&raw.query(ROW_2)), "EZ");
    assert_eq!(raw.query("COMMIT")[0].body, b"ROLLBACK\0");
    assert_eq!(raw.value(ROW_2), "memory");
    raw.query("BEGIN");
    let nested = raw.query("BEGIN");
    assert_eq!(tags(&nested), "NCZ", "a warning that only Postgres gives");
    raw.query("ROLLBACK");
    for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN READ ONLY"] {
        raw.query(begin);
        assert_eq!(raw.value(ROW_2), "postgres");
        raw.query("COMMIT");
    }
    proxy.front.answerer.calls();
    raw.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
    raw.query("SELECT count(*) FROM other");
    raw.query("COMMIT");
    let calls = proxy.front.answerer.calls();
    assert_eq!(calls, ["enter Select 0 First", "leave Select Committed"]);
}

#[test]
fn ready_for_query_waits_until_the_holds_are_given_back() {
    let proxy = memory("holds");
    let mut raw = Raw::connect_to(proxy.port, "holds");
    let memory = &proxy.front.answerer;
    memory.ends.send_replace(false);
    frontend::query(&mut raw.out, b"UPDATE other SET v = 'x'");
    raw.send();
    assert_eq!(tags(&raw.until(b'C')), "C");
    raw.patience(std::time::Duration::from_millis(200));
    assert!(raw.message().is_err(), "nothing may come yet");
    raw.patience(std::time::Duration::from_secs(20));
    memory.ends.send_replace(true);
    assert_eq!(tags(&raw.until(b'Z')), "Z");
    assert_eq!(
        memory.calls(),
        ["enter Update 1 OfStatement", "leave Update Committed"]
    );
}

#[test]
fn a_refused_statement_fails_its_transaction() {
    let proxy = memory("refused");
    let mut raw = Raw::connect_to(proxy.port, "refused");
    let memory = &proxy.front.answerer;
    memory.locked.store(true, Ordering::SeqCst);
    let answers = raw.query("UPDATE other SET v = 'x'");
    assert_eq!(
        (tags(&answers).as_str(), &answers[1].body[..]),
        ("EZ", &b"I"[..])
    );
    run(&mut raw.out, "UPDATE other SET v = 'x'", &[]);
    run(&mut raw.out, "SELECT 1", &[]);
    assert_eq!(tags(&finish(&mut raw)), "1EZ");
    memory.locked.store(false, Ordering::SeqCst);
    raw.query("BEGIN");
    raw.query("INSERT INTO other VALUES (1, 'in the block')");
    memory.locked.store(true, Ordering::SeqCst);
    let answers = raw.query("UPDATE other SET v = 'x'");
    assert_eq!(
        (tags(&answers).as_str(), &answers[1].body[..]),
        ("EZ", &b"E"[..])
    );
    memory.locked.store(false, Ordering::SeqCst);
    assert_eq!(raw.query("COMMIT")[0].body, b"ROLLBACK\0");
    // An earlier statement of the same pipeline goes with it.
    parse(&mut raw.out, "", "INSERT INTO other VALUES (2, 'first')");
    bind(&mut raw.out, "", "", &[]);
    frontend::execute(&mut raw.out, b"", 0);
    frontend::flush(&mut raw.out);
    raw.send();
    assert_eq!(tags(&raw.until(b'C')), "12C");
    memory.locked.store(true, Ordering::SeqCst);
    run(&mut raw.out, "UPDATE other SET v = 'x'", &[]);
    assert_eq!(tags(&finish(&mut raw)), "1EZ");
    memory.locked.store(false, Ordering::SeqCst);
    assert_eq!(raw.value("SELECT count(*) FROM other"), "0");
    // Also when all that was sent of it has been answered.
    parse(&mut raw.out, "late", "UPDATE other SET v = 'x'");
    run(&mut raw.out, "INSERT INTO other VALUES (3, 'first')", &[]);
    frontend::flush(&mut raw.out);
    raw.send();
    assert_eq!(tags(&raw.until(b'C')), "112nC");
    memory.locked.store(true, Ordering::SeqCst);
    bind(&mut raw.out, "", "late", &[]);
    assert_eq!(tags(&finish(&mut raw)), "EZ");
    memory.locked.store(false, Ordering::SeqCst);
    assert_eq!(raw.value("SELECT count(*) FROM other"), "0");
}

#[test]
fn a_cancel_request_reaches_a_statement_that_waits_here() {
    let proxy = memory("cancels");
    let mut raw = Raw::connect_to(proxy.port, "cancels");
    proxy.front.answerer.entries.send_replace(false);
    frontend::query(&mut raw.out, b"UPDATE other SET v = 'x'");
    raw.send();
    let session = || proxy.front.registry.list().pop().unwrap();
    super::login::wait_for(|| session().state().waits_here);
    super::raw::cancel(proxy.port, raw.key.as_ref().unwrap());
    let answers = raw.until(b'Z');
    assert_eq!(
        (
            tags(&answers).as_str(),
            super::login::state(&answers[0]).as_str()
        ),
        ("EZ", "57014")
    );
    proxy.front.answerer.entries.send_replace(true);
    assert_eq!(raw.value("SELECT 1"), "1");
}

#[test]
fn settings_are_found_out_anew_after_they_may_have_changed() {
    let proxy = memory("settings");
    let mut raw = Raw::connect_to(proxy.port, "settings");
    raw.query("SET search_path TO s, public");
    assert_eq!(
        raw.value(ROW_2),
        "schema",
        "another table by now, not remembered"
    );
    raw.query("BEGIN; SET LOCAL search_path TO public");
    assert_eq!(raw.value(ROW_2), "postgres");
    raw.query("COMMIT");
    assert_eq!(raw.value(ROW_2), "schema");
    raw.query("RESET search_path");
    assert_eq!(raw.value(ROW_2), "memory");
    raw.query("CREATE TEMP TABLE kv AS SELECT 2 AS id, 'temporary' AS v");
    assert_eq!(raw.value(ROW_2), "temporary");
    raw.query("DROP TABLE kv");
    raw.query("SET client_encoding TO LATIN1");
    assert_eq!(raw.value(ROW_2), "postgres");
}

#[test]
fn a_schema_that_comes_to_be_in_the_search_path_is_noticed() {
    let proxy = memory("late_schema");
    let mut raw = Raw::connect_to(proxy.port, "late_schema");
    raw.query("SET search_path TO late, public");
    assert_eq!(raw.value(ROW_2), "memory");
    let create = "CREATE SCHEMA late; CREATE TABLE late.kv AS SELECT 2 AS id, 'late' AS v";
    assert_eq!(
        tags(&Raw::connect_to(proxy.port, "late_schema").query(create)),
        "CCZ"
    );
    proxy.front.answerer.epoch.store(2, Ordering::SeqCst);
    assert_eq!(raw.value(ROW_2), "late");
}

#[test]
fn stricter_isolation_levels_read_in_postgres_only() {
    let proxy = memory("isolation");
    let mut raw = Raw::connect_to(proxy.port, "isolation");
    for level in ["serializable", "repeatable read"] {
        raw.query(&format!("SET default_transaction_isolation TO '{level}'"));
        assert_eq!(raw.value(ROW_2), "postgres");
        raw.query("BEGIN");
        assert_eq!(raw.value(ROW_2), "postgres");
        raw.query("COMMIT");
    }
    raw.query("RESET default_transaction_isolation");
    assert_eq!(raw.value(ROW_2), "memory");
}

#[test]
fn statements_of_ripen_work_in_every_state() {
    let proxy = memory("own");
    let mut raw = Raw::connect_to(proxy.port, "own");
    assert_eq!(tags(&raw.query("SHOW ripen.status")), "TCZ");
    run(&mut raw.out, "SELECT 'passed'", &[]);
    run(&mut raw.out, "SHOW ripen.status", &[]);
    run(&mut raw.out, "SELECT 'passed'", &[]);
    assert_eq!(tags(&finish(&mut raw)), "12TDC12TC12TDCZ");
    raw.query("BEGIN; SELECT 1");
    assert_eq!(tags(&raw.query("SHOW ripen.status")), "TCZ");
    run(&mut raw.out, "SHOW ripen.status", &[]);
    assert_eq!(finish(&mut raw).last().unwrap().body, b"T");
    let failed = raw.query("CALL ripen.flush()");
    assert_eq!(
        (tags(&failed).as_str(), &failed[1].body[..]),
        ("EZ", &b"E"[..])
    );
    assert_eq!(tags(&raw.query("SHOW ripen.status")), "EZ");
    raw.query("ROLLBACK");
    run(&mut raw.out, "CALL ripen.flush()", &[]);
    run(&mut raw.out, "SELECT 'skipped'", &[]);
    let answers = finish(&mut raw);
    assert!(tags(&answers).ends_with("EZ"), "{answers:?}");
}

#[test]
fn sql_finds_the_statements_that_were_prepared_here() {
    let proxy = memory("prepared");
    let script = |port| {
        let mut raw = Raw::connect_to(port, "prepared");
        let mut answers = Vec::new();
        for name in ["a", "b", "c"] {
            parse(&mut raw.out, name, "SELECT n FROM kv WHERE id = $1");
        }
        answers.extend(finish(&mut raw));
        answers.extend(raw.query("EXECUTE a(2)"));
        answers.extend(raw.query("DEALLOCATE b"));
        for name in ["a", "b", "c"] {
            bind(&mut raw.out, "", name, &[Some("2")]);
            frontend::execute(&mut raw.out, b"", 0);
            answers.extend(finish(&mut raw));
        }
        parse(&mut raw.out, "b", "SELECT n FROM kv WHERE id = $1");
        answers.extend(finish(&mut raw));
        answers.extend(raw.query("DISCARD ALL"));
        for name in ["a", "c"] {
            bind(&mut raw.out, "", name, &[Some("2")]);
            answers.extend(finish(&mut raw));
        }
        parse(&mut raw.out, "a", "SELECT n FROM kv WHERE id = $1");
        bind(&mut raw.out, "", "a", &[Some("2")]);
        frontend::execute(&mut raw.out, b"", 0);
        answers.extend(finish(&mut raw));
        answers
    };
    let proxied = script(proxy.port);
    assert_eq!(script(postgres().port), proxied);
}

#[test]
fn a_portal_shows_the_moment_when_it_was_bound() {
    let proxy = memory("bound");
    let mut raw = Raw::connect_to(proxy.port, "bound");
    parse(&mut raw.out, "s", ROW_2);
    finish(&mut raw);
    for begin in ["BEGIN", "ROLLBACK"] {
        raw.query(begin);
        bind(&mut raw.out, "", "s", &[]);
        frontend::describe(&mut raw.out, Target::Portal(b""));
        frontend::execute(&mut raw.out, b"", 0);
        assert_eq!(value(&finish(&mut raw)), "memory", "executed at once");
        bind(&mut raw.out, "", "s", &[]);
        frontend::flush(&mut raw.out);
        raw.send();
        assert_eq!(tags(&raw.until(b'2')), "2");
        frontend::execute(&mut raw.out, b"", 0);
        let answers = finish(&mut raw);
        assert_eq!(tags(&answers), "DCZ");
        assert_eq!(value(&answers), "postgres", "executed later");
    }
    raw.query("BEGIN");
    bind(&mut raw.out, "", "s", &[]);
    assert_eq!(tags(&finish(&mut raw)), "2Z");
    frontend::execute(&mut raw.out, b"", 0);
    assert_eq!(value(&finish(&mut raw)), "postgres");
}

#[test]
fn sql_fetches_from_portals_that_have_names() {
    let proxy = memory("fetched");
    let script = |port| {
        let mut raw = Raw::connect_to(port, "fetched");
        parse(
            &mut raw.out,
            "s",
            "SELECT id FROM kv WHERE id = ANY($1::int[]) ORDER BY id",
        );
        let mut answers = finish(&mut raw);
        for limit in [None, Some(1), Some(0)] {
            answers.extend(raw.query("BEGIN"));
            bind(&mut raw.out, "p", "s", &[Some("{1,2}")]);
            if let Some(limit) = limit {
                frontend::execute(&mut raw.out, b"p", limit);
            }
            answers.extend(finish(&mut raw));
            for sql in ["FETCH 1 FROM p", "CLOSE p", "FETCH 1 FROM p", "ROLLBACK"] {
                answers.extend(raw.query(sql));
            }
        }
        answers
    };
    assert_eq!(script(postgres().port), script(proxy.port));
}

#[test]
fn a_portal_executed_here_fails_with_its_transaction() {
    let proxy = memory("aborted");
    let script = |port| {
        let mut raw = Raw::connect_to(port, "aborted");
        let mut answers = raw.query("BEGIN");
        parse(
            &mut raw.out,
            "",
            "SELECT id FROM kv WHERE id = ANY($1::int[]) ORDER BY id",
        );
        bind(&mut raw.out, "", "", &[Some("{1,2}")]);
        frontend::execute(&mut raw.out, b"", 1);
        answers.extend(finish(&mut raw));
        parse(&mut raw.out, "wrong", "SELECT no_such_column");
        answers.extend(finish(&mut raw));
        frontend::execute(&mut raw.out, b"", 1);
        answers.extend(finish(&mut raw));
        frontend::describe(&mut raw.out, Target::Portal(b""));
        answers.extend(finish(&mut raw));
        answers.extend(raw.query("ROLLBACK"));
        // Where in Postgres's source, Ripen cannot know.
        answers.iter().map(without_place).collect::<Vec<_>>()
    };
    assert_eq!(script(postgres().port), script(proxy.port));
}

/// A message, without the file and line that an error names.
fn without_place(message: &Message) -> (u8, Vec<Vec<u8>>) {
    let error = message.tag == b'E';
    let fields = message.body.split(|byte| error && *byte == 0);
    let place = |field: &&[u8]| error && matches!(field.first(), Some(b'F' | b'L'));
    let kept = fields.filter(|field| !place(field)).map(<[u8]>::to_vec);
    (message.tag, kept.collect())
}
