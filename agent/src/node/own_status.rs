//! What the channels say of this node, put together for `node.json`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;

use crate::clock::{BootTime, SharedTime, wall_after, wall_before};
use crate::fleet::{Contact, Leadership, Roster};
use crate::page::{ContactState, NginxHealth, NodeDocument, RegistryContact, SiteHealth};
use crate::process::service::Service;
use crate::registry::lease::Lease;

/// Everything that is looked at.
pub struct OwnStatus {
    /// Name and instance.
    pub id: String,
    pub name: String,
    pub started_at: String,
    pub ttl: Duration,
    pub roster: Receiver<Arc<Roster>>,
    pub address: Receiver<Option<Ipv4Addr>>,
    pub contact: Receiver<Contact>,
    pub heard: SharedTime,
    pub lease: Receiver<Option<Lease>>,
    pub leadership: Receiver<Option<Leadership>>,
    pub served: Service,
    /// Moved to each answer of the served process.
    pub answered: SharedTime,
    /// What is wrong with own content.
    pub trouble: Receiver<Option<String>>,
}

impl OwnStatus {
    pub fn look(&self) -> NodeDocument {
        let roster = self.roster.borrow().clone();
        let stale_since = self.contact.borrow().stale_since.clone();
        let state = match (&stale_since, roster.epoch) {
            (Some(_), _) => ContactState::Stale,
            (None, 0) => ContactState::Starting,
            (None, _) => ContactState::Fresh,
        };
        let lease = self.lease.borrow().as_ref().map(|lease| lease.deadline());
        NodeDocument {
            schema: 1,
            id: self.id.clone(),
            name: self.name.clone(),
            ip: *self.address.borrow(),
            started_at: self.started_at.clone(),
            registry: RegistryContact {
                id: roster.life().map(|life| life.id.clone()),
                state,
                last_contact_at: past(&self.heard),
                stale_since,
                stale_after_ms: self.ttl.as_millis() as u64,
            },
            lease_expires_at: lease.map(|ends| wall_after(ends.saturating_since(BootTime::now()))),
            revision: roster.revision,
            digest: roster.digest(),
            leader: self.leadership.borrow().is_some(),
            nginx: NginxHealth {
                pid: self.served.pid().map(|pid| pid.as_raw()),
                last_probe_at: self.served.pid().and_then(|_| past(&self.answered)),
            },
            site: SiteHealth { trouble: self.trouble.borrow().clone() },
        }
    }
}

/// When a moment was, for people; `None` for one that never came.
fn past(at: &SharedTime) -> Option<String> {
    let at = at.get();
    (at > BootTime::default()).then(|| wall_before(BootTime::now().saturating_since(at)))
}
