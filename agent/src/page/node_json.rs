//! `node.json`: what this node says of itself, once a second. The only generated file that differs from node to node.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::files::Publisher;
use super::render::json;
use super::writer::{Attempt, Writer};
use crate::metrics::{ListFile, Metrics};

/// Between two writings: a client that polls once a second sees each.
const EVERY: Duration = Duration::from_secs(1);

/// The file's content; the order of the fields is the order in the file. Times are RFC 3339 in UTC, by this node's own
/// clock; `null` is what is not known or not there.
#[derive(Clone, Debug, Serialize)]
pub struct NodeDocument {
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
pub fn render_itself(itself: &NodeDocument) -> Vec<u8> {
    json(itself, 1)
}

/// Writes what `look` says, every second. Never returns; ends when dropped.
pub async fn run_itself(publisher: Publisher, mut look: impl FnMut() -> NodeDocument, metrics: Metrics) {
    let mut writer = Writer::new(publisher, metrics);
    let mut tick = interval(EVERY);
    // After a freeze one writing is enough.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let bytes = render_itself(&look());
        match writer.write(move |publisher| publisher.overwrite(ListFile::NodeJson, &bytes)).await {
            Attempt::Failed { error, still: false } => warn!(
                name: "own-state-not-written-to-its-file",
                %error,
                "own state not written to its file"
            ),
            Attempt::Done { again: true, .. } => info!(
                name: "own-state-written-to-its-file-again",
                "own state written to its file again"
            ),
            _ => {}
        }
    }
}
