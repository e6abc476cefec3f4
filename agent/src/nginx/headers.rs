//! What goes with each answer of nginx, as files that its locations include.

/// For every location: one `add_header` in a location drops all those from above it, so each includes the whole set.
/// The address is that of the connection itself, which is right before any registration and for each of several.
pub(super) const ALL: &str = "\
add_header X-Served-By $server_addr always;
add_header X-Content-Type-Options nosniff always;
add_header X-Envoy-RateLimited $ratelimited always;
add_header Retry-After $retry_after always;
";

/// nginx's ETag is the time in seconds and the size, which repeats when a file changes twice in a second. A part of a
/// list that has changed meanwhile is part of nothing.
pub(super) const GENERATED: &str = "\
include headers.conf;
add_header Cache-Control no-store always;
etag off;
if_modified_since off;
max_ranges 0;
types {}
";

/// The rule for how long a file may be kept goes with files only, and not with errors.
pub(super) const SITE: &str = "\
include headers.conf;
add_header Cache-Control $site_cache;
";
