//! An ADS client that does only what it is told.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc;
use muster::envoy::ResourceType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::leader::PATIENCE;

pub type Ads = AggregatedDiscoveryServiceClient<Channel>;

pub async fn connect(address: SocketAddr) -> Ads {
    Ads::new(endpoint(address).connect().await.unwrap())
}

pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap()
}

/// One open stream.
pub struct Client {
    requests: Option<mpsc::Sender<DiscoveryRequest>>,
    responses: Streaming<DiscoveryResponse>,
}

impl Client {
    /// Opens a stream on a connection of its own.
    pub async fn open(address: SocketAddr) -> Result<Self, Status> {
        Self::open_on(connect(address).await).await
    }

    pub async fn open_on(mut ads: Ads) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let responses = ads.stream_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests: Some(requests), responses })
    }

    pub async fn send(&self, request: DiscoveryRequest) {
        // A stream that has ended takes nothing more; the tests look at how it ended.
        let _ = self.requests.as_ref().expect("not half closed").send(request).await;
    }

    pub async fn ask(&self, kind: ResourceType, names: &[&str]) {
        self.send(request(kind, names, "")).await;
    }

    pub async fn ack(&self, names: &[&str], push: &DiscoveryResponse) {
        let kind = ResourceType::from_type_url(&push.type_url).unwrap();
        let version_info = push.version_info.clone();
        self.send(DiscoveryRequest { version_info, ..request(kind, names, &push.nonce) }).await;
    }

    pub async fn nack(&self, names: &[&str], push: &DiscoveryResponse) {
        let kind = ResourceType::from_type_url(&push.type_url).unwrap();
        let error = rpc::Status { message: "it is wrong".to_owned(), ..Default::default() };
        self.send(DiscoveryRequest { error_detail: Some(error), ..request(kind, names, &push.nonce) }).await;
    }

    /// The next push, which must be of this kind.
    pub async fn pushed(&mut self, kind: ResourceType) -> DiscoveryResponse {
        let push = self.next().await.expect("no error").expect("not the end");
        assert_eq!(push.type_url, kind.type_url());
        push
    }

    /// Asks for a kind and accepts the answer.
    pub async fn take(&mut self, kind: ResourceType, names: &[&str]) -> DiscoveryResponse {
        self.ask(kind, names).await;
        let push = self.pushed(kind).await;
        self.ack(names, &push).await;
        push
    }

    /// How the stream ends: `None` for a proper end.
    pub async fn end(&mut self) -> Option<Code> {
        match self.next().await {
            Ok(None) => None,
            Ok(Some(push)) => panic!("a push instead of the end: {} {}", push.type_url, push.version_info),
            Err(status) => Some(status.code()),
        }
    }

    /// How the stream ends after whatever was on its way.
    pub async fn last(&mut self) -> Option<Code> {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    }

    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// Proves that nothing was sent so far: requests are answered in order, so what comes first is the answer to a
    /// request for a kind not asked for yet.
    pub async fn nothing_before(&mut self, kind: ResourceType, names: &[&str]) {
        self.take(kind, names).await;
    }

    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        within(self.responses.message()).await
    }
}

pub fn request(kind: ResourceType, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node("envoy-1")),
        type_url: kind.type_url().to_owned(),
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    }
}

pub fn node(id: &str) -> Node {
    Node { id: id.to_owned(), ..Default::default() }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("an answer from the server")
}
