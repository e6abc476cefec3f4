//! What the operator may choose about what Envoy is told.

use std::net::SocketAddrV4;

/// What the operator may choose about the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSettings {
    /// The address Envoy is told to open.
    pub listen: SocketAddrV4,
    /// The fleet's prefix, by which every node names its fleet to Envoy's health check.
    pub prefix: String,
    /// Lowest status of a request that Envoy logs; with one, requests have an id. `None`: neither.
    pub log_from: Option<u32>,
    /// How many proxies stand before Envoy, each of which adds its client's address to `x-forwarded-for`.
    pub trusted_proxies: u32,
    /// `None`: everything is said in the clear.
    pub tls: Option<EdgeTls>,
}

/// TLS for the public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeTls {
    /// The address Envoy is told to open for it.
    pub listen: SocketAddrV4,
    /// The port by which people reach that address: where they are redirected to.
    pub port: u16,
    /// A file where Envoy is, which names certificate and key: an SDS resource of the name `edge`.
    pub secret: String,
}
