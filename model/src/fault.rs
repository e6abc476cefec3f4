//! What goes wrong, each as often as the scene allows.

use crate::etcd::KeyState;
use crate::mechanism::Mechanism;
use crate::node::put;
use crate::protocol::Protocol;
use crate::state::{Phase, State};
use crate::step::only_if;

impl Protocol {
    pub(crate) fn crash(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].runs())?;
        s.left.crashes -= 1;
        self.end(s, n, Phase::Crashed { late: false });
        Some(())
    }

    /// Dies with its registration on the way: etcd may take it later.
    pub(crate) fn crash_while_putting(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].phase == Phase::Starting && s.nodes[n].applied.is_some())?;
        s.left.late_puts -= 1;
        s.nodes[n].lease = true;
        self.end(s, n, Phase::Crashed { late: true });
        Some(())
    }

    pub(crate) fn late_put(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].phase == Phase::Crashed { late: true })?;
        s.nodes[n].phase = Phase::Crashed { late: false };
        s.commit(|range, revision| {
            put(&mut range.keys[n], KeyState::Serving, revision);
            range.keys[n].candidate = Some(revision);
        });
        Some(())
    }

    pub(crate) fn freeze(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].runs())?;
        s.left.freezes -= 1;
        s.nodes[n].frozen = true;
        Some(())
    }

    /// Wakes with all it believed before. That it verifies before it sends is left out: the model's zombie sends
    /// until it learns or its clock ends it.
    pub(crate) fn wake(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].frozen)?;
        s.nodes[n].frozen = false;
        Some(())
    }

    pub(crate) fn cut(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].reaches_etcd() && s.nodes[n].applied.is_some())?;
        s.left.cuts -= 1;
        s.nodes[n].cut = true;
        Some(())
    }

    pub(crate) fn heal(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].runs() && s.nodes[n].cut)?;
        s.nodes[n].cut = false;
        Some(())
    }

    /// A list that etcd refuses or does not finish.
    pub(crate) fn list_fails(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].runs() && s.nodes[n].applied.is_some())?;
        only_if(!self.has(Mechanism::KeepsOnFailure))?;
        s.left.failed_lists -= 1;
        s.nodes[n].blank = true;
        self.publish(s, n);
        Some(())
    }
}
