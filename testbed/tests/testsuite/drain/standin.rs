//! In the place of Envoy: an ADS client that acknowledges endpoints only when it is told to.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, bail};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const PATIENCE: Duration = Duration::from_secs(5);

/// One open stream. While it lives it answers the leader's pings: connected, and silent only in what it acknowledges.
pub struct StandIn {
    id: String,
    requests: mpsc::Sender<DiscoveryRequest>,
    pushes: Streaming<DiscoveryResponse>,
}

/// Endpoints it was told and has not acknowledged.
pub struct Push {
    pub ips: Vec<Ipv4Addr>,
    answer: DiscoveryRequest,
}

impl StandIn {
    /// Connects and takes the clusters, as Envoy does first; endpoints are not subscribed to.
    pub async fn connect(leader: SocketAddrV4, id: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{leader}"))?.connect().await?;
        let (requests, outgoing) = mpsc::channel(16);
        let mut ads = AggregatedDiscoveryServiceClient::new(channel);
        let opened = ads.stream_aggregated_resources(ReceiverStream::new(outgoing));
        let first = DiscoveryRequest { type_url: CLUSTERS.into(), ..Default::default() };
        let mut own =
            Self { id: id.into(), requests, pushes: timeout(PATIENCE, opened).await??.into_inner() };
        own.send(first).await?;
        let clusters = own.next(CLUSTERS).await?;
        own.send(answer(&clusters, &[])).await?;
        Ok(own)
    }

    /// The same, with the endpoints taken and acknowledged: an Envoy as it should be.
    pub async fn settled(leader: SocketAddrV4, id: &str) -> anyhow::Result<Self> {
        let mut own = Self::connect(leader, id).await?;
        let first = own.subscribe().await?;
        own.acknowledge(first).await?;
        Ok(own)
    }

    /// Asks for the endpoints; what comes is not acknowledged.
    pub async fn subscribe(&mut self) -> anyhow::Result<Push> {
        let resource_names = vec!["nginx".into()];
        self.send(DiscoveryRequest { type_url: ENDPOINTS.into(), resource_names, ..Default::default() })
            .await?;
        self.told().await
    }

    /// The next endpoints, not acknowledged.
    pub async fn told(&mut self) -> anyhow::Result<Push> {
        let push = self.next(ENDPOINTS).await?;
        Ok(Push { ips: addresses(&push)?, answer: answer(&push, &["nginx".into()]) })
    }

    pub async fn acknowledge(&self, push: Push) -> anyhow::Result<()> {
        self.send(push.answer).await
    }

    /// Whether nothing is on its way here for so long.
    pub async fn hears_nothing_for(&mut self, span: Duration) -> bool {
        timeout(span, self.pushes.message()).await.is_err()
    }

    async fn send(&self, request: DiscoveryRequest) -> anyhow::Result<()> {
        let node = Some(Node { id: self.id.clone(), ..Default::default() });
        self.requests.send(DiscoveryRequest { node, ..request }).await.context("the stream has ended")
    }

    async fn next(&mut self, kind: &str) -> anyhow::Result<DiscoveryResponse> {
        let push = timeout(PATIENCE, self.pushes.message()).await.context("nothing was pushed")??;
        let push = push.context("the leader ended the stream")?;
        if push.type_url != kind {
            bail!("a push of {} in place of {kind}", push.type_url);
        }
        Ok(push)
    }
}

fn answer(push: &DiscoveryResponse, names: &[String]) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: push.version_info.clone(),
        response_nonce: push.nonce.clone(),
        type_url: push.type_url.clone(),
        resource_names: names.to_vec(),
        ..Default::default()
    }
}

/// Every address in a push of endpoints, sorted.
fn addresses(push: &DiscoveryResponse) -> anyhow::Result<Vec<Ipv4Addr>> {
    let mut ips = Vec::new();
    for resource in &push.resources {
        let assignment = ClusterLoadAssignment::decode(resource.value.as_slice())?;
        let endpoints = assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints);
        for endpoint in endpoints {
            let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else { continue };
            use envoy_types::pb::envoy::config::core::v3::address::Address::SocketAddress;
            if let Some(SocketAddress(socket)) = endpoint.address.and_then(|address| address.address) {
                ips.push(socket.address.parse()?);
            }
        }
    }
    ips.sort_unstable();
    Ok(ips)
}
