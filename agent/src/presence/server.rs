//! The leader's end of presence: which instances have a stream open, and how each stream ends.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::proto::presence_server::{Presence, PresenceServer};
use super::proto::{Answer, Attendance, Question, Roll};
use super::transport::Peer;
use crate::fleet::verdict::Ending;
use crate::fleet::{Leadership, is_instance};

/// Longest wait for the first word.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(5);
/// A message has 20 bytes.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Streams of one instance that count: a reconnection may overlap with what it replaces.
const MAX_STREAMS: u32 = 8;

/// A stream of an instance that ended without a goodbye, and no other of it is open.
#[derive(Clone, Debug)]
pub struct NodeStreamEnded {
    pub instance: String,
    pub ending: Ending,
    pub at: Instant,
}

/// Streams open now, by instance; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Attending(Arc<Mutex<BTreeMap<String, u32>>>);

impl Attending {
    pub fn has(&self, instance: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(instance)
    }

    fn open(&self, instance: &str) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = open.entry(instance.to_owned()).or_default();
        *streams += 1;
        *streams <= MAX_STREAMS
    }

    fn close(&self, instance: &str) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(streams) = open.get_mut(instance) {
            *streams -= 1;
            if *streams == 0 {
                open.remove(instance);
            }
        }
    }
}

/// The service. A follower refuses attendance, and answers that it is here.
#[derive(Clone)]
pub struct PresenceService {
    pub instance: String,
    pub leadership: watch::Receiver<Option<Leadership>>,
    pub attending: Attending,
    pub ended: mpsc::Sender<NodeStreamEnded>,
}

impl PresenceService {
    pub fn into_server(self) -> PresenceServer<Self> {
        PresenceServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Reads until the stream ends, and tells how. Runs inside the response stream: nothing is detached, and a
    /// connection that is dropped drops it.
    async fn attend(
        self,
        instance: String,
        mut words: Streaming<Attendance>,
        closed: super::transport::Closed,
    ) {
        if !self.attending.open(&instance) {
            self.attending.close(&instance);
            return;
        }
        let mut place = StreamGuard { service: self, instance, closed, goodbye: false };
        while let Some(Ok(word)) = words.next().await {
            place.goodbye |= word.goodbye;
        }
    }
}

/// One open stream. However it ends, also by being dropped with its connection, it is told.
struct StreamGuard {
    service: PresenceService,
    instance: String,
    closed: super::transport::Closed,
    goodbye: bool,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let service = &self.service;
        service.attending.close(&self.instance);
        if self.goodbye || service.leadership.borrow().is_none() || service.attending.has(&self.instance) {
            return;
        }
        let ending = if self.closed.by_peer() { Ending::Closed } else { Ending::Silent };
        let ended = NodeStreamEnded { instance: self.instance.clone(), ending, at: Instant::now() };
        if service.ended.try_send(ended).is_err() {
            // So many at once that the lease has to sort them out.
            debug!(
                name: "end-of-a-presence-stream-not-looked-into",
                instance = self.instance,
                "end of a presence stream not looked into"
            );
        }
    }
}

#[tonic::async_trait]
impl Presence for PresenceService {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<Roll, Status>> + Send>>;

    async fn attend(
        &self,
        request: Request<Streaming<Attendance>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        if self.leadership.borrow().is_none() {
            return Err(Status::unavailable("another node leads"));
        }
        let peer = request.extensions().get::<Peer>().cloned();
        let closed = peer.map(|peer| peer.closed).unwrap_or_default();
        let mut words = request.into_inner();
        let first = timeout(FIRST_WORD_WITHIN, words.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no word"))??;
        let instance = first.map(|word| word.instance).filter(|instance| is_instance(instance));
        let instance =
            instance.ok_or_else(|| Status::invalid_argument("the first word names no instance"))?;
        let attendance = self.clone().attend_until_end(instance, words, closed);
        Ok(Response::new(Box::pin(attendance)))
    }

    async fn here(&self, _: Request<Question>) -> Result<Response<Answer>, Status> {
        Ok(Response::new(Answer { instance: self.instance.clone() }))
    }
}

impl PresenceService {
    /// Says once that it has been heard, then reads. Ends with an error when this node does not lead any more.
    fn attend_until_end(
        self,
        instance: String,
        words: Streaming<Attendance>,
        closed: super::transport::Closed,
    ) -> impl Stream<Item = Result<Roll, Status>> + Send {
        let leading = WatchStream::new(self.leadership.clone());
        let demoted = leading.filter(|leading| std::future::ready(leading.is_none())).map(|_| ());
        let read = futures::stream::once(self.attend(instance, words, closed)).map(|()| ());
        let until = futures::stream::select(demoted, read).take(1).map(|()| Err(Status::unavailable("over")));
        futures::stream::once(std::future::ready(Ok(Roll {}))).chain(until)
    }
}
