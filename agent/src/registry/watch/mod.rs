//! The only source of the roster: lists the watched range, watches it from there, and on any doubt asks again.
//!
//! What is doubted: a stream that breaks or falls silent, a compacted history, a history that is not the one known
//! (etcd wiped or restored), an event that never came. Nothing is ever removed for lack of an answer.

mod hold;
mod own_address;
mod resync;
mod staleness;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchStream};
use tokio::sync::watch::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use hold::Hold;
pub use staleness::watch_contact;

use super::client::{CALL_TIMEOUT, Etcd, change_of, classify, revision_of};
use crate::backoff::jittered;
use crate::clock::{BootTime, SharedTime};
use crate::config::{Advertise, Allow};
use crate::fleet::{Change, KeySpace, NodeState, Rejection, RejectionReason, Roster};
use crate::metrics::{Metrics, Op, OpResult, Refused, WatchRestart};

/// Progress is asked for this many times within a lease's time to live, but not more often than the first and not less
/// often than the second; two requests without an answer mean that the stream is dead.
const PROGRESS_PER_TTL: u32 = 8;
const PROGRESS_INTERVAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
const PROGRESS_MISSES: u32 = 2;
/// Between full comparisons with the registry: etcd has had bugs that lose a delete near a compaction.
const RESYNC_INTERVAL: Duration = Duration::from_secs(45);
/// How often an own address in doubt is looked up again under a living watch, and how long that may hold it up.
const DOUBT_INTERVAL: Duration = Duration::from_secs(2);
const DOUBT_BOUND: Duration = Duration::from_millis(250);
/// Pause before a broken watch is opened again.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Nodes that vanish within this time vanish at once: etcd ends leases one by one.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long a list is held back when events took most of its nodes without a word.
const VANISHED_HOLD: Duration = Duration::from_secs(2);
/// Largest watch response taken: several of the largest transactions etcd takes by default (1.5 MB). A longer one is
/// replaced by a list in pages, so that a flood of long values costs time and not memory.
const MAX_RESPONSE_BYTES: usize = 8 << 20;

/// What the watch is told.
pub struct Settings {
    pub space: KeySpace,
    pub advertise: Option<Advertise>,
    pub allow: Vec<Allow>,
    pub ttl: Duration,
    /// How long a list that another history cut down is held back for the nodes to register again.
    pub hold: Duration,
}

/// What the watch tells.
pub struct Outlets {
    /// What the registry says now. Its epoch is 0 until the first complete list.
    pub newest: Sender<Arc<Roster>>,
    /// The roster that files and Envoy are made of: the newest, unless that is held back.
    pub roster: Sender<Arc<Roster>>,
    /// This node's own address, looked up anew whenever the connection is.
    pub address: Sender<Option<Ipv4Addr>>,
    /// When the registry was last heard.
    pub heard: SharedTime,
    /// Counts the histories met; it moves before `roster` does, so that a node can register again at once.
    pub epoch: Sender<u64>,
}

/// Follows the registry until the process ends.
pub struct Watch {
    etcd: Etcd,
    settings: Settings,
    outlets: Outlets,
    metrics: Metrics,
    /// The newest roster, published or held back.
    roster: Roster,
    /// Revision up to which `roster` is known to be complete: of a list, an event or a progress notification.
    seen: i64,
    hold: Hold,
    /// Instances that served and are gone without a word, and since when.
    vanished: BTreeMap<String, Instant>,
    /// Revision of each rejected key that was told, so that each is logged once.
    rejected: BTreeMap<Vec<u8>, i64>,
    /// The last complaint about the own address, so that it is logged once.
    complaint: Option<String>,
    /// The id of a registry's life that went back in time, until it is replaced.
    stale_life: Option<String>,
    /// An answer larger than [`MAX_RESPONSE_BYTES`] came: watching on from there would bring it again.
    oversized: bool,
}

impl Watch {
    pub fn new(etcd: Etcd, settings: Settings, outlets: Outlets, metrics: Metrics) -> Self {
        Self {
            etcd,
            settings,
            outlets,
            metrics,
            roster: Roster::default(),
            seen: 0,
            hold: Hold::default(),
            vanished: BTreeMap::new(),
            rejected: BTreeMap::new(),
            complaint: None,
            stale_life: None,
            oversized: false,
        }
    }

    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        let mut pause = REOPEN_PAUSE.0;
        let mut troubled = false;
        loop {
            let opened = Instant::now();
            let trouble = match self.open().await {
                Ok(stream) => {
                    let (endpoint, revision) = (self.etcd.endpoint().to_string(), self.seen);
                    if std::mem::take(&mut troubled) {
                        info!(name: "registry-reached-again", endpoint, revision, "registry reached again");
                    } else {
                        debug!(name: "watch-open", endpoint, revision, "watch open");
                    }
                    self.hold.restart();
                    self.follow(stream).await
                }
                Err(trouble) => trouble,
            };
            if !trouble.is_counted_by_the_list() {
                self.metrics.watch_restarts.get_or_create(&trouble.reason).inc();
            }
            if !std::mem::replace(&mut troubled, true) {
                let (reason, why, endpoint) = (trouble.reason.as_str(), trouble.why, self.etcd.endpoint());
                match self.roster.epoch {
                    0 => warn!(
                        name: "registry-not-reached-yet",
                        reason,
                        why,
                        %endpoint,
                        "registry not reached yet"
                    ),
                    _ => warn!(name: "watch-lost", reason, why, %endpoint, "watch lost"),
                }
            }
            self.etcd.move_on();
            pause = if opened.elapsed() > REOPEN_PAUSE.1 {
                REOPEN_PAUSE.0
            } else {
                (pause * 2).min(REOPEN_PAUSE.1)
            };
            sleep(jittered(pause)).await;
        }
    }

    /// Brings the roster up to date and opens a stream at exactly that revision.
    async fn open(&mut self) -> Result<WatchStream, WatchEnd> {
        self.find_address(CALL_TIMEOUT).await?;
        if self.roster.epoch == 0 {
            self.relist(None).await?;
        } else if std::mem::take(&mut self.oversized) {
            self.relist(Some(WatchRestart::Oversized)).await?;
        } else {
            self.compare().await?;
        }
        let (start, end) = self.settings.space.range();
        // From the revision seen, not the one after it: etcd does not answer progress requests on a watch whose
        // start lies in the future. The events at that revision come a second time and are dropped. Never with
        // fragments: a roster takes whole revisions only.
        let options = WatchOptions::new().with_range(end).with_start_revision(self.seen.max(1));
        let unreachable = |why: String| WatchEnd::new(WatchRestart::Unreachable, why);
        let client = self.etcd.client().await.map_err(|error| unreachable(error.to_string()))?;
        let mut watch_client = client.watch_client().max_decoding_message_size(MAX_RESPONSE_BYTES);
        let started = std::time::Instant::now();
        let outcome = timeout(CALL_TIMEOUT, watch_client.watch(start, Some(options))).await;
        let result = match &outcome {
            Ok(Ok(_)) => OpResult::Ok,
            Ok(Err(_)) => OpResult::Failed,
            Err(_) => OpResult::Unknown,
        };
        self.etcd.note(Op::Watch, result, started);
        match outcome {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(unreachable(classify(error).to_string())),
            Err(_) => Err(unreachable(format!("no watch within {CALL_TIMEOUT:?}"))),
        }
    }

    async fn follow(&mut self, mut stream: WatchStream) -> WatchEnd {
        let broken = |why: &str| WatchEnd::new(WatchRestart::Broken, why);
        let every = (self.settings.ttl / PROGRESS_PER_TTL).clamp(PROGRESS_INTERVAL.0, PROGRESS_INTERVAL.1);
        let mut progress = interval(every);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        progress.tick().await;
        let mut resync = interval(RESYNC_INTERVAL.mul_f64(0.8 + fastrand::f64() / 5.0));
        resync.tick().await;
        let mut doubt = interval(DOUBT_INTERVAL);
        let mut unanswered = 0;
        loop {
            let response = tokio::select! {
                // What has come is read before it is judged late.
                biased;
                response = stream.message() => response,
                _ = progress.tick() => {
                    if unanswered >= PROGRESS_MISSES {
                        return WatchEnd::new(WatchRestart::Silent, "no answer to progress requests");
                    }
                    unanswered += 1;
                    if stream.request_progress().await.is_err() {
                        return broken("the stream takes no requests");
                    }
                    continue;
                }
                _ = resync.tick() => match self.resync().await {
                    Ok(()) => {
                        self.replace_life().await;
                        continue;
                    }
                    Err(trouble) => return trouble,
                },
                // The name server may have come back later than the connection, which then has another local end.
                _ = doubt.tick(), if self.complaint.is_some() => match self.find_address(DOUBT_BOUND).await {
                    Ok(()) => continue,
                    Err(trouble) => return trouble,
                },
                () = self.hold.time() => {
                    self.publish();
                    continue;
                }
            };
            let response = match response {
                Ok(Some(response)) => response,
                Ok(None) => return broken("the stream has ended"),
                Err(error) => {
                    let error = classify(error);
                    self.oversized = error.is_oversized();
                    let reason = if self.oversized { WatchRestart::Oversized } else { WatchRestart::Broken };
                    return WatchEnd::new(reason, error);
                }
            };
            if response.compact_revision() > 0 {
                return WatchEnd::new(WatchRestart::Compacted, "history compacted");
            }
            if response.canceled() {
                return broken(response.cancel_reason());
            }
            unanswered = 0;
            self.outlets.heard.set(BootTime::now());
            // Only an answer to a progress request promises that everything up to its revision has been delivered.
            // The one that says `created` carries the store's revision too, and events before it are still to come.
            if response.events().is_empty() && !response.created() {
                self.seen = self.seen.max(revision_of(response.header()));
            }
            self.take(response.events());
        }
    }

    fn take(&mut self, events: &[etcd_client::Event]) {
        let changes: Vec<Change> = events.iter().filter_map(change_of).collect();
        let (next, rejections) = self.roster.apply(&self.settings.space, &changes);
        if next.applied == self.roster.applied {
            return;
        }
        self.note_vanished(&next);
        self.roster = next;
        self.seen = self.seen.max(self.roster.applied);
        self.report(rejections);
        self.publish();
    }

    fn note_vanished(&mut self, next: &Roster) {
        let lives = |instance: &str| next.nodes().any(|node| node.instance == instance);
        let served = self.roster.nodes().filter(|node| node.state == NodeState::Serving);
        for node in served.filter(|node| !lives(&node.instance)) {
            self.vanished.insert(node.instance.clone(), Instant::now());
        }
        self.vanished.retain(|instance, since| since.elapsed() < AT_ONCE && !lives(instance));
    }

    fn publish(&mut self) {
        let newest = Arc::new(self.roster.clone());
        self.outlets.newest.send_if_modified(|known| {
            let changed = *known != newest;
            *known = newest.clone();
            changed
        });
        let published = self.outlets.roster.borrow().clone();
        let have = self.roster.rows().len();
        let gone = self.vanished.len();
        // Nodes that leave say so first; more than half, and more than one, do not vanish by themselves.
        if self.hold.is_over() && gone > 1 && gone > have {
            let hold_ms = VANISHED_HOLD.as_millis() as u64;
            warn!(
                name: "most-nodes-vanished-at-once",
                gone,
                have,
                hold_ms,
                "most nodes vanished at once: list held back"
            );
            self.hold.start(have + gone, VANISHED_HOLD);
            self.vanished.clear();
        }
        if self.hold.lets_through(self.roster.rows().len()) && *published != self.roster {
            self.outlets.roster.send_replace(newest);
        }
    }

    /// Counts and tells each entry that is skipped once, and forgets it when it is gone.
    pub(super) fn report(&mut self, rejections: Vec<Rejection>) {
        for rejection in rejections {
            let (key, revision, reason) = (rejection.shown(), rejection.revision, &rejection.reason);
            if self.rejected.get(&rejection.key) != Some(&revision) {
                self.metrics.registry_refused.get_or_create(&label(reason)).inc();
                warn!(name: "entry-skipped", key, revision, %reason, "entry skipped");
                self.rejected.insert(rejection.key, revision);
            }
        }
        let roster = &self.roster;
        self.rejected.retain(|key, _| roster.contains(key));
    }
}

/// Why a watch is opened again, for the metric and for people.
#[derive(Debug)]
struct WatchEnd {
    pub(super) reason: WatchRestart,
    pub(super) why: String,
}

impl WatchEnd {
    pub(super) fn new(reason: WatchRestart, why: impl ToString) -> Self {
        Self { reason, why: why.to_string() }
    }

    /// What is answered by a list afresh is counted there, once.
    pub(super) fn is_counted_by_the_list(&self) -> bool {
        matches!(self.reason, WatchRestart::Compacted | WatchRestart::LostEvent | WatchRestart::Oversized)
    }
}

fn label(reason: &RejectionReason) -> Refused {
    match reason {
        RejectionReason::NoLease => Refused::NoLease,
        RejectionReason::Misnamed => Refused::Misnamed,
        RejectionReason::TooLong => Refused::TooLong,
        RejectionReason::Unreadable(_) => Refused::Unreadable,
        RejectionReason::NotAllowed(_) => Refused::NotAllowed,
    }
}
