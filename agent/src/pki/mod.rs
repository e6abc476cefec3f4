//! Certificates: which there are ([`plan`]), how they are made ([`issue`]), kept ([`store`], [`init`], [`renew`]),
//! judged ([`read`], [`show`]) and used ([`tls`], [`reload`]).

pub mod authorities;
mod error;
pub mod init;
pub mod issue;
pub mod plan;
pub mod read;
pub mod reload;
pub mod renew;
mod server_verifier;
mod set;
pub mod show;
pub mod store;
pub mod tls;

pub use error::Wrong;
