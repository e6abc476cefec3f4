//! Random dialogues between a stream and a client that keeps to the protocol: order and convergence hold.

use std::collections::VecDeque;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::rpc;
use proptest::prelude::*;

use super::*;
use crate::envoy::snapshot::Snapshot;

/// One step of the world. `kind` counts modulo four.
#[derive(Clone, Debug)]
enum Step {
    /// The roster or the settings change: a version for each kind.
    Change([u8; 4]),
    Subscribe {
        kind: usize,
        star: bool,
    },
    /// A request without names: none, or all if it was never otherwise.
    Unname(usize),
    /// The client reads its oldest push and accepts or rejects it.
    Read {
        accept: bool,
    },
    /// The client repeats an answer it has given.
    Repeat(usize),
    /// The server's side of the connection can take one push.
    Write,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => proptest::array::uniform4(0..3_u8).prop_map(Step::Change),
        2 => (0..4_usize, any::<bool>()).prop_map(|(kind, star)| Step::Subscribe { kind, star }),
        1 => (0..4_usize).prop_map(Step::Unname),
        4 => prop::bool::weighted(0.8).prop_map(|accept| Step::Read { accept }),
        1 => (0..4_usize).prop_map(Step::Repeat),
        6 => Just(Step::Write),
    ];
    proptest::collection::vec(step, 0..120)
}

/// Envoy's side of one kind.
#[derive(Clone, Debug, Default)]
struct Held {
    names: Vec<String>,
    /// Asked since the last push: a push without a change is then no surprise.
    asked: bool,
    /// Whether the server has heard a request, and one with names. A request with a stale nonce is not heard.
    heard: bool,
    heard_names: bool,
    nonce: String,
    version: String,
    rejected: Option<String>,
}

struct World {
    stream: Stream,
    versions: [u8; 4],
    applied: i64,
    held: [Held; 4],
    /// Pushes on their way to the client.
    wire: VecDeque<(ResourceType, DiscoveryResponse)>,
    /// Version last pushed of each kind.
    pushed: [Option<String>; 4],
    /// Whether clusters were pushed after endpoints, which are then owed.
    endpoints_owed: bool,
}

impl World {
    fn new() -> Self {
        Self {
            stream: Stream::new(published([0; 4], 1)),
            versions: [0; 4],
            applied: 1,
            held: Default::default(),
            wire: VecDeque::new(),
            pushed: Default::default(),
            endpoints_owed: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change(versions) => {
                self.versions = versions;
                self.applied += 1;
                self.stream.publish(published(versions, self.applied));
            }
            Step::Subscribe { kind, star } => {
                let name = if ResourceType::ALL[kind] <= ResourceType::Endpoints { "nginx" } else { "edge" };
                let held = &mut self.held[kind];
                held.names = vec![if star { "*" } else { name }.to_owned()];
                held.asked = true;
                self.send(kind, None);
            }
            Step::Unname(kind) => {
                self.held[kind].names.clear();
                self.held[kind].asked |= self.is_subscribed(kind);
                self.send(kind, None);
            }
            Step::Read { accept } => self.read(accept),
            Step::Repeat(kind) if !self.held[kind].nonce.is_empty() => self.send(kind, None),
            Step::Repeat(_) => {}
            Step::Write => drop(self.write()),
        }
        self.check_through();
    }

    fn send(&mut self, kind: usize, error_detail: Option<rpc::Status>) {
        let request = DiscoveryRequest {
            node: Some(Node { id: "envoy".to_owned(), ..Default::default() }),
            type_url: ResourceType::ALL[kind].type_url().to_owned(),
            resource_names: self.held[kind].names.clone(),
            response_nonce: self.held[kind].nonce.clone(),
            version_info: self.held[kind].version.clone(),
            error_detail,
            ..Default::default()
        };
        let reception =
            self.stream.receive(request).expect("a client that keeps to the protocol is not refused");
        let held = &mut self.held[kind];
        if reception != Reception::Stale(ResourceType::ALL[kind]) {
            held.heard = true;
            held.heard_names |= !held.names.is_empty();
        }
    }

    fn is_subscribed(&self, kind: usize) -> bool {
        let held = &self.held[kind];
        !held.names.is_empty() || ResourceType::ALL[kind].empty_means_all() && !held.heard_names
    }

    fn read(&mut self, accept: bool) {
        let Some((kind, push)) = self.wire.pop_front() else { return };
        let kind = kind as usize;
        let held = &mut self.held[kind];
        held.nonce = push.nonce;
        let error = if accept {
            held.version = push.version_info;
            held.rejected = None;
            None
        } else {
            held.rejected = Some(push.version_info);
            Some(rpc::Status { message: "no".to_owned(), ..Default::default() })
        };
        self.send(kind, error);
    }

    /// Lets one push out and checks that it may be.
    fn write(&mut self) -> Option<ResourceType> {
        let (kind, push) = self.stream.next_push()?;
        let i = kind as usize;
        assert!(!self.wire.iter().any(|(one, _)| *one == kind), "a second push of {kind:?} is outstanding");
        let asked = std::mem::take(&mut self.held[i].asked);
        let again = self.pushed[i].as_ref() == Some(&push.version_info);
        let follows_clusters = kind == ResourceType::Endpoints && self.endpoints_owed;
        assert!(!again || asked || follows_clusters, "{kind:?} {} sent again", push.version_info);
        if kind >= ResourceType::Listeners && !asked {
            for earlier in 0..i {
                let nothing_owed = self.stream.subscriptions[earlier].interest.is_none()
                    || self.pushed[earlier] == Some(version(earlier, self.versions));
                assert!(nothing_owed, "{kind:?} went before {:?}", ResourceType::ALL[earlier]);
            }
        }
        match kind {
            ResourceType::Clusters => self.endpoints_owed = true,
            ResourceType::Endpoints => self.endpoints_owed = false,
            ResourceType::Listeners | ResourceType::Routes => {}
        }
        self.pushed[i] = Some(push.version_info.clone());
        self.wire.push_back((kind, push));
        Some(kind)
    }

    /// What `through` says is true: the client has these endpoints and is about to get no others.
    fn check_through(&self) {
        let (through, eds) = (self.stream.through(), ResourceType::Endpoints as usize);
        assert!(through <= self.applied);
        if through == self.applied {
            let current = version(eds, self.versions);
            assert_eq!(self.held[eds].version, current);
            let mut coming = self.wire.iter().filter(|(kind, _)| *kind == ResourceType::Endpoints);
            assert!(coming.all(|(_, push)| push.version_info == current));
        }
    }

    /// Everything is written, read and accepted until nothing moves; the two then agree.
    fn converge(mut self) {
        let mut exchanged = 0;
        while self.write().is_some() || !self.wire.is_empty() {
            self.read(true);
            exchanged += 1;
            assert!(exchanged < 50, "the two do not come to rest");
        }
        for (i, held) in self.held.iter().enumerate() {
            let subscription = &self.stream.subscriptions[i];
            let subscribed = held.heard && self.is_subscribed(i);
            assert_eq!(!subscription.interest.is_none(), subscribed, "{:?}", ResourceType::ALL[i]);
            let current = version(i, self.versions);
            if subscribed {
                assert!(held.version == current || held.rejected.as_ref() == Some(&current));
            }
        }
        let eds = &self.held[ResourceType::Endpoints as usize];
        if !eds.names.is_empty() && eds.rejected.is_none() {
            assert_eq!(self.stream.through(), self.applied);
        }
    }
}

fn version(kind: usize, versions: [u8; 4]) -> String {
    format!("{}{}", ResourceType::ALL[kind].label(), versions[kind])
}

fn published(versions: [u8; 4], applied: i64) -> Arc<Published> {
    let named: [String; 4] = std::array::from_fn(|kind| version(kind, versions));
    let snapshot = Snapshot::sketch([&named[0], &named[1], &named[2], &named[3]]);
    Arc::new(Published { snapshot: Arc::new(snapshot), applied, epoch: 1 })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn order_and_convergence_hold(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.converge();
    }
}
