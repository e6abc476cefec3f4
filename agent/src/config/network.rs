//! [`Advertise`] and [`Allow`]: which address is registered, and which may be listed.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// Where the registered address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    Ip(Ipv4Addr),
    /// The node's own address inside this network.
    Network(Ipv4Net),
    /// The first IPv4 address of this interface.
    Interface(String),
}

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "expected an IPv4 address, a network such as 10.1.0.0/16, or an interface such as eth0";
        if text.contains(':') {
            return Err(format!("it is IPv6, and muster speaks IPv4 only; {usage}"));
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            let why = match ip {
                ip if ip.is_unspecified() => "is unspecified",
                ip if ip.is_multicast() => "is multicast",
                ip if ip.is_broadcast() => "is broadcast",
                ip if ip.is_link_local() => "is link-local",
                ip => return Ok(Self::Ip(ip)),
            };
            return Err(format!("it {why}, and no node can be reached there; {usage}"));
        }
        if text.contains('/') {
            return network(text).map(Self::Network).map_err(|error| format!("{error}; {usage}"));
        }
        let interface =
            (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        let looks_like_ip = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !interface || looks_like_ip {
            return Err(usage.into());
        }
        Ok(Self::Interface(text.to_owned()))
    }
}

/// Which addresses may be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// The network of this node's own interface.
    Own,
    Network(Ipv4Net),
}

impl Allow {
    pub fn network(&self) -> Option<Ipv4Net> {
        match self {
            Self::Own => None,
            Self::Network(network) => Some(*network),
        }
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "own" => Ok(Self::Own),
            text => network(text)
                .map(Self::Network)
                .map_err(|error| format!("{error}; expected a network such as 10.1.0.0/16, or `own`")),
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// Why an address cannot be registered, and what to do about it.
pub fn not_publishable(ip: Ipv4Addr, allow: &[Allow]) -> String {
    if ip.is_loopback() {
        return format!(
            "{ip} is a loopback address, which no other host reaches; for a fleet on this machine alone say --allow 127.0.0.0/8"
        );
    }
    let allowed = match allow {
        [] => "any unicast address but loopback and link-local".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    format!("{ip} must not be listed: allowed is {allowed}; give another --advertise, or --allow its network")
}

fn network(text: &str) -> Result<Ipv4Net, String> {
    let network: Ipv4Net = text.parse().map_err(|_| "it is no IPv4 network")?;
    if network.trunc() != network {
        return Err(format!("it has host bits set; the network is {}", network.trunc()));
    }
    Ok(network)
}
