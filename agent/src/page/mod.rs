//! The list as files: what every node's nginx serves.
//!
//! [`render`] is pure: equal rosters give equal bytes on every node, so equal checksums prove agreement.
//! [`Publisher`] puts the bytes on disk atomically, and [`run`] follows the roster.

mod files;
mod history;
mod html;
mod node;
mod render;
mod run;
mod writer;

pub use files::{PublishError, Publisher, Written};
pub use history::{render_history, run_history};
pub use html::content_security_policy;
pub use node::{ContactState, Itself, NginxHealth, RegistryContact, SiteHealth, render_itself, run_itself};
pub use render::{About, Files, render};
pub use run::run;
