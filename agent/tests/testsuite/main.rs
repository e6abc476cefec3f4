//! The agent's tests on real sockets and real programs, as one program: each one more is linked with all that it uses.
//! Beside it stand those that need a process of their own: `nginx` (its supervisor reaps every child) and `pid1`.

mod address;
mod ads;
mod auth;
mod certificates;
mod executable;
mod fixture;
mod flags;
mod fleet;
mod marks;
mod metrics;
mod page;
#[path = "../part/mod.rs"]
mod part;
mod pki;
mod readme;
mod schema;
mod stdout;
mod supply;
mod tidy;
mod tls;
mod values;
