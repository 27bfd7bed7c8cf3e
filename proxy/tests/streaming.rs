//! Messages of any size through a bounded memory. Alone in its process, whose peak is what is measured.

#![allow(clippy::unwrap_used, dead_code)]

#[path = "session/postgres.rs"]
mod postgres;
#[path = "session/proxy.rs"]
mod proxy;
#[path = "session/raw.rs"]
mod raw;

use raw::{Raw, tags};
use ripen_pg::wire::frontend;
use std::time::Duration;

/// Peak memory of this process so far, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[test]
fn rows_and_copies_larger_than_the_buffers_stream_at_the_clients_pace() {
    let ripen = proxy::transparent();
    let mut raw = Raw::connect(ripen.port);
    raw.query("CREATE TABLE streamed (v text)");
    let before = peak_memory();
    frontend::query(&mut raw.out, b"COPY streamed FROM STDIN");
    raw.send();
    let line = [b"x".repeat(999_999), b"\n".to_vec()].concat();
    for _ in 0..200 {
        frontend::copy_data(&mut raw.out, &line);
        raw.send();
    }
    frontend::copy_done(&mut raw.out);
    raw.send();
    assert_eq!(tags(&raw.until(b'Z')), "GCZ");
    frontend::query(
        &mut raw.out,
        b"COPY (SELECT repeat('y', 200000000)) TO STDOUT; SELECT repeat('z', 200000000)",
    );
    raw.send();
    // Time for a careless proxy to take it all in.
    std::thread::sleep(Duration::from_millis(500));
    let bytes = raw.discard_until_ready();
    raw.query("DROP TABLE streamed");
    assert!(bytes > 400_000_000, "{bytes}");
    let grown = peak_memory() - before;
    assert!(grown < 20_000_000, "{grown} bytes more at the peak");
}
