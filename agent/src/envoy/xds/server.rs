//! [`XdsServer`]: the gRPC edge. Each stream is pulled by its client's own pace: a push is made when the connection
//! can take it, so a slow reader holds back its own stream and no memory.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::stream::{self, Stream as Pushes};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::events::{AckKind, XdsEvents};
use super::stream::{Reception, Refusal, Stream};
use super::streams::{Registered, Streams};
use super::{Published, ResourceType};

/// An Envoy's first request with all its extensions has about 20 KB.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// Streams of all Envoys together: each holds back a drain, so their number is bounded.
const MAX_STREAMS: usize = 256;
/// A stream without a node id counts for the drain all the same: not for long.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(5);

type Item<T> = Pin<Box<dyn Pushes<Item = Result<T, Status>> + Send>>;

/// Serves the latest [`Published`]; refuses, and ends its streams, while there is none.
#[derive(Clone)]
pub struct XdsServer {
    snapshots: watch::Receiver<Option<Arc<Published>>>,
    holds: Arc<dyn Fn() -> bool + Send + Sync>,
    events: Arc<dyn XdsEvents>,
    streams: Streams,
    admitted: Option<watch::Receiver<Admitted>>,
    first_request_within: Duration,
}

/// Numbers of the streams whose Envoy is on record.
pub type Admitted = Arc<BTreeSet<u64>>;

impl XdsServer {
    /// `snapshots` holds `None` while another agent leads. `holds` is asked before every push: whether the right to
    /// lead still stands by this agent's own clock.
    pub fn new(
        snapshots: watch::Receiver<Option<Arc<Published>>>,
        holds: Arc<dyn Fn() -> bool + Send + Sync>,
        events: Arc<dyn XdsEvents>,
    ) -> Self {
        let first_request_within = FIRST_REQUEST_WITHIN;
        Self { snapshots, holds, events, streams: Streams::default(), admitted: None, first_request_within }
    }

    /// Pushes nothing on a stream before it is among these. A record that is written with the leader's fence proves at
    /// that moment that it leads, and tells its successor whom to expect: without it a deposed leader could hand an
    /// Envoy old endpoints, or one that nobody knows of could keep them (docs/protocol.md, 9).
    #[must_use]
    pub fn with_admission(self, admitted: watch::Receiver<Admitted>) -> Self {
        Self { admitted: Some(admitted), ..self }
    }

    /// How long a new stream may take to send its node id.
    #[must_use]
    pub fn with_first_request_within(self, first_request_within: Duration) -> Self {
        Self { first_request_within, ..self }
    }

    /// The open streams, for those that wait for their acknowledgements.
    pub fn streams(&self) -> Streams {
        self.streams.clone()
    }

    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    fn open(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Connection, Status> {
        let mut snapshots = self.snapshots.clone();
        let current =
            snapshots.borrow_and_update().clone().filter(|_| (self.holds)()).ok_or_else(not_leading)?;
        let stream = Stream::new(current);
        let place = self
            .streams
            .open(MAX_STREAMS, &stream)
            .ok_or_else(|| Status::resource_exhausted(format!("{MAX_STREAMS} streams are open")))?;
        let peer = request.remote_addr().map(|peer| peer.to_string()).unwrap_or_default();
        Ok(Connection {
            requests: request.into_inner(),
            snapshots,
            admitted: self.admitted.clone(),
            stream,
            sent_at: [None; 4],
            deadline: tokio::time::Instant::now() + self.first_request_within,
            close: Close { place, envoy: None, peer, cause: "cancelled" },
            server: self.clone(),
            warned: false,
        })
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for XdsServer {
    type StreamAggregatedResourcesStream = Item<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Item<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let connection = self.open(request).inspect_err(|_| self.events.on_refused())?;
        let pushes = stream::unfold(Some(connection), |connection| async {
            let mut connection = connection?;
            match connection.next().await {
                Ok(push) => Some((Ok(push), Some(connection))),
                Err(End { cause, status }) => {
                    connection.close.cause = cause;
                    status.map(|status| (Err(status), None))
                }
            }
        });
        Ok(Response::new(Box::pin(pushes)))
    }

    async fn delta_aggregated_resources(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state of the world only: set api_type GRPC, not DELTA_GRPC"))
    }
}

/// One stream with its two inputs.
struct Connection {
    requests: Streaming<DiscoveryRequest>,
    snapshots: watch::Receiver<Option<Arc<Published>>>,
    /// `None` once it was admitted.
    admitted: Option<watch::Receiver<Admitted>>,
    stream: Stream,
    sent_at: [Option<Instant>; 4],
    /// Of the first request.
    deadline: tokio::time::Instant,
    close: Close,
    server: XdsServer,
    /// One warning about unknown kinds a stream.
    warned: bool,
}

/// Why a stream ended, and with what; no status when the client left properly.
struct End {
    cause: &'static str,
    status: Option<Status>,
}

impl Connection {
    /// The next push, or the end.
    async fn next(&mut self) -> Result<DiscoveryResponse, End> {
        loop {
            self.follow_leadership()?;
            if self.is_admitted()
                && let Some((kind, push)) = self.stream.next_push()
            {
                self.close.place.update(&self.stream);
                self.sent_at[kind as usize] = Some(Instant::now());
                self.server.events.on_push(kind);
                return Ok(push);
            }
            self.close.place.update(&self.stream);
            let silent = self.stream.envoy().is_none();
            tokio::select! {
                // Demotion first: a flood of requests must not keep a stream of a former leader open.
                biased;
                changed = self.snapshots.changed() => changed.map_err(|_| End::demoted())?,
                () = another(&mut self.admitted) => {}
                request = self.requests.message() => self.take(request)?,
                () = tokio::time::sleep_until(self.deadline), if silent => return Err(End::silent()),
            }
        }
    }

    fn is_admitted(&mut self) -> bool {
        let number = self.close.place.id();
        let waits =
            self.admitted.as_mut().is_some_and(|admitted| !admitted.borrow_and_update().contains(&number));
        if !waits {
            self.admitted = None;
        }
        !waits
    }

    /// Takes over the latest snapshot, whether or not it has been seen: what is not new changes nothing.
    fn follow_leadership(&mut self) -> Result<(), End> {
        let orphaned = self.snapshots.has_changed().is_err();
        let latest = self.snapshots.borrow_and_update().clone();
        let latest = latest.filter(|_| !orphaned && (self.server.holds)()).ok_or_else(End::demoted)?;
        self.stream.publish(latest);
        Ok(())
    }

    fn take(&mut self, request: Result<Option<DiscoveryRequest>, Status>) -> Result<(), End> {
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return Err(End { cause: "closed by peer", status: None }),
            Err(status) => return Err(End { cause: "broken", status: Some(status) }),
        };
        let reception = self.stream.receive(request).map_err(|refusal| {
            self.server.events.on_refused();
            warn!(
                name: "xds-request-refused",
                stream = self.close.place.id(),
                peer = %self.close.peer,
                %refusal,
                "xds request refused"
            );
            End::refused(&refusal)
        })?;
        self.introduce();
        self.count(&reception);
        Ok(())
    }

    fn introduce(&mut self) {
        if self.close.envoy.is_none() {
            self.close.envoy = self.stream.envoy().map(str::to_owned);
            let (stream, peer) = (self.close.place.id(), &self.close.peer);
            info!(name: "xds-stream-opened", stream, envoy = self.stream.envoy(), %peer, "xds stream opened");
        }
    }

    fn count(&mut self, reception: &Reception) {
        let (stream, envoy) = (self.close.place.id(), self.stream.envoy());
        let (kind, verdict) = match reception {
            Reception::Subscribed(_) => return,
            Reception::Acked(kind) => (*kind, AckKind::Ack),
            Reception::Stale(kind) => (*kind, AckKind::Stale),
            Reception::Rejected(rejection) => {
                let (kind, version, detail) = (rejection.kind.label(), &rejection.version, &rejection.detail);
                warn!(
                    name: "envoy-rejected-a-configuration",
                    stream,
                    envoy,
                    kind,
                    %version,
                    %detail,
                    "envoy rejected a configuration"
                );
                (rejection.kind, AckKind::Nack)
            }
            Reception::Unknown(type_url) => {
                self.server.events.on_unknown_type();
                if !std::mem::replace(&mut self.warned, true) {
                    warn!(
                        name: "xds-request-for-an-unknown-kind-ignored",
                        stream,
                        envoy,
                        %type_url,
                        "xds request for an unknown kind ignored"
                    );
                }
                return;
            }
        };
        self.server.events.on_response(kind, verdict);
        if verdict != AckKind::Stale {
            self.time(kind);
        }
    }

    fn time(&mut self, kind: ResourceType) {
        if let Some(sent_at) = self.sent_at[kind as usize].take() {
            self.server.events.on_ack_duration(kind, sent_at.elapsed());
        }
    }
}

/// Waits for more streams to be admitted; for ever when there is nothing to wait for.
async fn another(admitted: &mut Option<watch::Receiver<Admitted>>) {
    if let Some(admitted) = admitted
        && admitted.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Logs on drop why an identified stream ended.
struct Close {
    place: Registered,
    envoy: Option<String>,
    peer: String,
    cause: &'static str,
}

impl Drop for Close {
    fn drop(&mut self) {
        if let Some(envoy) = &self.envoy {
            info!(
                name: "xds-stream-closed",
                stream = self.place.id(),
                %envoy,
                peer = %self.peer,
                cause = self.cause,
                "xds stream closed"
            );
        }
    }
}

impl End {
    fn demoted() -> Self {
        Self { cause: "not leading", status: Some(not_leading()) }
    }

    fn silent() -> Self {
        let status = Status::deadline_exceeded("no request came on this stream");
        Self { cause: "silent", status: Some(status) }
    }

    fn refused(refusal: &Refusal) -> Self {
        let status = match refusal {
            Refusal::TooManyNames(_) => Status::resource_exhausted(refusal.to_string()),
            Refusal::NoNode | Refusal::BadNode | Refusal::NoType => {
                Status::invalid_argument(refusal.to_string())
            }
        };
        Self { cause: "refused", status: Some(status) }
    }
}

/// Envoy asks the next agent at once.
fn not_leading() -> Status {
    Status::unavailable("another agent leads")
}
