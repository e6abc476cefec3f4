//! What a node reaches and who reaches it.

use std::net::SocketAddrV4;

use anyhow::Context;

use super::Node;
use crate::proxy::Link;

impl Node {
    /// Changes the links to all etcd members.
    pub fn link_etcd(&self, link: Link) {
        self.etcd_links.iter().for_each(|proxy| proxy.set(link));
    }

    /// Changes the link to one etcd member.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn link_etcd_member(&self, member: u8, link: Link) -> anyhow::Result<()> {
        let index = usize::from(member).checked_sub(1).context("members count from 1")?;
        self.etcd_links.get(index).with_context(|| format!("no etcd member {member}"))?.set(link);
        Ok(())
    }

    /// Changes the link Envoy reaches the agent by.
    pub fn link_control(&self, link: Link) {
        self.control_link.set(link);
    }

    /// Changes what one other agent reaches of this node: its nginx and its control port.
    ///
    /// # Errors
    /// When the other does not run, or the testbed is not linked.
    pub fn link_from(&self, other: &Node, link: Link) -> anyhow::Result<()> {
        anyhow::ensure!(!self.peer_links.is_empty(), "{} has no links to its peers", self.name);
        let client = other.agent()?.pid;
        self.peer_links.iter().for_each(|proxy| proxy.set_for(client, link));
        Ok(())
    }

    /// As [`Node::link_from`], of the control port alone.
    ///
    /// # Errors
    /// As [`Node::link_from`].
    pub fn link_control_from(&self, other: &Node, link: Link) -> anyhow::Result<()> {
        let control = self.peer_links.get(1).with_context(|| format!("{} has no links", self.name))?;
        control.set_for(other.agent()?.pid, link);
        Ok(())
    }

    /// Lets somebody else answer where this node's nginx is expected; `None`: its own nginx again.
    ///
    /// # Errors
    /// When the testbed is not linked.
    pub fn redirect_http(&self, to: Option<SocketAddrV4>) -> anyhow::Result<()> {
        let http = self.peer_links.first().with_context(|| format!("{} has no links", self.name))?;
        http.redirect(to.unwrap_or(SocketAddrV4::new(self.listen, self.http.port())));
        Ok(())
    }

    /// Where Envoy reaches the agent.
    pub fn control_for_envoy(&self) -> SocketAddrV4 {
        self.control_link.listen
    }
}
