//! Nodes that talk over real sockets: who may, what comes back, and what happens when the other side is silent or gone.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test stops at what it did not expect"
)]

use bytes::Bytes;
use ripen_grid::cluster::{Handler, Identity, Keys, Links, tcp};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const SECRET: &[u8] = b"a secret of the cluster";
const PATIENCE: Duration = Duration::from_secs(10);

/// Says questions backwards; keeps those that begin with `-` to itself.
fn backwards() -> Handler {
    Arc::new(|theirs, question| {
        Box::pin(async move {
            match question.first() {
                Some(b'-') => std::future::pending().await,
                Some(b'!') => Err(format!("node {} must not shout", theirs.node)),
                _ => Ok(question.iter().rev().copied().collect()),
            }
        })
    })
}

/// Node 2 of cluster 7. Ends with the token.
async fn listen(keys: Option<Keys>, stop: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ours = || Identity::new(Some(7), 2);
    tokio::spawn(tcp::listen(listener, keys, ours, backwards(), stop.clone()));
    address
}

fn links(keys: Option<Keys>, cluster: u64, node: u64) -> Links {
    Links::new(Identity::new(Some(cluster), node), tcp::dial(keys))
}

async fn ask(links: &Links, address: &str, question: &'static str) -> io::Result<Bytes> {
    links
        .ask(Some(2), address, 0, question.into(), PATIENCE)
        .await
}

#[tokio::test]
async fn questions_are_answered_in_any_order() {
    let keys = Keys::of_secret(SECRET).unwrap();
    let stop = CancellationToken::new();
    let address = listen(Some(keys.clone()), &stop).await;
    let links = links(Some(keys), 7, 1);
    let silent = ask(&links, &address, "-");
    tokio::pin!(silent);
    let others = async {
        for _ in 0..100 {
            let (one, other) =
                tokio::join!(ask(&links, &address, "abc"), ask(&links, &address, "12345"));
            assert_eq!(one.unwrap(), "cba");
            assert_eq!(other.unwrap(), "54321");
        }
    };
    tokio::select! {
        answered = &mut silent => panic!("{answered:?}"),
        () = others => {}
    }
    let refused = ask(&links, &address, "!").await.unwrap_err();
    assert_eq!(refused.to_string(), "node 1 must not shout");
    stop.cancel();
    assert!(silent.await.is_err(), "nobody is there to answer any more");
}

#[tokio::test]
async fn whoever_has_another_secret_or_none_is_not_heard() {
    let ours = Keys::of_secret(SECRET).unwrap();
    let theirs = Keys::of_secret(b"a secret of somebody else").unwrap();
    let address = listen(Some(ours.clone()), &CancellationToken::new()).await;
    assert!(
        ask(&links(Some(theirs.clone()), 7, 1), &address, "abc")
            .await
            .is_err()
    );
    assert!(ask(&links(None, 7, 1), &address, "abc").await.is_err());
    assert!(
        ask(&links(Some(ours.clone()), 7, 1), &address, "abc")
            .await
            .is_ok()
    );
    let open = listen(None, &CancellationToken::new()).await;
    let downgraded = ask(&links(Some(ours), 7, 1), &open, "abc").await;
    assert!(downgraded.is_err(), "{downgraded:?}");
    assert!(Keys::of_secret(b"short").is_err());
}

#[tokio::test]
async fn strangers_hear_why_they_are_refused() {
    let address = listen(None, &CancellationToken::new()).await;
    let stranger = ask(&links(None, 8, 1), &address, "abc").await.unwrap_err();
    assert!(
        stranger.to_string().contains("another cluster"),
        "{stranger}"
    );
    let copy = ask(&links(None, 7, 2), &address, "abc").await.unwrap_err();
    assert!(
        copy.to_string().contains("must not be used twice"),
        "{copy}"
    );
    let links = links(None, 7, 1);
    let other = links
        .ask(Some(3), &address, 0, "abc".into(), PATIENCE)
        .await;
    let other = other.unwrap_err().to_string();
    assert_eq!(other, "node 2 is at the address of node 3");
}

#[tokio::test]
async fn a_node_that_is_back_is_reached_again() {
    // An address of its own: nobody else is given the port while it is free.
    let reserved = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = reserved.local_addr().unwrap().to_string();
    drop(reserved);
    let links = links(None, 7, 1);
    for _ in 0..3 {
        let listener = TcpListener::bind(&address).await.unwrap();
        let stop = CancellationToken::new();
        let ours = || Identity::new(Some(7), 2);
        let serving = tokio::spawn(tcp::listen(listener, None, ours, backwards(), stop.clone()));
        assert_eq!(ask(&links, &address, "abc").await.unwrap(), "cba");
        stop.cancel();
        serving.await.unwrap();
        assert!(ask(&links, &address, "abc").await.is_err());
    }
}

#[tokio::test]
async fn silence_ends_the_connection_but_one_slow_answer_does_not() {
    let address = listen(None, &CancellationToken::new()).await;
    let links = links(None, 7, 1);
    let brief = Duration::from_millis(50);
    let slow = links.ask(Some(2), &address, 0, "-".into(), brief).await;
    assert_eq!(slow.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(ask(&links, &address, "abc").await.unwrap(), "cba");
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("the test needs the openssl command");
    assert!(output.status.success(), "openssl {arguments}: {output:?}");
}

/// An authority and a certificate of it, with another name than any address.
fn certificate(folder: &Path, authority: &str, name: &str) {
    let root = folder.join(format!("{authority}.crt"));
    if !root.exists() {
        openssl(
            folder,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
            ),
        );
    }
    openssl(
        folder,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -addext subjectAltName=DNS:{name} -keyout {name}.key -out {name}.csr"
        ),
    );
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 1 -copy_extensions copy -out {name}.crt"
        ),
    );
}

fn keys(folder: &Path, authority: &str, name: &str) -> Keys {
    let file = |name: String| folder.join(name);
    Keys::of_certificates(
        &file(format!("{name}.crt")),
        &file(format!("{name}.key")),
        &file(format!("{authority}.crt")),
    )
    .unwrap()
}

#[tokio::test]
async fn certificates_of_the_clusters_authority_let_in_whatever_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificate(folder, "ours", "one");
    certificate(folder, "ours", "two");
    certificate(folder, "theirs", "stranger");
    let address = listen(Some(keys(folder, "ours", "two")), &CancellationToken::new()).await;
    let one = links(Some(keys(folder, "ours", "one")), 7, 1);
    assert_eq!(ask(&one, &address, "abc").await.unwrap(), "cba");
    // Trusts the authority of the others, but is not of it.
    let stranger = Keys::of_certificates(
        &folder.join("stranger.crt"),
        &folder.join("stranger.key"),
        &folder.join("ours.crt"),
    );
    let stranger = links(Some(stranger.unwrap()), 7, 3);
    assert!(ask(&stranger, &address, "abc").await.is_err());
    let credulous = links(Some(keys(folder, "theirs", "stranger")), 7, 3);
    assert!(ask(&credulous, &address, "abc").await.is_err());
}
