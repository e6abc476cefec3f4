//! All that knows nginx: its configuration, its arguments, what it may open, what it serves and how.
//!
//! [`config`] fills `templates/nginx.conf`; [`site`] is about own content, [`caching`], [`headers`], [`types`] and
//! [`limits`] about how it and the list are served, [`access_log`] about which requests are said, [`opened`] about the
//! sandbox.

mod access_log;
mod caching;
mod config;
mod headers;
mod limits;
mod opened;
mod site;
mod types;

pub use access_log::Requests;
pub use config::{HEALTHZ, Nginx, PrepareError, can_name};
pub use limits::Limits;
pub use site::{Fallback, holds_a_file};
