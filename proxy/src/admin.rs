//! The admin HTTP server: `/metrics` for Prometheus, `/live` and `/ready` for whoever starts and stops processes, `/status` as JSON.
//! Reads a [`Status`] and nothing else; it can change nothing.

use crate::metrics::{Status, openmetrics};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Makes a fresh snapshot; called once per request, must not block for long.
pub type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;

/// Serves until `stop` is cancelled. Dropping the future stops it at once.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    source: StatusSource,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(source))
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

fn router(source: StatusSource) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .with_state(source)
}

async fn metrics(State(source): State<StatusSource>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], openmetrics(&source())).into_response()
}

async fn ready(State(source): State<StatusSource>) -> Response {
    match source().not_ready {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status(State(source): State<StatusSource>) -> Response {
    match serde_json::to_string(&source()) {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn ready_says_why_not_until_it_is() {
        let reason = Arc::new(Mutex::new(Some("waiting for Postgres".to_owned())));
        let shared = reason.clone();
        let source: StatusSource = Arc::new(move || Status {
            not_ready: shared.lock().clone(),
            ..Status::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, source, stop.clone()));

        let early = fetch(address, "/ready").await;
        assert!(
            early.starts_with("HTTP/1.1 503") && early.ends_with("waiting for Postgres\n"),
            "{early}"
        );
        assert!(fetch(address, "/live").await.starts_with("HTTP/1.1 200"));
        *reason.lock() = None;
        assert!(fetch(address, "/ready").await.starts_with("HTTP/1.1 200"));
        assert!(
            fetch(address, "/metrics")
                .await
                .contains("application/openmetrics-text")
        );
        assert!(
            fetch(address, "/status")
                .await
                .contains("\"not_ready\":null")
        );
        assert!(
            fetch(address, "/nonsense")
                .await
                .starts_with("HTTP/1.1 404")
        );

        stop.cancel();
        server.await.expect("not panicked").expect("stopped");
    }
}
