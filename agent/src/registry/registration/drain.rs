//! Leaving in peace: told to all, acknowledged by every Envoy, and only then gone.

use tokio::time::sleep;
use tracing::{info, warn};

use super::monitor::WrittenKeys;
use super::{Drain, Registration};
use crate::clock::wall;
use crate::fleet::NodeState;
use crate::registry::lease::Lease;
use crate::registry::{drained, keys};

impl Registration {
    /// Puts `draining`, gives up the candidacy unless leading, and waits for the acknowledgement of every Envoy.
    ///
    /// A leader keeps its candidate key, because it configures Envoy and writes what the others wait for: it
    /// resigns when every draining node has been acknowledged. Unbounded: the caller bounds it.
    pub(super) async fn leave(&mut self, lease: &Lease, mine: &WrittenKeys) -> Drain {
        if !mine.ready {
            return Drain::NotNeeded;
        }
        // First in line is enough: an agent that is about to be confirmed as leader must not give up a candidacy that no other has.
        let leading = self.roster.borrow().leader().is_some_and(|leader| leader.lease == lease.id);
        let node = self.node(mine.node.ip, NodeState::Draining, "leaving", &wall());
        info!(name: "draining", leading, "draining");
        let put = keys::put_draining(&self.etcd, &self.space, &node, lease.id, leading).await;
        let revision = match put {
            Ok(revision) => revision,
            Err(error) => {
                warn!(
                    name: "draining-could-not-be-announced",
                    %error,
                    "draining could not be announced: withdrawing instead"
                );
                return self.leave_unwritten().await;
            }
        };
        drained::wait_through(&self.etcd, &self.space, || self.awaited(revision, leading)).await;
        if leading && let Err(error) = keys::resign(&self.etcd, &self.space, lease.id).await {
            warn!(
                name: "resignation-not-written",
                %error,
                "resignation not written: the end of the lease says it"
            );
        }
        sleep(self.linger).await;
        Drain::Acknowledged
    }

    /// Without room in etcd for a word, a deletion still gets through; without etcd, nobody new can be told, and
    /// Envoy's own checks have to notice. Either way those who are on their way here are served for a moment more.
    pub(super) async fn leave_unwritten(&mut self) -> Drain {
        let key = self.space.node_key(&self.identity.name, &self.identity.instance);
        if let Err(error) = keys::delete(&self.etcd, &key).await {
            warn!(name: "not-withdrawn", %error, "not withdrawn");
        }
        sleep(self.linger).await;
        Drain::Unannounced
    }

    /// The revision by which nothing is routed to this node; for a leader, to no draining node.
    fn awaited(&self, revision: i64, leading: bool) -> i64 {
        let roster = self.roster.borrow();
        let own = self.space.node_key(&self.identity.name, &self.identity.instance);
        // An own key that vanishes while draining is not repaired: its end withdraws this node as well.
        let gone = roster.includes(revision) && !roster.contains(&own);
        let own = if gone { roster.applied } else { revision };
        let others = roster.nodes().filter(|node| leading && node.state == NodeState::Draining);
        others.map(|node| node.mod_revision).fold(own, i64::max)
    }
}
