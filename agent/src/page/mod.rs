//! The list as files: what every node's nginx serves.
//!
//! [`render`] is pure: equal rosters give equal bytes on every node, so equal checksums prove agreement.
//! [`Publisher`] puts the bytes on disk atomically, and [`run`] follows the roster.

mod files;
mod history_json;
mod html;
mod list_task;
mod node_json;
mod render;
mod writer;

pub use files::{PublishError, Publisher, Written};
pub use history_json::{render_history, run_history};
pub use html::content_security_policy;
pub use list_task::run;
pub use node_json::{
    ContactState, NginxHealth, NodeDocument, RegistryContact, SiteHealth, render_itself, run_itself,
};
pub use render::{About, ListFiles, render};
