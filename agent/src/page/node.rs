//! `node.json`: what this node says of itself, once a second. The only generated file that differs from node to node.

use std::net::Ipv4Addr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::files::Publisher;
use super::render::json;
use crate::metrics::{ListFile, Metrics, WriteResult};

/// Between two writings: who polls once a second sees each.
const EVERY: Duration = Duration::from_secs(1);

/// The file's content; the order of the fields is the order in the file. Times are RFC 3339 in UTC, by this node's own
/// clock; `null` is what is not known or not there.
#[derive(Clone, Debug, Serialize)]
pub struct Itself {
    pub schema: u32,
    /// Name and instance, as in `ips.json`.
    pub id: String,
    pub name: String,
    pub ip: Option<Ipv4Addr>,
    pub started_at: String,
    pub registry: RegistryContact,
    pub lease_expires_at: Option<String>,
    /// Of the list that this node shows.
    pub revision: i64,
    pub digest: String,
    pub leader: bool,
    pub nginx: NginxHealth,
    pub site: SiteHealth,
}

/// How this node stands with the registry.
#[derive(Clone, Debug, Serialize)]
pub struct RegistryContact {
    /// Of the registry's life, as `registry` in `ips.json`.
    pub id: Option<String>,
    pub state: ContactState,
    pub last_contact_at: Option<String>,
    pub stale_since: Option<String>,
    /// So long after the last contact a list is stale.
    pub stale_after_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContactState {
    /// Nothing was read yet.
    Starting,
    Fresh,
    Stale,
}

/// The process that answers, or `null` twice while none does.
#[derive(Clone, Debug, Serialize)]
pub struct NginxHealth {
    pub pid: Option<i32>,
    /// When it last answered its probe.
    pub last_probe_at: Option<String>,
}

/// Own content: why what is in its directory now is not what is served, or `null`.
#[derive(Clone, Debug, Serialize)]
pub struct SiteHealth {
    pub trouble: Option<String>,
}

/// The file as bytes.
pub fn render_itself(itself: &Itself) -> Vec<u8> {
    json(itself, 1)
}

/// Writes what `look` says, every second. Never returns; ends when dropped.
pub async fn run_itself(publisher: Publisher, mut look: impl FnMut() -> Itself, metrics: Metrics) {
    let publisher = Arc::new(publisher);
    let mut tick = interval(EVERY);
    // After a freeze one writing is enough.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tick.tick().await;
        let (publisher, bytes) = (publisher.clone(), render_itself(&look()));
        let task = spawn_blocking(move || publisher.overwrite(ListFile::NodeJson, &bytes));
        let outcome = task.await.unwrap_or_else(|ended| resume_unwind(ended.into_panic()));
        let result = if outcome.is_ok() { WriteResult::Written } else { WriteResult::Failed };
        metrics.list_writes.get_or_create(&(ListFile::NodeJson, result)).inc();
        match outcome {
            Err(error) if !failing => warn!(%error, "own state not written to its file"),
            Ok(()) if failing => info!("own state written to its file again"),
            _ => {}
        }
        failing = result == WriteResult::Failed;
    }
}
