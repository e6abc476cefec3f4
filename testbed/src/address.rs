//! Where the parts of one testbed listen: a range 127.a.b.0/24 of its own, and ports nobody holds.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use anyhow::bail;

/// The most nodes one range has room for: 127.a.b.1 to 127.a.b.200.
pub const MAX_NODES: u8 = 200;

/// The most when each node needs a second address behind its links.
pub const MAX_LINKED: u8 = MAX_NODES / 2;

/// The addresses of one testbed.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    range: [u8; 2],
    pub ports: Ports,
}

/// Ports, the same on every address of the range.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub http: u16,
    pub control: u16,
    pub metrics: u16,
    pub etcd_client: u16,
    pub etcd_peer: u16,
    /// Where a member with TLS says in the clear whether it is healthy.
    pub etcd_health: u16,
    pub admin: u16,
    /// Where a node's control port is reached through the testbed's proxy.
    pub control_proxy: u16,
    /// A node reaches etcd member m through its own address at this port plus m.
    pub etcd_proxy: u16,
}

impl Addresses {
    /// # Errors
    /// When no free port is found near the usual one.
    pub fn new(range: [u8; 2]) -> anyhow::Result<Self> {
        let probe = Ipv4Addr::new(127, range[0], range[1], 254);
        Ok(Self { range, ports: Ports::free(probe)? })
    }

    /// 127.a.b.n
    pub fn ip(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.range[0], self.range[1], n)
    }

    /// Where the agent and nginx of node n listen when the address of the node is its links'.
    pub fn behind(&self, n: u8) -> Ipv4Addr {
        self.ip(n + MAX_LINKED)
    }

    pub fn etcd_client(&self, member: u8) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(200 + member), self.ports.etcd_client)
    }

    pub fn etcd_peer(&self, member: u8) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(200 + member), self.ports.etcd_peer)
    }

    pub fn etcd_health(&self, member: u8) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(200 + member), self.ports.etcd_health)
    }

    /// Where Envoy is told to open its public listener.
    pub fn edge(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(250), self.ports.http)
    }

    pub fn admin(&self, envoy: u8) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(250 + envoy), self.ports.admin)
    }
}

impl Ports {
    /// The usual ports, or the next free ones: a listener on 0.0.0.0 elsewhere on the machine takes a port from every
    /// address. All are below the range the kernel takes for outgoing connections.
    fn free(probe: Ipv4Addr) -> anyhow::Result<Self> {
        let mut taken = Vec::new();
        let mut next = |usual: u16, count: u16| -> anyhow::Result<u16> {
            for first in usual..usual + 500 {
                let wanted = first..first + count;
                let free = |port: u16| {
                    !taken.contains(&port) && TcpListener::bind(SocketAddrV4::new(probe, port)).is_ok()
                };
                if wanted.clone().all(free) {
                    taken.extend(wanted);
                    return Ok(first);
                }
            }
            bail!("no free port from {usual} on")
        };
        Ok(Self {
            http: next(8080, 1)?,
            control: next(18000, 1)?,
            metrics: next(9464, 1)?,
            etcd_client: next(2379, 1)?,
            etcd_peer: next(2380, 1)?,
            etcd_health: next(2381, 1)?,
            admin: next(9901, 1)?,
            control_proxy: next(18100, 1)?,
            etcd_proxy: next(23790, 4)?,
        })
    }
}
