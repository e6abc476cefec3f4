//! What the channels say, as gauges; what the ADS streams do, as counters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::interval;

use crate::clock::{BootTime, SharedTime};
use crate::envoy::ResourceType;
use crate::envoy::xds::{AckKind, XdsEvents};
use crate::fleet::{Contact, Leadership, NodeState, Roster};
use crate::metrics::{Event, Metrics, Resource, XdsResult};
use crate::registry::lease::Lease;

/// Between looks at what moves without an event.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the gauges current that no room owns alone.
pub async fn follow(
    mut roster: watch::Receiver<Arc<Roster>>,
    contact: watch::Receiver<Contact>,
    mut leadership: watch::Receiver<Option<Leadership>>,
    lease: watch::Receiver<Option<Lease>>,
    heard: SharedTime,
    metrics: Metrics,
) {
    let mut look = interval(LOOK);
    let mut leader = None;
    let mut known = Members::new();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            changed = roster.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
        }
        metrics.leader.set(i64::from(leadership.borrow_and_update().is_some()));
        metrics.registry_stale.set(i64::from(contact.borrow().stale_since.is_some()));
        let now = roster.borrow_and_update().clone();
        let members = members(&now);
        for event in events(&known, &members) {
            metrics.membership_events.get_or_create(&event).inc();
        }
        known = members;
        let now = now.leader().map(|candidate| candidate.instance.clone());
        if now.is_some() && now != leader {
            leader = now;
            metrics.leader_changes.inc();
        }
        let ends = lease.borrow().as_ref().map_or(0.0, |lease| unix(lease.deadline()));
        metrics.lease_expires_timestamp.set(ends);
        let age = BootTime::now().saturating_since(heard.get());
        let last = SystemTime::now().checked_sub(age).and_then(|then| then.duration_since(UNIX_EPOCH).ok());
        metrics.registry_last_contact_timestamp.set(last.map_or(0.0, |then| then.as_secs_f64()));
    }
}

/// Instances and what each said of itself.
type Members = BTreeMap<String, NodeState>;

fn members(roster: &Roster) -> Members {
    roster.nodes().map(|node| (node.instance.clone(), node.state)).collect()
}

/// What happened to nodes between two looks: a node that came and went between them is not seen.
fn events(before: &Members, now: &Members) -> Vec<Event> {
    let arrived = now.iter().filter_map(|(instance, state)| match (before.get(instance), state) {
        (Some(known), state) if known == state => None,
        (None, NodeState::Serving) => Some(Event::Joined),
        (_, NodeState::Draining) => Some(Event::Draining),
        (_, NodeState::Lost) => Some(Event::Lost),
        (Some(_), NodeState::Serving) => None,
    });
    let gone =
        before.iter().filter(|(instance, _)| !now.contains_key(*instance)).filter_map(
            |(_, state)| match state {
                NodeState::Serving => Some(Event::Expired),
                NodeState::Draining => Some(Event::Left),
                NodeState::Lost => None,
            },
        );
    arrived.chain(gone).collect()
}

/// A deadline as the Unix time at which it will be reached.
fn unix(deadline: BootTime) -> f64 {
    let ahead = deadline.saturating_since(BootTime::now());
    let then = (SystemTime::now() + ahead).duration_since(UNIX_EPOCH);
    then.map_or(0.0, |then| then.as_secs_f64())
}

/// Counts what the ADS streams do.
pub struct Counted(pub Metrics);

impl XdsEvents for Counted {
    fn on_push(&self, kind: ResourceType) {
        self.0.xds_pushes.get_or_create(&resource(kind)).inc();
    }

    fn on_response(&self, kind: ResourceType, verdict: AckKind) {
        let result = match verdict {
            AckKind::Ack => XdsResult::Ack,
            AckKind::Nack => XdsResult::Nack,
            AckKind::Stale => return,
        };
        self.0.xds_responses.get_or_create(&(resource(kind), result)).inc();
    }

    fn on_ack_duration(&self, _kind: ResourceType, took: Duration) {
        self.0.xds_ack_duration.observe(took.as_secs_f64());
    }
}

fn resource(kind: ResourceType) -> Resource {
    match kind {
        ResourceType::Clusters => Resource::Clusters,
        ResourceType::Endpoints => Resource::Endpoints,
        ResourceType::Listeners => Resource::Listeners,
        ResourceType::Routes => Resource::Routes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_come_and_to_go_has_its_event() {
        let at = |states: &[(&str, NodeState)]| -> Members {
            states.iter().map(|(instance, state)| ((*instance).to_owned(), *state)).collect()
        };
        let before = at(&[
            ("stays", NodeState::Serving),
            ("drains", NodeState::Serving),
            ("left", NodeState::Draining),
            ("expired", NodeState::Serving),
            ("reaped", NodeState::Lost),
        ]);
        let now = at(&[
            ("stays", NodeState::Serving),
            ("drains", NodeState::Draining),
            ("new", NodeState::Serving),
        ]);
        assert_eq!(events(&before, &now), [Event::Draining, Event::Joined, Event::Expired, Event::Left]);
        assert_eq!(events(&now, &now), []);
    }
}
