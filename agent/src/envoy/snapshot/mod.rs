//! [`Snapshot`]: everything Envoy is told at one moment, as an immutable value.

use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use prost::Name;

use super::resources::{CLUSTER, EDGE, EdgeSettings, cluster, deadline, listeners, load_assignment, routes};
use crate::fleet::{Roster, digest};

/// The four kinds of resources. Their order is the order of pushing, and it MATTERS: what is referred to goes out
/// before what refers to it (see "Eventual consistency considerations" in Envoy's xDS protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Clusters,
    Endpoints,
    Listeners,
    Routes,
}

impl ResourceType {
    /// In the order of pushing.
    pub const ALL: [Self; 4] = [Self::Clusters, Self::Endpoints, Self::Listeners, Self::Routes];

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Clusters => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listeners => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Envoy's own short name, for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Clusters => "cds",
            Self::Endpoints => "eds",
            Self::Listeners => "lds",
            Self::Routes => "rds",
        }
    }

    /// Whether a first request without names asks for all there is. For endpoints and routes it asks for nothing.
    pub fn empty_means_all(self) -> bool {
        matches!(self, Self::Clusters | Self::Listeners)
    }
}

/// One named resource, encoded once for all streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub name: String,
    pub body: Any,
}

/// All resources at one moment. Versions are opaque: compared for equality only.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    kinds: [Kind; 4],
}

#[derive(Clone, Debug, PartialEq)]
struct Kind {
    version: String,
    resources: Vec<Resource>,
}

impl Snapshot {
    /// What Envoy is told about `roster`. Equal rosters and settings give equal bytes on every agent.
    pub fn of(roster: &Roster, settings: &EdgeSettings) -> Self {
        let listeners = listeners(settings).into_iter().chain([deadline::listener(settings.listen)]);
        let clusters = [cluster(&settings.prefix)].into_iter().chain(deadline::clusters(settings.listen));
        let routable = roster.routable();
        let assignment = Resource::new(CLUSTER, load_assignment(&routable));
        Self {
            kinds: [
                Kind::hashed(clusters.map(|one| Resource::new(&one.name.clone(), one)).collect()),
                Kind { version: roster.digest(), resources: vec![assignment] },
                Kind::hashed(listeners.map(|one| Resource::new(&one.name.clone(), one)).collect()),
                Kind::hashed(vec![Resource::new(EDGE, routes(routable.is_empty()))]),
            ],
        }
    }

    /// The digest of the routable endpoints for [`ResourceType::Endpoints`], a hash of the content for the others.
    pub fn version(&self, kind: ResourceType) -> &str {
        &self.kinds[kind as usize].version
    }

    pub fn resources(&self, kind: ResourceType) -> &[Resource] {
        &self.kinds[kind as usize].resources
    }

    /// The digest of the routable endpoints.
    pub fn digest(&self) -> &str {
        self.version(ResourceType::Endpoints)
    }

    /// A snapshot whose resources are only names and versions, to drive streams with.
    #[cfg(test)]
    pub(crate) fn sketch(versions: [&str; 4]) -> Self {
        let names = [CLUSTER, CLUSTER, EDGE, EDGE];
        Self {
            kinds: std::array::from_fn(|i| Kind {
                version: versions[i].to_owned(),
                resources: vec![Resource {
                    name: names[i].to_owned(),
                    body: Any { type_url: ResourceType::ALL[i].type_url().to_owned(), value: Vec::new() },
                }],
            }),
        }
    }
}

impl Resource {
    fn new(name: &str, message: impl Name) -> Self {
        Self { name: name.to_owned(), body: pack_any(message) }
    }
}

impl Kind {
    fn hashed(resources: Vec<Resource>) -> Self {
        let version = digest(resources.iter().map(|resource| &resource.body.value));
        Self { version, resources }
    }
}

#[cfg(test)]
mod tests;
