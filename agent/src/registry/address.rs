//! Which address this node registers, and which network its interface is in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

use crate::config::{Advertise, Allow, Endpoint};

/// Longest wait for the name of one member: a resolver takes 10 s to say that there is none.
const NAME_BOUND: Duration = Duration::from_millis(500);

/// The address to register: what `advertise` says, else the local end of the way to `endpoint`.
///
/// # Errors
/// The interface or network is not there, or the endpoint's name does not resolve to an IPv4 address.
pub async fn own_address(advertise: Option<&Advertise>, endpoint: &Endpoint) -> Result<Ipv4Addr> {
    match advertise {
        Some(Advertise::Ip(ip)) => Ok(*ip),
        Some(Advertise::Network(network)) => {
            let found = interfaces()?.into_iter().find(|(_, own)| network.contains(&own.addr()));
            let (_, own) = found.ok_or_else(|| {
                anyhow!("--advertise {network}: no interface has an address in it; {}", shown())
            })?;
            Ok(own.addr())
        }
        Some(Advertise::Interface(name)) => {
            let found = interfaces()?.into_iter().find(|(interface, _)| interface == name);
            let (_, own) = found.ok_or_else(|| {
                anyhow!("--advertise {name}: no such interface with an IPv4 address; {}", shown())
            })?;
            Ok(own.addr())
        }
        None => local_end(endpoint).await,
    }
}

/// This host's address on the way to the first member whose name is known: one that has ended has none.
/// 0.0.0.0 where none is known.
pub async fn address_by_any(members: &[Endpoint]) -> Ipv4Addr {
    for member in members {
        if let Ok(Ok(own)) = timeout(NAME_BOUND, own_address(None, member)).await {
            return own;
        }
    }
    Ipv4Addr::UNSPECIFIED
}

/// What `--allow` means for a node with this address: `own` is the network of the interface that holds it. Loopback is
/// never meant by `own`: a fleet on one machine has to say so.
pub fn allowed_networks(allow: &[Allow], ip: Ipv4Addr) -> Vec<Ipv4Net> {
    let own = allow.contains(&Allow::Own).then(|| own_network(ip));
    allow.iter().filter_map(Allow::network).chain(own).collect()
}

/// The network of the interface that holds `ip`; an empty network when there is none to be trusted.
fn own_network(ip: Ipv4Addr) -> Ipv4Net {
    let found = interfaces().ok().and_then(|all| all.into_iter().find(|(_, own)| own.addr() == ip));
    match found {
        Some((_, own)) if !ip.is_loopback() => own.trunc(),
        _ => Ipv4Net::from(Ipv4Addr::UNSPECIFIED),
    }
}

/// A connected UDP socket sends nothing: it only asks the kernel for the route, which is the one TCP takes. The etcd
/// client does not show its own socket.
async fn local_end(endpoint: &Endpoint) -> Result<Ipv4Addr> {
    let target = (endpoint.host.as_str(), endpoint.port);
    let found = lookup_host(target).await.with_context(|| format!("cannot resolve {}", endpoint.host))?;
    let target = found.into_iter().find(SocketAddr::is_ipv4);
    let target = target.ok_or_else(|| anyhow!("{} has no IPv4 address", endpoint.host))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("cannot open a UDP socket")?;
    socket.connect(target).await.with_context(|| format!("no route to {target}"))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => bail!("the way to {target} leaves from {ip}, and muster speaks IPv4 only"),
    }
}

/// What could have been meant.
fn shown() -> String {
    let all = interfaces().unwrap_or_default();
    let all: Vec<String> = all.iter().map(|(name, own)| format!("{name} ({})", own.addr())).collect();
    format!("there are {}", all.join(", "))
}

fn interfaces() -> Result<Vec<(String, Ipv4Net)>> {
    let all = getifaddrs().context("cannot read the network interfaces")?;
    let ipv4 = all.filter_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask.and_then(|mask| Some(mask.as_sockaddr_in()?.ip()));
        let network = Ipv4Net::with_netmask(address, mask.unwrap_or(Ipv4Addr::BROADCAST)).ok()?;
        Some((interface.interface_name, network))
    });
    Ok(ipv4.collect())
}
