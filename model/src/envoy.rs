//! An Envoy, its stream and what the leader learns from it.

use crate::mechanism::Mechanism;
use crate::protocol::Protocol;
use crate::state::{Expected, Flight, State, Stream};
use crate::step::only_if;

impl Protocol {
    /// Opens a stream at an agent that does not refuse it.
    pub(crate) fn connect(&self, s: &mut State, envoy: usize, n: usize) -> Option<()> {
        only_if(s.envoys[envoy].stream.is_none() && s.nodes[n].runs() && s.nodes[n].serves_ads())?;
        let answered = !self.has(Mechanism::RecordBeforeAnswer);
        s.envoys[envoy].stream = Some(Stream { node: n as u8, answered, ..Stream::default() });
        s.nodes[n].lead.as_mut()?.expects[envoy] = Expected::No;
        Some(())
    }

    /// Records the Envoy, which proves the right to lead; answers from then on, if it has not before.
    pub(crate) fn answer(&self, s: &mut State, envoy: usize) -> Option<()> {
        let n = s.envoys[envoy].stream?.node as usize;
        only_if(s.nodes[n].reaches_etcd() && s.nodes[n].lead.is_some())?;
        if s.is_claim_valid(n) {
            s.recorded[envoy] = true;
            s.envoys[envoy].stream.as_mut()?.answered = true;
        } else {
            s.demote(n);
        }
        Some(())
    }

    pub(crate) fn subscribe(&self, s: &mut State, envoy: usize) -> Option<()> {
        let stream = s.envoys[envoy].stream.as_mut()?;
        only_if(stream.answered && !stream.subscribed)?;
        stream.subscribed = true;
        Some(())
    }

    /// One push at a time; what comes meanwhile coalesces. What was rejected is not sent again.
    pub(crate) fn push(&self, s: &mut State, envoy: usize) -> Option<()> {
        let stream = s.envoys[envoy].stream?;
        let n = stream.node as usize;
        let told = self.told(s, n);
        let due = stream.acked != Some(told) && stream.rejected != Some(told);
        only_if(s.nodes[n].runs() && stream.subscribed && stream.flight == Flight::Nothing && due)?;
        let applied = s.nodes[n].applied?;
        let stream = s.envoys[envoy].stream.as_mut()?;
        stream.flight = Flight::Push(told);
        if !self.has(Mechanism::WaitsForAck) {
            stream.through = applied;
        }
        Some(())
    }

    pub(crate) fn deliver(&self, s: &mut State, envoy: usize) -> Option<()> {
        let Flight::Push(told) = s.envoys[envoy].stream?.flight else { return None };
        let n = s.envoys[envoy].stream?.node as usize;
        let current = s.is_claim_valid(n);
        let there = &mut s.envoys[envoy];
        there.endpoints = told;
        there.absent &= !current;
        there.stream.as_mut()?.flight = Flight::Ack(told);
        Some(())
    }

    pub(crate) fn reject(&self, s: &mut State, envoy: usize) -> Option<()> {
        let stream = s.envoys[envoy].stream.as_mut()?;
        let Flight::Push(told) = stream.flight else { return None };
        stream.flight = Flight::Nack(told);
        s.left.rejections -= 1;
        Some(())
    }

    /// The answer to the outstanding push arrives.
    pub(crate) fn acked(&self, s: &mut State, envoy: usize) -> Option<()> {
        let stream = s.envoys[envoy].stream?;
        only_if(s.nodes[stream.node as usize].runs() && stream.repeat.is_none())?;
        let rejection_counts = !self.has(Mechanism::RejectionIsNoAck);
        let there = s.envoys[envoy].stream.as_mut()?;
        match stream.flight {
            Flight::Ack(told) => (there.acked, there.rejected) = (Some(told), None),
            Flight::Nack(told) if rejection_counts => there.acked = Some(told),
            Flight::Nack(told) => there.rejected = Some(told),
            _ => return None,
        }
        there.flight = Flight::Nothing;
        Some(())
    }

    /// A request with the last version and nonce that Envoy knows: it asks for other names, or for the same again.
    pub(crate) fn repeat(&self, s: &mut State, envoy: usize) -> Option<()> {
        let endpoints = s.envoys[envoy].endpoints;
        let stream = s.envoys[envoy].stream.as_mut()?;
        let received = stream.acked.is_some() && matches!(stream.flight, Flight::Nothing | Flight::Push(_));
        only_if(received && stream.repeat.is_none())?;
        stream.repeat = Some(endpoints);
        s.left.repeats -= 1;
        Some(())
    }

    /// Its nonce is stale or answered: nothing follows. By its version it may look like an ACK of what is current.
    pub(crate) fn repeat_arrives(&self, s: &mut State, envoy: usize) -> Option<()> {
        let stream = s.envoys[envoy].stream?;
        let n = stream.node as usize;
        only_if(s.nodes[n].runs())?;
        let looks_current = stream.repeat? == self.told(s, n);
        let applied = s.nodes[n].applied?;
        let stream = s.envoys[envoy].stream.as_mut()?;
        stream.repeat = None;
        if looks_current && !self.has(Mechanism::AckByNonce) {
            stream.through = applied;
        }
        Some(())
    }

    /// Envoy's keepalive finds the agent silent.
    pub(crate) fn give_up(&self, s: &mut State, envoy: usize) -> Option<()> {
        let stream = s.envoys[envoy].stream?;
        let node = &s.nodes[stream.node as usize];
        only_if(!node.runs())?;
        self.end_stream(s, envoy);
        Some(())
    }

    pub(crate) fn lose_stream(&self, s: &mut State, envoy: usize) -> Option<()> {
        only_if(s.envoys[envoy].stream.is_some())?;
        s.left.losses -= 1;
        self.end_stream(s, envoy);
        Some(())
    }

    /// Away for longer than anybody waits: no promise covers it until it has applied a push of the leader again.
    pub(crate) fn stay_absent(&self, s: &mut State, envoy: usize) -> Option<()> {
        let there = &mut s.envoys[envoy];
        only_if(!there.absent && there.stream.is_none_or(|stream| !stream.answered))?;
        there.absent = true;
        s.left.absences -= 1;
        Some(())
    }

    fn end_stream(&self, s: &mut State, envoy: usize) {
        let Some(stream) = s.envoys[envoy].stream.take() else { return };
        let n = stream.node as usize;
        let writes = s.nodes[n].reaches_etcd() && s.is_claim_valid(n);
        if writes && !self.has(Mechanism::RecordOutlivesStream) {
            s.recorded[envoy] = false;
        }
        if let Some(lead) = s.nodes[n].lead.as_mut().filter(|_| self.has(Mechanism::EndedStaysExpected)) {
            lead.expects[envoy] = Expected::Ended(stream.through);
        }
    }
}
