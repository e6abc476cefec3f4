//! The whole of muster as plain processes on 127.x.y.z: real etcd, nginx, agents and Envoy, with every fault a
//! process or a link can have.
//!
//! | module | what lives there |
//! |---|---|
//! | [`testbed`] | [`Testbed`]: one fleet, from start to a clean end |
//! | [`node`], [`etcd`], [`envoy`] | the parts, and what can be done to each |
//! | [`proxy`] | the links between them: cut, delayed, silent |
//! | [`observe`] | what each part says, and waiting until all say the same |
//! | [`keeper`], [`process`], [`tree`], [`sockets`] | starting processes so that none outlives its testbed |
//! | [`network`] | a network of a test's own |
//! | [`certificates`] | what parts show each other, made by `muster pki` |
//! | [`address`], [`programs`] | where parts listen, and where their programs are found |
//!
//! A testbed asks nothing of the machine but Linux: no root, no container engine, no free port at a fixed address.
//! The product never imports this crate.

pub mod testbed;

pub mod envoy;
pub mod etcd;
pub mod node;

pub mod proxy;

pub mod http;
pub mod observe;

pub mod keeper;
pub mod network;
pub mod process;
pub mod sockets;
pub mod tree;

pub mod certificates;

pub mod address;
pub mod programs;

pub use observe::eventually;
pub use proxy::Link;
pub use testbed::{Builder, Testbed};
