//! The names by which resources refer to each other.

/// Name of the plain listener, and of the routes to the nodes, whichever listener has them.
pub(in crate::envoy) const EDGE: &str = "edge";
/// Name of the listener with TLS.
pub(in crate::envoy) const EDGE_TLS: &str = "edge-tls";
/// Name of the cluster and of its load assignment.
pub(in crate::envoy) const CLUSTER: &str = "nginx";
