//! The heart of the product against a model: rows, ripening and state machine under random interleavings of loads (with snapshots taken some time before
//! they return), outside transactions, grid writes, flushes (that fail, are retried, lose their reply), a stream that repeats itself or starts anew,
//! eviction, restarts from a snapshot and the log, and failovers of Postgres that lose commits.
//!
//! At every moment each row that memory knows is a legal value: Postgres's row at some moment not before what the stream has told, with all
//! acknowledged changes that are not yet in it applied on top. In the end memory and Postgres agree, nothing is left over, and no acknowledged write was lost.

#[path = "rows_model/driver.rs"]
mod driver;
#[path = "rows_model/postgres.rs"]
mod postgres;

use driver::Driver;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn memory_never_shows_what_was_not_and_loses_nothing(
        small in any::<bool>(),
        first_xid in prop_oneof![Just(3u64), Just(u64::from(u32::MAX) - 20), Just((7u64 << 32) + 5)],
        steps in prop::collection::vec((0u8..driver::KINDS, any::<u8>(), any::<u8>(), any::<u8>()), 1..220),
    ) {
        let mut driver = Driver::new(first_xid, if small { 0 } else { 1 << 30 });
        for step in steps {
            driver.step(step);
            driver.check();
        }
        driver.settle();
    }
}

#[test]
fn a_stream_that_begins_anew_between_a_flush_and_its_end() {
    let steps = [
        (0, 24, 145, 0),
        (5, 0, 0, 0),
        (9, 178, 0, 0),
        (9, 123, 0, 0),
        (9, 9, 0, 0),
        (9, 0, 0, 0),
        (23, 0, 0, 0),
        (23, 0, 0, 0),
        (23, 4, 0, 0),
        (18, 0, 0, 0),
        (17, 94, 0, 1),
        (18, 0, 0, 0),
        (28, 0, 128, 0),
    ];
    let mut driver = Driver::new(3, 1 << 30);
    for step in steps {
        driver.step(step);
        driver.check();
    }
    driver.settle();
}

fn cases() -> u32 {
    std::env::var("ROWS_MODEL_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(400)
}
