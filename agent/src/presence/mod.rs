//! What agents and Envoy ask of each other: one port, the presence of every agent at the leader's, and what follows
//! when it ends without a goodbye.

mod acceptor;
pub mod client;
mod codec;
pub mod connect;
pub mod control_port;
pub mod failure_detector;
pub mod prober;
pub mod server;
mod transport;

/// Made from `proto/presence.proto`.
#[allow(unused_qualifications, reason = "generated")]
mod proto {
    tonic::include_proto!("muster.presence.v1");
}
