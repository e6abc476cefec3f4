//! The port for scrapers and health checks.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Format, Metrics};

/// How long answers under way may take after the end was asked for.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the health checks say; an `Err` carries the reason as a plain sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether this process is worth keeping.
    pub live: Result<(), String>,
    /// Whether this node should get requests.
    pub ready: Result<(), String>,
}

/// Answers `/metrics`, `/livez` and `/readyz` until `shutdown`; everything else is 404.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    health: watch::Receiver<Health>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (live, ready) = (health.clone(), health);
    let app = Router::new()
        .route("/metrics", get(async move |headers: HeaderMap| scrape(&metrics, &headers)))
        .route("/livez", get(async move || verdict(live.borrow().live.clone())))
        .route("/readyz", get(async move || verdict(ready.borrow().ready.clone())));
    let stop = shutdown.clone();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::select! {
        ended = server => ended,
        // A client that reads one byte a minute must not hold up the end of the agent.
        () = async { shutdown.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
    }
}

fn scrape(metrics: &Metrics, headers: &HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accepts.collect::<Vec<_>>().join(","));
    ([(header::CONTENT_TYPE, format.content_type())], metrics.text(format)).into_response()
}

fn verdict(answer: Result<(), String>) -> Response {
    match answer {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}
