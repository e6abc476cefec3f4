//! All that knows Envoy: the roster becomes [`resources`] in a [`Snapshot`] (pure), and [`xds`] serves them over ADS.

mod resources;
mod snapshot;
pub mod xds;

pub use resources::{EdgeSettings, EdgeTls};
pub use snapshot::{Resource, ResourceType, Snapshot};
