//! What a passed-through statement waits for depends on the snapshot that it will read by.

use super::memory::remembering;
use super::raw::{Raw, bind, finish, parse};
use ripen_pg::wire::frontend;

/// The waiting that these texts lead to, in order.
fn waits(database: &str, texts: &[&str]) -> Vec<String> {
    let setup = "CREATE TABLE other (id int PRIMARY KEY, v text)";
    let proxy = remembering(database, setup, &[]);
    let mut raw = Raw::connect_to(proxy.port, database);
    for text in texts {
        raw.query(text);
    }
    let mut calls = proxy.front.answerer.calls();
    calls.retain(|call| !call.starts_with("leave"));
    calls
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";
const COUNT: &str = "SELECT count(*) FROM other";
const OWN: &str = "enter Select 0 OfStatement";
const FIRST: &str = "enter Select 0 First";

#[test]
fn a_kept_snapshot_is_waited_for_once() {
    assert_eq!(waits("once", &[BEGIN, COUNT, COUNT, "COMMIT"]), [FIRST]);
}

#[test]
fn the_level_ends_with_its_transaction() {
    let texts = [BEGIN, COUNT, "COMMIT", "BEGIN", COUNT, COUNT, "COMMIT"];
    assert_eq!(waits("ends", &texts), [FIRST, OWN, OWN]);
}

#[test]
fn a_second_begin_does_not_end_it() {
    let calls = waits("twice", &[BEGIN, "BEGIN", COUNT, COUNT, "COMMIT"]);
    assert_eq!(calls, [FIRST, FIRST]);
}

#[test]
fn a_text_may_end_one_transaction_and_begin_another() {
    let text = format!("{BEGIN}; {COUNT}; COMMIT; BEGIN");
    let calls = waits("one_text", &[&text, COUNT, COUNT, "COMMIT"]);
    assert_eq!(calls, ["enter Transaction 0 First", OWN, OWN]);
}

#[test]
fn a_chained_transaction_takes_a_snapshot_of_its_own() {
    let texts = [BEGIN, COUNT, "COMMIT AND CHAIN", COUNT, COUNT, "COMMIT"];
    assert_eq!(waits("chain", &texts), [FIRST, FIRST]);
}

#[test]
fn what_takes_no_snapshot_does_not_count() {
    let lock = "LOCK TABLE other IN SHARE MODE";
    let calls = waits("lock", &[BEGIN, lock, COUNT, COUNT, "COMMIT"]);
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!(calls[1], FIRST);
    let texts = [BEGIN, "SAVEPOINT s", "selec", "ROLLBACK TO s", COUNT, COUNT];
    let calls = waits("savepoint", &texts);
    assert_eq!(calls, ["enter Unknown 0 First", FIRST, FIRST]);
}

#[test]
fn what_reads_nothing_takes_a_snapshot_all_the_same() {
    let texts = [BEGIN, "SELECT true", COUNT, "COMMIT"];
    assert_eq!(waits("nothing", &texts), [FIRST]);
}

#[test]
fn the_level_may_be_set_like_any_setting() {
    for (n, set) in ["'repeatable read'", "'REPEATABLE READ'"]
        .iter()
        .enumerate()
    {
        let set = format!("SET transaction_isolation = {set}");
        let calls = waits(&format!("set{n}"), &["BEGIN", &set, COUNT, COUNT, "COMMIT"]);
        assert_eq!(calls, [FIRST]);
    }
    let texts = ["BEGIN", "SET transaction_isolation = 'READ COMMITTED'"];
    let calls = waits("set", &[&texts[..], &[COUNT, COUNT]].concat());
    assert_eq!(calls, [OWN, OWN]);
}

#[test]
fn analysis_takes_the_snapshot_that_is_kept() {
    let setup = "CREATE TABLE other (id int PRIMARY KEY, v text)";
    let proxy = remembering("analysis", setup, &[]);
    let mut raw = Raw::connect_to(proxy.port, "analysis");
    for (begin, expected) in [(BEGIN, &["catch up"][..]), ("BEGIN", &[OWN])] {
        raw.query(begin);
        parse(&mut raw.out, "", COUNT);
        finish(&mut raw);
        bind(&mut raw.out, "", "", &[]);
        frontend::execute(&mut raw.out, b"", 0);
        finish(&mut raw);
        raw.query("COMMIT");
        let mut calls = proxy.front.answerer.calls();
        calls.retain(|call| !call.starts_with("leave"));
        assert_eq!(calls, expected, "{begin}");
    }
}
