//! All that knows Envoy: the roster becomes resources ([`Snapshot`], pure), and [`xds`] serves them over ADS.

mod cluster;
mod deadline;
mod edge;
mod snapshot;
mod wire;
pub mod xds;

pub use edge::{EdgeSettings, EdgeTls};
pub use snapshot::{Resource, ResourceType, Snapshot};
