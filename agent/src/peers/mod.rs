//! What agents and Envoy ask of each other: one port, the presence of every agent at the leader's, and what follows
//! when it ends without a goodbye.

pub mod attendance;
mod codec;
pub mod control;
pub mod dial;
mod door;
pub mod inquest;
pub mod presence;
pub mod suspicion;
mod wire;

/// Made from `proto/presence.proto`.
#[allow(unused_qualifications, reason = "generated")]
mod proto {
    tonic::include_proto!("muster.presence.v1");
}
