//! The port for scrapers and health checks.

use std::future::Future;
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

/// Whose metrics a port tells.
pub trait Scrape: Clone + Send + Sync + 'static {
    /// The text of a scrape, in the format that was asked for or in the one there is.
    fn scrape(&self, wanted: Format) -> impl Future<Output = (Format, String)> + Send;
}

impl Scrape for Metrics {
    async fn scrape(&self, wanted: Format) -> (Format, String) {
        (wanted, self.text(wanted))
    }
}

/// Answers `/metrics`, `/livez` and `/readyz` until `shutdown`; everything else is 404.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: impl Scrape,
    health: watch::Receiver<Health>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (live, ready) = (health.clone(), health);
    let app = Router::new()
        .route("/metrics", get(async move |headers: HeaderMap| scrape(&metrics, &headers).await))
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

async fn scrape(metrics: &impl Scrape, headers: &HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wanted = Format::accepted(&accepts.collect::<Vec<_>>().join(","));
    let (format, text) = metrics.scrape(wanted).await;
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

fn verdict(answer: Result<(), String>) -> Response {
    match answer {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}
