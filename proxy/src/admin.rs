//! The admin HTTP server: `/metrics` for Prometheus, `/live` and `/ready` for whoever starts and stops processes, `/leader` and `/safe` for load balancers and
//! whoever restarts nodes, `/status` and `/node` as JSON. All that it can change is this node's part in its cluster (`/node/drain`, `/node/leave`).

use crate::metrics::{Status, openmetrics};
use crate::nodes::control::{ControlError, NodeControl, NodeReport};
use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ripen_grid::cluster::status::MemberStatus;
use serde::Serialize;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Makes a fresh snapshot; called once per request, must not block for long.
pub type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;

#[derive(Clone)]
struct Admin {
    source: StatusSource,
    node: Arc<dyn NodeControl>,
}

/// Serves until `stop` is cancelled. Dropping the future stops it at once.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    source: StatusSource,
    node: Arc<dyn NodeControl>,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(Admin { source, node }))
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/leader", get(leader))
        .route("/safe", get(safe))
        .route("/status", get(status))
        .route("/node", get(node))
        .route("/node/drain", post(drain))
        .route("/node/leave", post(leave))
        .with_state(admin)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], openmetrics(&(admin.source)())).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let not_ready = (admin.source)().not_ready;
    yes_or_no(not_ready.map_or(Ok("ready"), Err))
}

async fn leader(State(admin): State<Admin>) -> Response {
    yes_or_no(judge_leader(&admin.node.status()).map(|()| "leads"))
}

async fn safe(State(admin): State<Admin>) -> Response {
    let (_, safe) = admin.node.view().await;
    yes_or_no(safe.map(|()| "safe"))
}

async fn status(State(admin): State<Admin>) -> Response {
    json(&(admin.source)())
}

async fn node(State(admin): State<Admin>) -> Response {
    json(&NodeReport::of(&*admin.node).await)
}

async fn drain(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if is_web_page(&headers) {
        return from_web_page();
    }
    done(admin.node.drain().await, "drained")
}

async fn leave(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if is_web_page(&headers) {
        return from_web_page();
    }
    done(admin.node.leave().await, "left; the node stops now")
}

/// Whoever leads and was lately confirmed by a majority. One that was not may have been replaced already.
fn judge_leader(status: &MemberStatus) -> Result<(), String> {
    match &status.leader {
        _ if status.leads && status.may_read => Ok(()),
        _ if status.leads => {
            Err("this node led, but no majority has confirmed it lately".to_owned())
        }
        Some(leader) if leader.node != status.node => match &leader.address {
            Some(address) => Err(format!("node {} at {address} leads", leader.node)),
            None => Err(format!("node {} leads", leader.node)),
        },
        _ => Err("this node knows no leader".to_owned()),
    }
}

fn yes_or_no(answer: Result<&str, impl ToString>) -> Response {
    match answer {
        Ok(yes) => format!("{yes}\n").into_response(),
        Err(reason) => {
            let reason = reason.to_string();
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// There is no authentication: a page in the browser of somebody inside must not do for it. Browsers name the page in every request that could change something.
fn is_web_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
}

fn from_web_page() -> Response {
    let why = "a web page may not do this; use \"ripen node\" or curl\n";
    (StatusCode::FORBIDDEN, why).into_response()
}

fn done(outcome: Result<(), ControlError>, what: &str) -> Response {
    let Err(error) = outcome else {
        return format!("{what}\n").into_response();
    };
    let code = match error {
        ControlError::Alone => StatusCode::CONFLICT,
        ControlError::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
        ControlError::Log(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests;
