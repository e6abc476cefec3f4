//! The ADS server on a real socket: driven by a client of our own through what the protocol allows and forbids, and by
//! a real Envoy.

mod client;
mod envoy;
mod headers;
mod leader;
mod protocol;
mod roster;
mod secure;
mod upstream;
