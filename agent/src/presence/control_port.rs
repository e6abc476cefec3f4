//! The control port: one gRPC listener for everything that agents and Envoy ask.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpConnectInfo;
use tracing::error;

use super::acceptor::Door;
use super::server::PresenceService;
use super::transport::Peer;
use crate::envoy::xds::XdsServer;
use crate::pki::tls::{PeerRole, Tls};

/// Pings to Envoy, so that a lost one does not hold a stream, and with it a drain, for ever; and to the other agents,
/// of whom a frozen one answers none.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Streams one connection may open: Envoy needs one.
const MAX_STREAMS: u32 = 64;
/// How long streams may take to end once they were told.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Serves until `close` is cancelled. The port is open before this node is a candidate. With `tls`, Envoy may open
/// ADS and nothing else, agents may ask for presence and nothing else, and every other peer is refused.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    xds: XdsServer,
    presence: PresenceService,
    close: CancellationToken,
) {
    let door = Door::new(tls);
    let incoming = door.incoming(listener);
    let for_agents = door.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .add_service(InterceptedService::new(xds.into_service(), move |request| {
            door.admit(&request, &PeerRole::Envoy)?;
            Ok(show_address(request))
        }))
        .add_service(InterceptedService::new(presence.into_server(), move |request| {
            for_agents.admit(&request, &PeerRole::Agent)?;
            Ok(request)
        }));
    let served = server.serve_with_incoming_shutdown(incoming, close.clone().cancelled_owned());
    tokio::select! {
        ended = served => if let Err(error) = ended {
            error!(name: "control-port-failed", %error, "control port failed");
        },
        // tonic waits for open streams, and a client that never reads would hold it for ever.
        () = async { close.cancelled().await; sleep(LAST_WORDS).await } => {}
    }
}

/// tonic shows a peer's address only for its own kind of connection.
fn show_address(mut request: Request<()>) -> Request<()> {
    let remote_addr = request.extensions().get::<Peer>().and_then(|peer| peer.address);
    request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr });
    request
}
