//! Envoy's admin interface, a socket file and no port: access to it is enough to stop Envoy.

use std::path::PathBuf;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::http;

/// Longest answer read: the counters of a few listeners and clusters are some hundred KB.
const BODY_LIMIT: usize = 16 << 20;
/// Longest wait for an answer by which Envoy is not judged.
const BOUND: Duration = Duration::from_secs(1);
/// The same for all counters at once. Below Prometheus' own bound for a scrape, 4 s here: this agent's metrics must still
/// arrive when Envoy is silent.
const SCRAPE_BOUND: Duration = Duration::from_secs(2);

/// Why there was no answer.
#[derive(Debug, Error)]
pub(super) enum Silence {
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("{0}")]
    Broken(anyhow::Error),
    #[error("answered {0}")]
    Refused(StatusCode),
}

/// What `/ready` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// No first configuration yet, and so no public listener.
    Initializing,
    /// Told to drain, or to fail its health check.
    Draining,
}

#[derive(Clone, Debug)]
pub(super) struct Admin {
    socket: PathBuf,
}

impl Admin {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// How far Envoy is. Any HTTP answer is one.
    pub(super) async fn ready(&self, bound: Duration) -> Result<Readiness, Silence> {
        let (status, body) = self.ask(Method::GET, "/ready", bound).await?;
        Ok(match status {
            StatusCode::OK => Readiness::Ready,
            _ if body.windows(12).any(|word| word == b"INITIALIZING") => Readiness::Initializing,
            _ => Readiness::Draining,
        })
    }

    /// From now on each answer says that its connection ends.
    pub(super) async fn fail_health_check(&self) -> Result<(), Silence> {
        fine(self.ask(Method::POST, "/healthcheck/fail", BOUND).await?).map(drop)
    }

    /// Closes every listener's sockets at once and leaves open connections alone. Not `?graceful`, which goes on
    /// accepting for the whole of Envoy's drain time.
    pub(super) async fn close_listeners(&self) -> Result<(), Silence> {
        fine(self.ask(Method::POST, "/drain_listeners", BOUND).await?).map(drop)
    }

    /// What clients still have to get: requests that are under way, and bytes of answers that Envoy itself is done with
    /// and the client has not taken. 0 is nothing; any other number says no more than that.
    pub(super) async fn under_way(&self) -> Result<u64, Silence> {
        let path = r"/stats?filter=^http\..*\.downstream_(rq_active|cx_tx_bytes_buffered)$";
        let text = fine(self.ask(Method::GET, path, BOUND).await?)?;
        Ok(sum(&String::from_utf8_lossy(&text)))
    }

    /// Envoy's own metrics.
    pub(super) async fn prometheus(&self) -> Result<String, Silence> {
        let text = fine(self.ask(Method::GET, "/stats/prometheus", SCRAPE_BOUND).await?)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn ask(&self, method: Method, path: &str, bound: Duration) -> Result<(StatusCode, Bytes), Silence> {
        let asked = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let answer = http::request(stream, method, "admin", path, &[], BODY_LIMIT).await?;
            anyhow::Ok((answer.status, answer.body.map_err(|error| anyhow::anyhow!("{error}"))?))
        };
        timeout(bound, asked).await.map_err(|_| Silence::Timeout(bound))?.map_err(Silence::Broken)
    }
}

fn fine((status, body): (StatusCode, Bytes)) -> Result<Bytes, Silence> {
    if status == StatusCode::OK { Ok(body) } else { Err(Silence::Refused(status)) }
}

/// Lines are `http.LISTENER.downstream_rq_active: 3`; the question itself is one of the admin interface's.
fn sum(text: &str) -> u64 {
    let counts = text.lines().filter(|line| !line.starts_with("http.admin."));
    counts.filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_listeners_count_and_the_question_itself_does_not() {
        let text = "http.admin.downstream_rq_active: 1\nhttp.edge.downstream_rq_active: 2\n\
                    http.edge_tls.downstream_rq_active: 3\n";
        assert_eq!(sum(text), 5);
        assert_eq!(sum("http.admin.downstream_rq_active: 1\n"), 0);
        assert_eq!(sum("http.edge.downstream_cx_tx_bytes_buffered: 32768\n"), 32768);
        assert_eq!(sum(""), 0);
    }
}
