//! `ripen node …`: asks a running node by its admin server, and tells what it says. Never opens the log.

use crate::cli::NodeAsk;
use crate::config::units::show_duration;
use crate::limits::{NODE_ANSWER_BYTES_MAX, NODE_CONNECT_WAIT, NODE_LEAVE_WAIT};
use crate::nodes::control::NodeReport;
use anyhow::{Context, anyhow, bail};
use axum::http::header::HOST;
use axum::http::{Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ripen_grid::cluster::status::{MemberStatus, Seen};
use std::fmt::Write;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Asks the node whose admin server is at `admin`.
///
/// # Errors
/// When nobody answers there, or the node does not do what it is asked.
pub async fn node(admin: &str, ask: NodeAsk) -> anyhow::Result<()> {
    let (method, path) = match ask {
        NodeAsk::Status => (Method::GET, "/node"),
        NodeAsk::Drain => (Method::POST, "/node/drain"),
        NodeAsk::Leave => (Method::POST, "/node/leave"),
    };
    let body = fetch(admin, method, path).await?;
    match ask {
        NodeAsk::Status => {
            let report: NodeReport = serde_json::from_slice(&body)
                .with_context(|| format!("what answers at {admin} is no Ripen that knows nodes"))?;
            print!("{}", tell(&report));
        }
        _ => print!("{}", String::from_utf8_lossy(&body)),
    }
    Ok(())
}

async fn fetch(admin: &str, method: Method, path: &str) -> anyhow::Result<Bytes> {
    let connecting = timeout(NODE_CONNECT_WAIT, TcpStream::connect(admin));
    let stream = match connecting.await {
        Ok(connected) => connected.map_err(|error| nobody(admin, &error.to_string()))?,
        Err(_) => return Err(nobody(admin, "no answer")),
    };
    let patience = NODE_LEAVE_WAIT + NODE_CONNECT_WAIT;
    let answered = timeout(patience, exchange(stream, admin, method, path)).await;
    answered.with_context(|| format!("no answer within {}", show_duration(patience)))?
}

fn nobody(admin: &str, why: &str) -> anyhow::Error {
    anyhow!("nobody answers at {admin}: {why}; give the node's admin_listen with --admin HOST:PORT")
}

async fn exchange(
    stream: TcpStream,
    admin: &str,
    method: Method,
    path: &str,
) -> anyhow::Result<Bytes> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, admin)
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), NODE_ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| anyhow!(error))?;
        let body = body.to_bytes();
        if !status.is_success() {
            let why = String::from_utf8_lossy(&body);
            match why.trim() {
                "" => bail!("what answers at {admin} does not know {path} ({status})"),
                why => bail!("{why}"),
            }
        }
        Ok(body)
    };
    let carried = async {
        // However it ends, whoever waits for the answer is told, or has it already.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        body = exchange => body,
        body = carried => body,
    }
}

/// In words and a table.
fn tell(report: &NodeReport) -> String {
    let status = &report.status;
    let mut text = format!("node {}", status.node);
    if !status.address.is_empty() {
        let _ = write!(text, " at {}", status.address);
    }
    let _ = writeln!(text, ": {}", part(status));
    let reads = if status.may_read {
        "yes"
    } else {
        "no, it asks Postgres"
    };
    let _ = writeln!(text, "answers from memory: {reads}");
    let safe = report.not_safe.as_deref();
    let safe = safe.map_or("yes".to_owned(), |reason| format!("no: {reason}"));
    let _ = writeln!(text, "one more node may be lost: {safe}");
    if let Some(reason) = &report.not_ready {
        let _ = writeln!(text, "takes new clients: no: {reason}");
    }
    let _ = writeln!(
        text,
        "\n{:<18}{:<28}{:<10}{:<10}behind",
        "node", "address", "part", "silent"
    );
    for seen in &status.members {
        text += &member(status, seen);
    }
    text
}

fn part(status: &MemberStatus) -> String {
    let term = status.term;
    match &status.leader {
        Some(leader) if leader.node == status.node => format!("leads, in term {term}"),
        Some(leader) => format!("follows node {}, in term {term}", leader.node),
        None => format!("knows no leader, in term {term}"),
    }
}

fn member(status: &MemberStatus, seen: &Seen) -> String {
    let leads = status.leader.as_ref().map(|leader| leader.node) == Some(seen.node);
    let part = match (leads, seen.votes) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    };
    let silent = seen.silent_ms.map(Duration::from_millis);
    let silent = silent.map_or("?".to_owned(), show_duration);
    let behind = seen
        .matched
        .map(|matched| status.last.saturating_sub(matched));
    let behind = behind.map_or("?".to_owned(), |behind| behind.to_string());
    format!(
        "{:<18}{:<28}{part:<10}{silent:<10}{behind}\n",
        seen.node, seen.address
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_grid::cluster::status::Whereabouts;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn seen(node: u64, votes: bool, silent_ms: Option<u64>) -> Seen {
        Seen {
            node,
            address: format!("ripen-{node}:6434"),
            votes,
            silent_ms,
            matched: silent_ms.map(|ms| 1_000 - ms),
        }
    }

    #[test]
    fn a_report_is_told_in_words() {
        let report = NodeReport {
            status: MemberStatus {
                node: 2,
                address: "ripen-2:6434".to_owned(),
                leader: Some(Whereabouts::default()),
                term: 5,
                may_read: true,
                last: 1_000,
                members: vec![
                    seen(0, true, Some(0)),
                    seen(2, true, Some(90)),
                    seen(3, false, None),
                ],
                ..MemberStatus::default()
            },
            not_safe: Some("the voters are being changed".to_owned()),
            not_ready: None,
        };
        let expected = "\
node 2 at ripen-2:6434: follows node 0, in term 5
answers from memory: yes
one more node may be lost: no: the voters are being changed

node              address                     part      silent    behind
0                 ripen-0:6434                leader    0         0
2                 ripen-2:6434                voter     90ms      90
3                 ripen-3:6434                learner   ?         ?
";
        assert_eq!(tell(&report), expected);
    }

    /// Somebody who answers one request with these bytes.
    async fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    async fn drained(answer: &'static str) -> Result<(), String> {
        let admin = answering(answer).await;
        let outcome = node(&admin, NodeAsk::Drain).await;
        outcome.map_err(|error| format!("{error:#}").replace(&admin, "ADMIN"))
    }

    #[tokio::test]
    async fn what_a_node_refuses_is_an_error_in_its_words() {
        assert_eq!(
            drained("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\ndrained\n").await,
            Ok(())
        );
        let refused = "HTTP/1.1 409 Conflict\r\ncontent-length: 13\r\n\r\na node alone\n";
        assert_eq!(drained(refused).await, Err("a node alone".to_owned()));
        let older = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let unknown = "what answers at ADMIN does not know /node/drain (404 Not Found)";
        assert_eq!(drained(older).await, Err(unknown.to_owned()));
        assert!(drained("no HTTP at all").await.is_err());
        assert!(drained("").await.is_err());
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_an_error_that_says_what_to_do() {
        let asked = node("127.0.0.1:1", NodeAsk::Status).await;
        let error = asked.unwrap_err().to_string();
        assert!(
            error.contains("nobody answers at") && error.contains("--admin"),
            "{error}"
        );
    }
}
