//! [`Streams`]: which Envoys are connected, and how far each has acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::watch;

use super::stream::{ConfigRejection, Stream};

/// One open stream. Two streams of one Envoy are two entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Unique within this process.
    pub id: u64,
    /// The Envoy's node id; `None` until its first request.
    pub envoy: Option<String>,
    /// Up to which revision of `epoch` its endpoints are known to be in force; 0 from the opening on.
    pub through: i64,
    pub epoch: u64,
    /// Digest of the endpoints it last acknowledged.
    pub digest: Option<String>,
    /// By this agent's wall clock, for people.
    pub connected_at: SystemTime,
    pub last_rejection: Option<ConfigRejection>,
}

/// The shared list of open streams; clones show the same list.
#[derive(Clone, Debug)]
pub struct Streams {
    open: Arc<watch::Sender<BTreeMap<u64, StreamStatus>>>,
    next_id: Arc<AtomicU64>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: Arc::new(watch::Sender::default()), next_id: Arc::default() }
    }
}

impl Streams {
    /// Every open stream, oldest first.
    pub fn list(&self) -> Vec<StreamStatus> {
        self.open.borrow().values().cloned().collect()
    }

    /// Wakes at every opening, close and acknowledgement.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<u64, StreamStatus>> {
        self.open.subscribe()
    }

    /// Adds a stream, which counts with `through` 0 from now on; `None` when `limit` are open.
    pub(super) fn open(&self, limit: usize, stream: &Stream) -> Option<Registered> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let opened = self.open.send_if_modified(|open| {
            let room = open.len() < limit;
            if room {
                open.insert(id, status(id, SystemTime::now(), stream));
            }
            room
        });
        opened.then(|| Registered { id, streams: self.clone() })
    }
}

/// A stream's place in the list, given up when dropped: tonic drops a stream whose client is gone without a word.
#[derive(Debug)]
pub(super) struct Registered {
    id: u64,
    streams: Streams,
}

impl Registered {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn update(&self, stream: &Stream) {
        self.streams.open.send_if_modified(|open| {
            let Some(known) = open.get_mut(&self.id) else { return false };
            let now = status(self.id, known.connected_at, stream);
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.streams.open.send_modify(|open| drop(open.remove(&self.id)));
    }
}

fn status(id: u64, connected_at: SystemTime, stream: &Stream) -> StreamStatus {
    StreamStatus {
        id,
        envoy: stream.envoy().map(str::to_owned),
        through: stream.through(),
        epoch: stream.epoch(),
        digest: stream.acked_digest().map(str::to_owned),
        connected_at,
        last_rejection: stream.last_rejection().cloned(),
    }
}
