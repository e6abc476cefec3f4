//! What an Envoy reads beside its bootstrap.

use serde_json::{Value, json};

use crate::certificates::Certificates;

/// What guards the edge and cannot come from a leader, as containers have it.
pub(super) fn runtime() -> &'static str {
    let bootstrap = include_str!("../../../envoy/bootstrap.yaml");
    let from = bootstrap.find("\nlayered_runtime:").unwrap_or(bootstrap.len());
    let to = bootstrap.find("\noverload_manager:").unwrap_or(bootstrap.len());
    &bootstrap[from..to]
}

/// What it shows, and what it takes of others.
pub(super) const OWN: &str = "own";
pub(super) const AGENTS: &str = "agents";

pub(super) fn secrets(certificates: &Certificates) -> [(&'static str, Value); 2] {
    let file = |name: &str| json!({"filename": certificates.file("envoy", name)});
    let watched = json!({"path": certificates.dir.join("envoy").display().to_string()});
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let own = json!({"@type": kind, "name": OWN, "tls_certificate": {
        "certificate_chain": file("control.crt"),
        "private_key": file("control.key"),
        "watched_directory": watched,
    }});
    let agents = json!({"@type": kind, "name": AGENTS, "validation_context": {
        "trusted_ca": file("control-ca.crt"),
        "watched_directory": watched,
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "agent.muster"}}],
    }});
    [(OWN, own), (AGENTS, agents)]
}
