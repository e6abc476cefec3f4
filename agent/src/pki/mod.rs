//! Certificates: which there are ([`plan`]), how they are made ([`issue`]), kept ([`store`], [`init`], [`renew`]),
//! judged ([`read`], [`show`]) and used ([`tls`], [`follow`]).

pub mod authorities;
mod by_role;
pub mod follow;
pub mod init;
pub mod issue;
pub mod plan;
pub mod read;
pub mod renew;
mod set;
pub mod show;
pub mod store;
pub mod tls;
mod wrong;

pub use wrong::Wrong;
