//! One connection to one etcd member at a time, and calls that move on to the next member when it fails.
//!
//! Rejected: one client over all endpoints. Its balancer keeps handing calls to dead members (with two of three dead
//! a third to half of them fail), and it cannot be told which member a stream runs on.

mod error;
mod tls_channel;
pub mod txn;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, Error, EventType, GetOptions, GetResponse, KeyValue, ResponseHeader, SortOrder,
    SortTarget, WatchOptions, WatchStream,
};
use tokio::time::timeout;
use tracing::debug;

pub use error::{CallError, classify};
use tls_channel::{Complaints, secured};

use crate::backoff::jittered;
use crate::config::Endpoint;
use crate::fleet::{Change, MAX_VALUE_BYTES, Put};
use crate::metrics::{Metrics, Op, OpResult};
use crate::pki::tls::Tls;

/// Longest wait for one answer. An etcd election takes about a second; a call caught in one is repeated.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between HTTP/2 pings. Our etcd allows one a second (`--grpc-keepalive-min-time=1s`).
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(2);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause between laps over all endpoints, growing to the second value.
const LAP_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));
/// Keys a page of a list: bounds one answer's size whatever is stored under the prefix.
const PAGE_KEYS: i64 = 100;
/// Largest page accepted: 100 of muster's own values are 40 KB, ten of the longest that etcd takes by default 15 MB. A
/// larger page is asked for again with fewer keys, so that long values cost time and not memory.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// Largest answer accepted where it cannot be made smaller: one value of an etcd that takes longer ones than by default.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A handle on the registry; clones share the current connection.
#[derive(Clone)]
pub struct Etcd {
    endpoints: Arc<[Endpoint]>,
    current: Arc<Mutex<Current>>,
    /// `None`: in the clear.
    tls: Option<Tls>,
    complaints: Complaints,
    metrics: Metrics,
}

struct Current {
    /// Counts connections, so that a late failure of an old one does not end its successor.
    lap: usize,
    client: Option<Client>,
}

/// What a read of a range found.
#[derive(Debug)]
pub struct Listing {
    /// Revision of the whole store at which the range was read.
    pub revision: i64,
    pub entries: Vec<Change>,
}

impl Etcd {
    /// `start` spreads the agents over the members.
    pub fn new(endpoints: &[Endpoint], start: usize, tls: Option<Tls>, metrics: Metrics) -> Self {
        let current = Current { lap: start % endpoints.len(), client: None };
        let (endpoints, current) = (endpoints.into(), Arc::new(Mutex::new(current)));
        Self { endpoints, current, tls, complaints: Complaints::default(), metrics }
    }

    /// A handle on the same members with a connection of its own. A client belongs to the runtime it was made on: a
    /// clone used from another thread still does its I/O there.
    pub fn separate(&self) -> Self {
        Self::new(&self.endpoints, self.lap(), self.tls.clone(), self.metrics.clone())
    }

    /// A handle on each member alone, by its endpoint.
    pub fn each(&self) -> Vec<(String, Self)> {
        let alone = |endpoint: &Endpoint| {
            Self::new(std::slice::from_ref(endpoint), 0, self.tls.clone(), self.metrics.clone())
        };
        self.endpoints.iter().map(|endpoint| (endpoint.to_string(), alone(endpoint))).collect()
    }

    /// The member calls go to now.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.lap() % self.endpoints.len()]
    }

    /// Leaves the current member for the next one; streams do this when theirs breaks.
    pub fn move_on(&self) {
        let lap = self.lap();
        self.leave(lap);
    }

    /// The current connection, for a stream. It connects lazily, and says nothing about the member's health.
    ///
    /// # Errors
    /// The endpoint's address cannot be turned into a channel.
    pub async fn client(&self) -> Result<Client, CallError> {
        self.connection().await.map(|(client, _)| client)
    }

    /// Makes one call, moving on to the next member and repeating it until one answers, at most `laps` times around.
    /// The call must be safe to repeat.
    ///
    /// # Errors
    /// [`CallError::Refused`] at once; [`CallError::Unavailable`] after the last lap.
    pub async fn call<T, F>(&self, op: Op, laps: usize, call: impl Fn(Client) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pause = LAP_PAUSE.0;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.attempt(op, &call).await {
                Err(CallError::Unavailable(error)) => error,
                settled => return settled,
            };
            if attempt >= laps * self.endpoints.len() {
                return Err(CallError::Unavailable(error));
            }
            if attempt % self.endpoints.len() == 0 {
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(LAP_PAUSE.1);
            }
        }
    }

    /// Reads `[start, end)` page by page at one revision: `at`, or the newest when it is 0.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn list(&self, start: &[u8], end: &[u8], at: i64) -> Result<Listing, CallError> {
        let mut entries: Vec<Change> = Vec::new();
        let mut from = start.to_vec();
        let (mut revision, mut read_at, mut limit) = (0, at, PAGE_KEYS);
        loop {
            let options = GetOptions::new().with_range(end).with_limit(limit).with_revision(read_at);
            let most = if limit > 1 { MAX_PAGE_BYTES } else { MAX_ANSWER_BYTES };
            let page =
                self.call(Op::Range, 2, |client| get(client, from.clone(), options.clone(), most)).await;
            let page = match page {
                Err(error) if error.is_oversized() && limit > 1 => {
                    limit = (limit / 10).max(1);
                    continue;
                }
                page => page?,
            };
            let header = revision_of(page.header());
            if read_at == 0 {
                read_at = header;
            }
            revision = if at == 0 { read_at } else { header.max(revision) };
            entries.extend(page.kvs().iter().map(change));
            match page.kvs().last() {
                Some(last) if page.more() => from = txn::after(last.key()),
                _ => return Ok(Listing { revision, entries }),
            }
        }
    }

    /// How many keys `[start, end)` has.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn count(&self, start: &[u8], end: &[u8]) -> Result<usize, CallError> {
        let options = GetOptions::new().with_range(end).with_count_only();
        Ok(usize::try_from(self.range(start, options).await?.count()).unwrap_or(0))
    }

    /// The first keys of `[start, end)`, at most so many.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn first_keys(&self, start: &[u8], end: &[u8], most: usize) -> Result<Vec<Vec<u8>>, CallError> {
        let sorted = GetOptions::new().with_sort(SortTarget::Key, SortOrder::Ascend);
        let options = sorted.with_range(end).with_keys_only().with_limit(limit(most));
        Ok(self.range(start, options).await?.kvs().iter().map(|kv| kv.key().to_vec()).collect())
    }

    /// The values of the last keys of `[start, end)`, at most so many, the last key first; and the revision of the store.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn last_values(
        &self,
        start: &[u8],
        end: &[u8],
        most: usize,
    ) -> Result<(Vec<Vec<u8>>, i64), CallError> {
        let sorted = GetOptions::new().with_sort(SortTarget::Key, SortOrder::Descend);
        let answer = self.range(start, sorted.with_range(end).with_limit(limit(most))).await?;
        let values = answer.kvs().iter().map(|kv| kv.value().to_vec()).collect();
        Ok((values, revision_of(answer.header())))
    }

    /// Watches `[start, end)` from a revision on. Never with fragments: all changes of one revision come in one answer.
    ///
    /// # Errors
    /// No member opens it in time.
    pub async fn watch(&self, start: Vec<u8>, end: Vec<u8>, from: i64) -> Result<WatchStream, CallError> {
        let options = WatchOptions::new().with_range(end).with_start_revision(from);
        let opened =
            async { self.client().await?.watch_client().watch(start, Some(options)).await.map_err(classify) };
        match timeout(CALL_TIMEOUT, opened).await {
            Ok(stream) => stream,
            Err(_) => Err(CallError::Unavailable(format!("no watch within {CALL_TIMEOUT:?}"))),
        }
    }

    async fn range(&self, start: &[u8], options: GetOptions) -> Result<GetResponse, CallError> {
        self.call(Op::Range, 2, |client| get(client, start.to_vec(), options.clone(), MAX_PAGE_BYTES)).await
    }

    /// Notes one request that was made outside of [`Etcd::call`] or in it.
    pub fn note(&self, op: Op, result: OpResult, started: std::time::Instant) {
        self.metrics.registry_requests.get_or_create(&(op, result)).inc();
        self.metrics.registry_request_duration.get_or_create(&op).observe(started.elapsed().as_secs_f64());
    }

    async fn attempt<T, F>(&self, op: Op, call: &impl Fn(Client) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let lap = self.lap();
        let (client, lap) = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                self.leave(lap);
                return Err(error);
            }
        };
        let started = std::time::Instant::now();
        let outcome = match timeout(CALL_TIMEOUT, call(client)).await {
            Ok(Ok(answer)) => {
                self.complaints.are_over();
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.complaints.tell(&self.endpoints[lap % self.endpoints.len()], &error);
                Err(classify(error))
            }
            Err(_) => Err(CallError::Unavailable(format!("no answer within {CALL_TIMEOUT:?}"))),
        };
        let result = match &outcome {
            Ok(_) => OpResult::Ok,
            Err(CallError::Unavailable(_)) => OpResult::Unknown,
            Err(CallError::Refused { .. }) => OpResult::Failed,
        };
        self.note(op, result, started);
        if let Err(CallError::Unavailable(error)) = &outcome {
            debug!(
                name: "registry-call-failed",
                op = op.as_str(),
                endpoint = %self.endpoints[lap % self.endpoints.len()],
                error,
                "registry call failed"
            );
            self.leave(lap);
        }
        outcome
    }

    async fn connection(&self) -> Result<(Client, usize), CallError> {
        let (client, lap) = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            (current.client.clone(), current.lap)
        };
        if let Some(client) = client {
            return Ok((client, lap));
        }
        let endpoint = &self.endpoints[lap % self.endpoints.len()];
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        let client = match &self.tls {
            None => Client::connect([endpoint.to_string()], Some(options)).await,
            Some(tls) => {
                Client::from_channel(
                    secured(endpoint, tls).map_err(|error| CallError::Unavailable(error.to_string()))?,
                    Some(options),
                )
                .await
            }
        };
        let client = client.map_err(classify)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.lap == lap {
            current.client = Some(client.clone());
        }
        Ok((client, lap))
    }

    fn lap(&self) -> usize {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).lap
    }

    fn leave(&self, lap: usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.lap == lap {
            *current = Current { lap: lap + 1, client: None };
        }
    }
}

async fn get(client: Client, key: Vec<u8>, options: GetOptions, most: usize) -> Result<GetResponse, Error> {
    client.kv_client().max_decoding_message_size(most).get(key, Some(options)).await
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// The store's revision, as an answer tells it.
pub fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

/// A key as it stands, as the change that made it so. Of a value that is too long only that much is kept.
fn change(kv: &KeyValue) -> Change {
    let value = kv.value();
    let value = value[..value.len().min(MAX_VALUE_BYTES + 1)].to_vec();
    let put = Put { value, create_revision: kv.create_revision(), lease: kv.lease() };
    Change { key: kv.key().to_vec(), revision: kv.mod_revision(), put: Some(put) }
}

/// A watch's event as a change; `None` when it names no key.
pub fn change_of(event: &etcd_client::Event) -> Option<Change> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => change(kv),
        EventType::Delete => Change { key: kv.key().to_vec(), revision: kv.mod_revision(), put: None },
    })
}
