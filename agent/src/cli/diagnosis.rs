//! What is wrong with a fleet, by one look at it. Found here once; `status`, `verify` and `check` say it.

use std::fmt;

use super::survey::{File, Line, Survey};
use crate::fleet::EnvoyValue;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    MemberSilent,
    RegistryUnreadable,
    NoNodeServes,
    NobodyLeads,
    UnreadableKeys,
    FileDiffers,
    /// No answer, or one that is no list.
    FileAbsent,
    FileUnknown,
    NoEnvoy,
    EnvoyNotConnected,
    EnvoyRejects,
    EnvoyBehind,
    /// A node to which Envoy routes.
    NodeDoesNotAnswer,
    SiteNotServed,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub kind: FaultKind,
    /// Whose fault it is; empty for the fleet's.
    pub subject: String,
    /// What is wrong, as it follows on the subject.
    pub why: String,
}

impl FaultKind {
    /// Whether it only could not be found out.
    pub(super) const fn is_unknown(self) -> bool {
        matches!(self, Self::FileUnknown | Self::NoEnvoy | Self::EnvoyNotConnected | Self::NobodyLeads)
    }

    /// Whether it is said of one node's file.
    pub(super) const fn is_of_a_file(self) -> bool {
        matches!(self, Self::FileDiffers | Self::FileAbsent | Self::FileUnknown)
    }

    /// The heading of docs/checks.md that explains it.
    pub(super) const fn hint(self) -> &'static str {
        match self {
            Self::MemberSilent => "etcd-member-silent",
            Self::RegistryUnreadable => "registry-unreadable",
            Self::NodeDoesNotAnswer => "node-does-not-answer",
            Self::SiteNotServed => "site-not-served",
            Self::NoNodeServes => "no-node-serves",
            Self::NobodyLeads => "nobody-leads",
            Self::UnreadableKeys => "unreadable-keys",
            Self::FileDiffers => "file-differs",
            Self::FileAbsent | Self::FileUnknown => "file-unreadable",
            Self::NoEnvoy => "no-envoy",
            Self::EnvoyNotConnected => "envoy-not-connected",
            Self::EnvoyRejects => "envoy-rejects",
            Self::EnvoyBehind => "envoy-behind",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject.as_str() {
            "" => f.write_str(&self.why),
            subject => write!(f, "{subject} {}", self.why),
        }
    }
}

/// Everything that is wrong: the fleet first, then files in the order of the nodes, then Envoys.
pub(super) fn diagnose(survey: &Survey) -> Vec<Fault> {
    let mut faults: Vec<Fault> = [no_node_serves(survey), nobody_leads(survey), unreadable_keys(survey)]
        .into_iter()
        .flatten()
        .collect();
    faults.extend(survey.lines.iter().filter_map(of_file));
    faults.extend(no_envoy(survey));
    faults.extend(survey.absent().map(|(id, why)| not_connected(id, why)));
    faults.extend(survey.connected().filter_map(|(id, envoy)| of_envoy(survey, id, envoy)));
    faults
}

pub(super) fn no_node_serves(survey: &Survey) -> Option<Fault> {
    let why = match survey.lines.len() {
        0 => "no node is registered: Envoy answers 503".to_owned(),
        _ if survey.lines.iter().any(|line| line.routable) => return None,
        nodes => format!("no node is routed to, of {nodes} registered: Envoy answers 503"),
    };
    Some(of_fleet(FaultKind::NoNodeServes, why))
}

pub(super) fn nobody_leads(survey: &Survey) -> Option<Fault> {
    let why = "no leader: no candidate is registered, and Envoy keeps its last configuration";
    survey.leader().is_none().then(|| of_fleet(FaultKind::NobodyLeads, why.to_owned()))
}

pub(super) fn unreadable_keys(survey: &Survey) -> Option<Fault> {
    let first = survey.skipped.first()?;
    let why = format!("unreadable keys are skipped: {}, the first is {first}", survey.skipped.len());
    Some(of_fleet(FaultKind::UnreadableKeys, why))
}

/// What is wrong with a node's file.
pub(super) fn of_file(line: &Line) -> Option<Fault> {
    let (kind, why) = match &line.file {
        File::Agrees { .. } => return None,
        File::Differs { revision, how } => {
            (FaultKind::FileDiffers, format!("differs from the registry at revision {revision}: {how}"))
        }
        File::Absent { why } => (FaultKind::FileAbsent, format!("is absent: {why}")),
        File::Unknown { why } => (FaultKind::FileUnknown, format!("cannot be read: {why}")),
    };
    Some(Fault { kind, subject: format!("list of {}", line.name), why })
}

pub(super) fn no_envoy(survey: &Survey) -> Option<Fault> {
    let why = format!("no Envoy is connected to the leader, of {} on record", survey.envoys.len());
    survey.connected().next().is_none().then(|| of_fleet(FaultKind::NoEnvoy, why))
}

/// `why` as [`Survey::absent`] says it.
pub(super) fn not_connected(id: &str, why: &str) -> Fault {
    Fault { kind: FaultKind::EnvoyNotConnected, subject: format!("envoy {id}"), why: why.to_owned() }
}

/// What is wrong with an Envoy that is connected.
pub(super) fn of_envoy(survey: &Survey, id: &str, envoy: &EnvoyValue) -> Option<Fault> {
    let (kind, why) = match (&envoy.rejection, &envoy.digest) {
        (Some(rejection), _) => (FaultKind::EnvoyRejects, format!("rejected its configuration: {rejection}")),
        _ if survey.is_in_sync(envoy) => return None,
        (None, digest) => {
            let has = digest.as_deref().unwrap_or("nothing");
            let why = format!("is behind: it has acknowledged {has}, the registry says {}", survey.digest);
            (FaultKind::EnvoyBehind, why)
        }
    };
    Some(Fault { kind, subject: format!("envoy {id}"), why })
}

fn of_fleet(kind: FaultKind, why: String) -> Fault {
    Fault { kind, subject: String::new(), why }
}
