//! How sessions begin and end: authentication, TLS, cancel, limits, shutdown, terminated backends, Postgres away.

use super::postgres::postgres;
use super::proxy::{transparent, with};
use super::raw::{Carrier, Message, Raw, cancel};
use ripen_cachestore::dial::DialTarget;
use ripen_cachestore::upstream::{Host, SslMode};
use ripen_pg::wire::backend;
use ripen_pg::wire::frontend;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The SQLSTATE of an error.
pub fn state(message: &Message) -> String {
    let mut fields = message.body.split(|byte| *byte == 0);
    let code = fields.find(|field| field.first() == Some(&b'C'));
    String::from_utf8_lossy(&code.unwrap_or_default()[1..]).into_owned()
}

#[test]
fn every_way_to_prove_an_identity_is_relayed() {
    let proxy = transparent();
    for user in ["app", "md5_user", "scram_user", "clear_user"] {
        let mut raw = Raw::open(proxy.port).unwrap();
        let last = raw.login(user, "postgres", "secret", &[]).unwrap();
        assert_eq!(last.tag, b'Z', "{user}: {last:?}");
        assert_eq!(raw.value("SELECT current_user"), user);
    }
}

#[test]
fn refusals_are_those_of_postgres() {
    let proxy = transparent();
    let attempts = [
        ("md5_user", "postgres", "wrong"),
        ("scram_user", "postgres", "wrong"),
        ("clear_user", "postgres", "wrong"),
        ("nobody", "postgres", ""),
        ("app", "missing", ""),
        ("missing", "postgres", ""),
    ];
    for (user, database, password) in attempts {
        let refused = |port| {
            let mut raw = Raw::open(port).unwrap();
            let last = raw.login(user, database, password, &[]).unwrap();
            (last, raw.rest())
        };
        assert_eq!(refused(postgres().port), refused(proxy.port), "{user}");
    }
}

#[test]
fn startup_options_reach_postgres() {
    let proxy = transparent();
    let mut raw = Raw::open(proxy.port).unwrap();
    let options = [
        ("options", "-c work_mem=123kB"),
        ("application_name", "tester"),
    ];
    let last = raw.login("app", "postgres", "", &options).unwrap();
    assert_eq!(last.tag, b'Z');
    assert_eq!(raw.value("SHOW work_mem"), "123kB");
    assert_eq!(raw.value("SHOW application_name"), "tester");
}

#[test]
fn protocols_and_packets_that_postgres_refuses_are_refused_by_it() {
    let proxy = transparent();
    let packets: [&[u8]; 4] = [
        b"\0\0\0\x10\0\x02\0\0user\0app",
        b"\0\0\0\x11\0\x03\0\x09user\0app\0",
        b"\0\0\0\x09\0\x03\0\0\0",
        b"\0\0\0\x26\0\x03\0\0user\0app\0database\0postgres\0\0",
    ];
    for packet in packets {
        let answers = |port| {
            let mut raw = Raw::open(port).unwrap();
            raw.out.extend_from_slice(packet);
            raw.send();
            raw.half_close();
            let mut messages = raw.rest();
            messages.retain(|message| message.tag != b'K');
            messages
        };
        assert_eq!(
            answers(postgres().port),
            answers(proxy.port),
            "{}",
            packet.escape_ascii()
        );
    }
}

#[test]
fn tls_and_gss_are_declined_unless_configured() {
    let proxy = transparent();
    let mut raw = Raw::open(proxy.port).unwrap();
    for code in [80_877_104_u32, 80_877_103] {
        raw.out.extend_from_slice(&8_u32.to_be_bytes());
        raw.out.extend_from_slice(&code.to_be_bytes());
        raw.send();
        let mut answer = [0];
        raw.read_bytes(&mut answer);
        assert_eq!(answer, *b"N");
    }
    assert_eq!(raw.login("app", "postgres", "", &[]).unwrap().tag, b'Z');
}

/// A self-signed certificate, made by openssl.
fn certificate(folder: &std::path::Path) -> ripen_proxy::tls::Acceptor {
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success());
    ripen_proxy::tls::acceptor(&certificate, &key).unwrap()
}

#[test]
fn clients_may_speak_tls() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificate(folder.path());
    let proxy = with(|front| front.tls = Some(tls));
    for direct in [false, true] {
        let mut socket = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        if !direct {
            socket.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").unwrap();
            let mut answer = [0];
            socket.read_exact(&mut answer).unwrap();
            assert_eq!(answer, *b"S");
        }
        let stream: Box<dyn Carrier> = Box::new(super::tls::client(socket.try_clone().unwrap()));
        let mut raw = Raw::over(stream, socket);
        let last = raw.login("scram_user", "postgres", "secret", &[]).unwrap();
        assert_eq!(last.tag, b'Z', "{last:?}");
        assert_eq!(raw.value("SELECT repeat('x', 300000)").len(), 300_000);
    }
}

#[test]
fn bytes_in_the_clear_behind_a_tls_request_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificate(folder.path());
    let proxy = with(|front| front.tls = Some(tls));
    let mut raw = Raw::open(proxy.port).unwrap();
    raw.out
        .extend_from_slice(b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x08");
    raw.send();
    let mut answer = [0];
    raw.read_bytes(&mut answer);
    assert_eq!(answer, *b"S");
    let messages = raw.rest();
    assert_eq!(state(&messages[0]), "08P01");
}

#[test]
fn a_cancel_request_finds_its_backend() {
    let proxy = transparent();
    let mut raw = Raw::connect(proxy.port);
    let mut watcher = Raw::connect(postgres().port);
    let pid = raw.value("SELECT pg_backend_pid()");
    frontend::query(&mut raw.out, b"SELECT pg_sleep(30)");
    raw.send();
    let active = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"
    );
    wait_for(|| watcher.value(&active) == "1");
    cancel(proxy.port, raw.key.as_ref().unwrap());
    let messages = raw.until(b'Z');
    assert_eq!(state(&messages[1]), "57014");
    assert_eq!(raw.value("SELECT 1"), "1");
}

/// Waits until it is so.
pub fn wait_for(mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !fact() {
        assert!(Instant::now() < deadline, "it does not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_terminated_backend_says_so_to_its_client() {
    let proxy = transparent();
    for statement in ["SELECT 1", "BEGIN"] {
        let mut raw = Raw::connect(proxy.port);
        raw.query(statement);
        let pid = raw.value("SELECT pg_backend_pid()");
        Raw::connect(postgres().port).query(&format!("SELECT pg_terminate_backend({pid})"));
        let messages = raw.rest();
        assert_eq!(
            (messages[0].tag, state(&messages[0]).as_str()),
            (b'E', "57P01")
        );
    }
}

#[test]
fn notifications_arrive_while_the_session_is_idle_and_between_its_queries() {
    let proxy = transparent();
    let mut listener = Raw::connect(proxy.port);
    let mut sender = Raw::connect(proxy.port);
    listener.query("LISTEN news");
    sender.query("NOTIFY news, 'one'");
    let message = listener.message().unwrap();
    assert_eq!(message.tag, b'A');
    assert!(message.body.ends_with(b"news\0one\0"));
    let answers = sender.query("LISTEN news; NOTIFY news, 'two'");
    let tags: Vec<u8> = answers.iter().map(|message| message.tag).collect();
    assert_eq!(tags, b"CCAZ");
}

#[test]
fn clients_beyond_the_bound_are_told_so() {
    let proxy = with(|front| front.clients_max = 1);
    let first = Raw::connect(proxy.port);
    let mut second = Raw::open(proxy.port).unwrap();
    let refusal = second.login("app", "postgres", "", &[]).unwrap();
    assert_eq!((refusal.tag, state(&refusal).as_str()), (b'E', "53300"));
    drop(first);
    wait_for(|| proxy.front.registry.connections() == 0);
    Raw::connect(proxy.port);
}

#[test]
fn an_unreachable_postgres_is_a_clear_error() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let proxy = with(|front| {
        front.target = DialTarget::new(Host::Tcp("127.0.0.1".to_owned()), closed, SslMode::Disable)
    });
    let mut raw = Raw::open(proxy.port).unwrap();
    let refusal = raw.login("app", "postgres", "", &[]).unwrap();
    assert_eq!((refusal.tag, state(&refusal).as_str()), (b'E', "08006"));
    assert_eq!(raw.rest().len(), 1);
}

#[test]
fn a_stop_sends_idle_clients_away_and_lets_transactions_end() {
    let proxy = transparent();
    let (mut idle, mut busy) = (Raw::connect(proxy.port), Raw::connect(proxy.port));
    busy.query("BEGIN");
    proxy.front.stop.cancel();
    let messages = idle.rest();
    assert_eq!(state(&messages[0]), "57P01");
    assert_eq!(busy.value("SELECT 7"), "7");
    frontend::query(&mut busy.out, b"COMMIT");
    busy.send();
    let messages = busy.rest();
    let tags: Vec<u8> = messages.iter().map(|message| message.tag).collect();
    assert_eq!(tags, b"CZE!");
    wait_for(|| proxy.front.registry.connections() == 0);
}

#[test]
fn a_killed_client_leaves_no_backend_behind() {
    let proxy = transparent();
    let mut watcher = Raw::connect(postgres().port);
    let mut raw = Raw::connect(proxy.port);
    let pid = raw.value("SELECT pg_backend_pid()");
    raw.query("BEGIN");
    drop(raw);
    let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    wait_for(|| watcher.value(&alive) == "0");
    wait_for(|| proxy.front.registry.connections() == 0);
}

#[test]
fn replication_connections_are_copied_both_ways() {
    let proxy = transparent();
    let mut raw = Raw::open(proxy.port).unwrap();
    let last = raw
        .login("app", "postgres", "", &[("replication", "database")])
        .unwrap();
    assert_eq!(last.tag, b'Z');
    let answers = raw.query("IDENTIFY_SYSTEM");
    assert_eq!(answers[0].tag, b'T');
}

#[test]
fn a_server_that_speaks_nonsense_ends_the_session() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut ignored = [0; 1024];
        let _ = socket.read(&mut ignored).unwrap();
        let mut out = bytes::BytesMut::new();
        backend::authentication_ok(&mut out);
        out.extend_from_slice(b"Z\0\0\0\x05I");
        socket.write_all(&out).unwrap();
        let _ = socket.read(&mut ignored).unwrap();
        socket.write_all(b"1\0\0\0\x04").unwrap();
    });
    let proxy = with(|front| {
        front.target = DialTarget::new(Host::Tcp("127.0.0.1".to_owned()), port, SslMode::Disable)
    });
    let mut raw = Raw::connect(proxy.port);
    frontend::query(&mut raw.out, b"SELECT 1");
    raw.send();
    let messages = raw.rest();
    assert_eq!(state(&messages[0]), "08P01");
    server.join().unwrap();
    drop(Arc::clone(&proxy.front));
}
