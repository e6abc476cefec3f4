//! How far every Envoy that could still send requests has acknowledged: what a drain stands on. Pure: the time is
//! told.

use std::collections::BTreeMap;
use std::time::Duration;

/// A stream that ended stays expected for so long: its Envoy reconnects within a second, or is gone.
pub const AFTER_STREAM: Duration = Duration::from_secs(1);
/// An Envoy that the predecessor knew is expected for so long at least; it is also how long a new leader that meets no
/// Envoy waits before it says that there is none.
const AFTER_LEADER: Duration = Duration::from_secs(10);
/// What Envoy may need to leave a former leader once that one has stopped by its own clock: keep-alive and walk.
const WALK: Duration = Duration::from_secs(5);

/// How long a new leader expects its predecessor's Envoys: longer than the predecessor itself can go on.
pub fn after_leader(ttl: Duration) -> Duration {
    AFTER_LEADER.max(ttl + WALK)
}

/// One open ADS stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdsStream {
    /// Envoy's id; `None` until its first message.
    pub envoy: Option<String>,
    /// Revision through which it has acknowledged everything; 0 from its opening.
    pub through: i64,
    /// Digest of the endpoints it acknowledged last.
    pub digest: Option<String>,
    /// The last push it rejected, in its own words.
    pub rejection: Option<String>,
}

/// What the leader may write under `drained`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// No Envoy routes by anything older than this revision.
    pub revision: i64,
    /// Ids of the Envoys that count, connected or expected.
    pub envoys: Vec<String>,
    /// Those of them that hold the revision back.
    pub missing: Vec<String>,
}

/// Which Envoys are connected and which are still expected, from one leader's beginning. `now` is the time since then.
#[derive(Clone, Debug)]
pub struct Acknowledgements {
    streams: BTreeMap<u64, AdsStream>,
    /// Envoys without a stream, and until when they hold everything back.
    expected: BTreeMap<String, Duration>,
    /// As [`after_leader`] says.
    patience: Duration,
}

impl Acknowledgements {
    /// Takes over the Envoys that the predecessor had connected.
    pub fn new(predecessors: impl IntoIterator<Item = String>, patience: Duration) -> Self {
        let expected = predecessors.into_iter().map(|envoy| (envoy, patience)).collect();
        Self { streams: BTreeMap::new(), expected, patience }
    }

    /// The streams as they are now, by their number.
    pub fn update(&mut self, streams: BTreeMap<u64, AdsStream>, now: Duration) {
        let ended = self.streams.iter().filter(|(number, _)| !streams.contains_key(number));
        // A stream without a node id may be any Envoy: it is expected under its number.
        let named = |(number, stream): (&u64, &AdsStream)| {
            stream.envoy.clone().unwrap_or_else(|| format!("?{number}"))
        };
        for envoy in ended.map(named).collect::<Vec<_>>() {
            self.expected.insert(envoy, now + AFTER_STREAM);
        }
        for stream in streams.values() {
            if let Some(envoy) = &stream.envoy {
                self.expected.remove(envoy);
            }
        }
        self.expected.retain(|_, until| *until > now);
        self.streams = streams;
    }

    /// How far all Envoys are when `applied` is what the leader itself has applied.
    pub fn through(&self, applied: i64, now: Duration) -> Through {
        let name = |(number, stream): (&u64, &AdsStream)| {
            stream.envoy.clone().unwrap_or_else(|| format!("?{number}"))
        };
        let expected: Vec<String> =
            self.expected.iter().filter(|(_, until)| **until > now).map(|(envoy, _)| envoy.clone()).collect();
        let behind = self.streams.iter().filter(|(_, stream)| stream.through < applied).map(name);
        let missing: Vec<String> = behind.chain(expected.iter().cloned()).collect();
        let envoys: Vec<String> = self.streams.iter().map(name).chain(expected.iter().cloned()).collect();
        let lowest = self.streams.values().map(|stream| stream.through).min();
        let revision = match lowest {
            _ if !expected.is_empty() => 0,
            Some(lowest) => lowest,
            None if now < self.patience => 0,
            None => applied,
        };
        Through { revision, envoys, missing }
    }

    /// When the answer may change without an event.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let first = (self.streams.is_empty() && now < self.patience).then_some(self.patience);
        self.expected.values().copied().filter(|until| *until > now).chain(first).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LATER: Duration = Duration::from_secs(60);

    fn stream(envoy: &str, through: i64) -> AdsStream {
        AdsStream { envoy: Some(envoy.into()), through, digest: None, rejection: None }
    }

    fn streams(streams: &[(u64, AdsStream)]) -> BTreeMap<u64, AdsStream> {
        streams.iter().cloned().collect()
    }

    #[test]
    fn the_slowest_stream_decides_and_is_named() {
        let mut acks = Acknowledgements::new([], AFTER_LEADER);
        acks.update(streams(&[(1, stream("a", 9)), (2, stream("b", 7))]), LATER);
        let through = acks.through(9, LATER);
        assert_eq!((through.revision, through.missing), (7, vec!["b".to_owned()]));
    }

    #[test]
    fn a_stream_that_just_opened_holds_everything_back() {
        let mut acks = Acknowledgements::new([], AFTER_LEADER);
        let unknown = AdsStream { envoy: None, ..stream("", 0) };
        acks.update(streams(&[(1, stream("a", 9)), (2, unknown)]), LATER);
        assert_eq!(acks.through(9, LATER).revision, 0);
        assert_eq!(acks.through(9, LATER).missing, ["?2"]);
    }

    #[test]
    fn two_streams_of_one_envoy_both_count() {
        let mut acks = Acknowledgements::new([], AFTER_LEADER);
        acks.update(streams(&[(1, stream("a", 9)), (2, stream("a", 3))]), LATER);
        assert_eq!(acks.through(9, LATER).revision, 3);
    }

    #[test]
    fn a_stream_that_ended_is_expected_for_a_second() {
        let mut acks = Acknowledgements::new([], AFTER_LEADER);
        acks.update(streams(&[(1, stream("a", 9))]), LATER);
        acks.update(BTreeMap::new(), LATER);
        assert_eq!(acks.through(9, LATER).revision, 0);
        assert_eq!(acks.next_change(LATER), Some(LATER + AFTER_STREAM));
        assert_eq!(acks.through(9, LATER + AFTER_STREAM).revision, 9, "nobody routes any more");
        acks.update(streams(&[(2, stream("a", 8))]), LATER + SOON);
        assert_eq!(
            acks.through(9, LATER + SOON).revision,
            8,
            "back in time, it counts as what it acknowledged"
        );
    }

    #[test]
    fn a_new_leader_waits_for_those_its_predecessor_knew() {
        let mut acks = Acknowledgements::new(["a".to_owned(), "b".to_owned()], AFTER_LEADER);
        acks.update(streams(&[(1, stream("a", 9))]), SOON);
        let through = acks.through(9, SOON);
        assert_eq!((through.revision, through.missing), (0, vec!["b".to_owned()]));
        assert_eq!(acks.through(9, AFTER_LEADER).revision, 9, "b had its time");
    }

    #[test]
    fn a_long_lease_makes_a_new_leader_wait_longer() {
        assert_eq!(after_leader(Duration::from_secs(5)), AFTER_LEADER);
        assert!(after_leader(Duration::from_secs(30)) > Duration::from_secs(30));
    }

    #[test]
    fn a_new_leader_without_envoys_does_not_say_so_at_once() {
        let acks = Acknowledgements::new([], AFTER_LEADER);
        assert_eq!(acks.through(9, SOON).revision, 0);
        assert_eq!(acks.through(9, AFTER_LEADER).revision, 9);
    }
}
