//! What Envoy is told, one file a kind of resource or extension, by Envoy's own names for them. **Pure.**

mod access_log;
mod cluster;
pub(super) mod deadline;
mod headers;
mod http_connection_manager;
mod listener;
mod names;
mod pb;
pub(super) mod route;
mod settings;
mod tls;

pub(super) use cluster::{cluster, load_assignment};
pub(super) use listener::listeners;
pub(super) use names::{CLUSTER, EDGE};
pub(super) use route::routes;
pub use settings::{EdgeSettings, EdgeTls};
