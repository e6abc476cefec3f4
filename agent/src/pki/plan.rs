//! Which certificates there are, for whom, with which names and uses. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Under this name an agent answers on its control port, whatever its address.
pub const AGENT_NAME: &str = "agent.muster";
/// Under this name Envoy asks there.
pub const ENVOY_NAME: &str = "envoy.muster";
/// The link to the newest files of a service.
pub const CURRENT: &str = "current";
/// Directory of the authorities' keys.
pub const AUTHORITY: &str = "authority";
/// What no etcd member may be called: other directories, the link in each of them, and etcd's users.
const RESERVED: [&str; 8] =
    [AUTHORITY, "agent", "envoy", "operator", "prometheus", "etcd-root", "root", CURRENT];
/// Longest name of a member, and longest further name: DNS's own bounds.
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

/// The certificate authorities. A certificate of one is refused where another is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// etcd's clients, and its members towards them.
    Etcd,
    /// etcd's members among each other.
    Peer,
    /// The agents' control port: agents and Envoy.
    Control,
}

impl Authority {
    pub const ALL: [Self; 3] = [Self::Etcd, Self::Peer, Self::Control];

    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Peer => "peer",
            Self::Control => "control",
        }
    }
}

/// What a certificate may be shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    Both,
}

/// One certificate: `<file>.crt` and `<file>.key`, with `<file>-ca.crt` to judge the other side by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSubject {
    pub file: &'static str,
    pub authority: Authority,
    /// etcd takes it for the user.
    pub common_name: String,
    /// DNS names and addresses.
    pub names: Vec<String>,
    pub usage: Usage,
}

/// The services that get a directory of certificates each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consumer {
    Member(Member),
    Agent,
    Envoy,
    Operator,
    /// Reads etcd's own metrics, which etcd gives to every client with a certificate, and no key: its name is no etcd user.
    Prometheus,
    Root,
}

impl Consumer {
    /// All but etcd's members.
    pub const OTHERS: [Self; 5] = [Self::Agent, Self::Envoy, Self::Operator, Self::Prometheus, Self::Root];

    /// Name of its directory.
    pub fn name(&self) -> &str {
        match self {
            Self::Member(member) => &member.name,
            Self::Agent => "agent",
            Self::Envoy => "envoy",
            Self::Operator => "operator",
            Self::Prometheus => "prometheus",
            Self::Root => "etcd-root",
        }
    }

    pub fn identities(&self) -> Vec<CertificateSubject> {
        let etcd_user = |name: &str| identity("etcd", Authority::Etcd, name, &[], Usage::Client);
        match self {
            Self::Member(member) => {
                let own: Vec<&str> = member.names().collect();
                let reached: Vec<&str> = own.iter().copied().chain(["localhost", "127.0.0.1"]).collect();
                vec![
                    identity("server", Authority::Etcd, &member.name, &unique(&reached), Usage::Server),
                    identity("peer", Authority::Peer, &member.name, &own, Usage::Both),
                    // For etcdctl beside the member.
                    etcd_user("operator"),
                ]
            }
            Self::Agent => vec![
                etcd_user("agent"),
                identity("control", Authority::Control, "agent", &[AGENT_NAME], Usage::Both),
            ],
            Self::Envoy => {
                vec![identity("control", Authority::Control, "envoy", &[ENVOY_NAME], Usage::Client)]
            }
            Self::Operator => vec![etcd_user("operator")],
            Self::Prometheus => vec![etcd_user("prometheus")],
            Self::Root => vec![etcd_user("root")],
        }
    }
}

fn identity(
    file: &'static str,
    authority: Authority,
    name: &str,
    names: &[&str],
    usage: Usage,
) -> CertificateSubject {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateSubject { file, authority, common_name: name.to_owned(), names, usage }
}

/// Keeps the first of each.
fn unique<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut kept: Vec<&str> = Vec::new();
    for name in names {
        if !kept.contains(name) {
            kept.push(name);
        }
    }
    kept
}

/// An etcd member: its name and what else it is reached as, written `NAME+OTHER+OTHER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    /// DNS names and addresses.
    pub further: Vec<String>,
}

impl Member {
    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.name].into_iter().chain(&self.further).map(String::as_str)
    }
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "expected a member's name and what else it is reached as, such as etcd1 or etcd1+etcd1-peer+10.0.0.5";
        let mut names = text.split('+');
        let name = names.next().unwrap_or_default();
        if name.len() > MAX_LABEL || !is_dns_name(name) || name.contains('.') {
            return Err(format!("it names no member; {usage}"));
        }
        if RESERVED.contains(&name) {
            return Err(format!("`{name}` is the name of another service; {usage}"));
        }
        let further: Vec<String> = names.map(str::to_owned).collect();
        let known = |name: &String| name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) || is_dns_name(name);
        if !further.iter().all(known) {
            return Err(format!("it has a name that is neither DNS nor IPv4; {usage}"));
        }
        Ok(Self { name: name.to_owned(), further })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join("+"))
    }
}

/// Underscores are no part of DNS, but container engines hand them out.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name of digits alone would be an address that went wrong.
    let digits = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    name.len() <= MAX_NAME && !digits && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn everybody() -> Vec<Consumer> {
        let member = Consumer::Member("etcd1+peer1".parse().unwrap());
        [member].into_iter().chain(Consumer::OTHERS).collect()
    }

    #[test]
    fn envoy_has_nothing_that_etcd_takes() {
        let envoy = Consumer::Envoy.identities();
        assert!(envoy.iter().all(|identity| identity.authority == Authority::Control), "{envoy:?}");
    }

    #[test]
    fn only_agents_may_answer_on_a_control_port_and_only_members_as_etcd() {
        for consumer in everybody() {
            for identity in consumer.identities() {
                let answers = identity.usage != Usage::Client;
                let may = match identity.authority {
                    Authority::Control => consumer == Consumer::Agent,
                    Authority::Etcd | Authority::Peer => matches!(consumer, Consumer::Member(_)),
                };
                assert!(may || !answers, "{consumer:?}: {identity:?}");
            }
        }
    }

    #[test]
    fn what_answers_has_a_name_to_be_known_by() {
        for identity in everybody().iter().flat_map(Consumer::identities) {
            assert_eq!(
                identity.usage != Usage::Client || identity.file == "control",
                !identity.names.is_empty()
            );
        }
    }

    #[test]
    fn a_member_is_reached_by_its_names_and_by_itself() {
        let member = Consumer::Member("etcd1+peer1+127.0.0.1".parse().unwrap()).identities();
        assert_eq!(member[0].names, ["etcd1", "peer1", "127.0.0.1", "localhost"]);
        assert_eq!(member[1].names, ["etcd1", "peer1", "127.0.0.1"]);
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for wrong in [
            "",
            "+a",
            "agent",
            "authority",
            "root",
            "current",
            "a.b",
            "a b",
            "../x",
            "etcd1+",
            "etcd1+::1",
            "etcd1+1.2.3",
            "-a",
            "a/b",
        ] {
            let error = wrong.parse::<Member>().unwrap_err();
            assert!(error.contains("such as etcd1"), "{wrong}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_member_reads_as_it_is_written(text in "[a-z0-9+._/-]{0,40}") {
            if let Ok(member) = text.parse::<Member>() {
                prop_assert_eq!(member.to_string(), text);
                prop_assert!(!member.name.contains(['/', '.']) && !member.name.is_empty());
            }
        }
    }
}
