//! The built-in nginx: its configuration, its arguments, its identity.
//!
//! It serves the generated files, `/healthz` and nothing else; own static content may take over the rest of the paths.
//! nginx is built without the rewrite module and without PCRE, so there is no `return` and no regex location: what is
//! not served has a root that does not exist. Methods other than GET and HEAD meet the static module's own 405.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Group, User, getegid, geteuid};
use thiserror::Error;

use super::command::Command;
use super::life::BackOff;
use super::probe::{FLEET_HEADER, INSTANCE_HEADER};
use super::sandbox::Sandbox;
use super::served::{Audience, ChildSpec, OnExit};

mod caching;
mod headers;
mod limits;
mod opened;
mod requests;
mod site;
mod types;

pub use limits::Limits;
pub use requests::Requests;
pub use site::{Fallback, holds_a_file};

/// The body of `/healthz`.
pub const HEALTHZ: &str = "ok\n";

/// What is generated, with its content type. `/` is the first one while there is no own content.
const GENERATED: [(&str, &str); 6] = [
    ("ips.html", "text/html; charset=utf-8"),
    ("ips.json", "application/json"),
    ("ips.txt", "text/plain; charset=utf-8"),
    ("sd.json", "application/json"),
    ("history.json", "application/json"),
    ("node.json", "application/json"),
];

/// The one of them that is a page.
const PAGE: &str = "ips.html";
/// What is no page needs nothing, and is in no frame.
const NO_PAGE_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

#[derive(Debug, Clone)]
pub struct Nginx {
    /// A path, or a name that is looked up in `PATH`.
    pub program: PathBuf,
    pub listen: SocketAddrV4,
    /// The generated files.
    pub dir: PathBuf,
    /// Own static content, already known to hold something: see [`holds_a_file`].
    pub site: Option<PathBuf>,
    /// The file in it that is served in place of a page that is not there: see [`Fallback`].
    pub fallback: Fallback,
    /// nginx.conf, the pid file and temporary files.
    pub run_dir: PathBuf,
    /// This life of the agent, 16 hex digits.
    pub instance: String,
    /// The fleet's prefix.
    pub prefix: String,
    /// The policy under which the page `ips.html` is complete.
    pub page_policy: String,
    /// Which requests are said on stdout.
    pub access_log: Requests,
    /// How long a graceful stop or reload waits for open connections.
    pub shutdown_timeout: Duration,
    pub limits: Limits,
    /// What nginx may open: see [`Nginx::opens`]. Without one no link in the site is followed.
    pub sandbox: Option<Sandbox>,
}

#[derive(Debug, Error)]
pub enum PrepareError {
    #[error("{} cannot be written into nginx's configuration: use a path of plain text without $", .0.display())]
    Path(PathBuf),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Whether a path of its own is taken.
fn is_generated(name: &str) -> bool {
    name == "healthz" || GENERATED.iter().any(|(generated, _)| *generated == name)
}

impl Nginx {
    /// Makes the directories, which [`Nginx::opens`] needs. Before that it looks whether they can be named.
    pub fn make_directories(&self) -> Result<(), PrepareError> {
        for dir in [&self.dir, &self.run_dir] {
            quoted(dir)?;
            fs::create_dir_all(dir).map_err(|source| PrepareError::Write { path: dir.clone(), source })?;
        }
        Ok(())
    }

    /// Makes the directories and writes the configuration and `healthz`. May be called again before a reload. Looks through
    /// the whole site.
    pub fn prepare(&self) -> Result<(), PrepareError> {
        let conf = self.configuration()?;
        self.make_directories()?;
        write(&self.run_dir, "headers.conf", headers::ALL)?;
        write(&self.run_dir, "generated.conf", headers::GENERATED)?;
        write(&self.run_dir, "site.conf", headers::SITE)?;
        write(&self.run_dir, "types.conf", &types::directives())?;
        write(&self.run_dir, "caching.conf", &caching::directives(self.site.as_deref()))?;
        write(&self.run_dir, "nginx.conf", &conf)?;
        write(&self.dir, "healthz", HEALTHZ)
    }

    /// `nginx -t`: whether it would start with the configuration as it is written now.
    pub fn check(&self) -> Command {
        self.command(&["-t", "-q"])
    }

    /// Where to ask this nginx from inside: loopback when it listens on every address.
    pub fn own_address(&self) -> SocketAddr {
        let ip = if self.listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST } else { *self.listen.ip() };
        SocketAddr::from((ip, self.listen.port()))
    }

    /// How to run it: QUIT is graceful, TERM is fast, and both go to the master alone.
    pub fn child_spec(&self, on_exit: OnExit) -> ChildSpec {
        ChildSpec {
            command: self.command(&[]),
            check: Some(self.check()),
            port: Some(self.listen),
            audience: Audience::Child,
            graceful: Some(Signal::SIGQUIT),
            on_exit,
            back_off: BackOff::default(),
        }
    }

    fn command(&self, more: &[&str]) -> Command {
        let conf = self.run_dir.join("nginx.conf");
        let fixed: [&OsStr; 6] = [
            "-p".as_ref(),
            self.run_dir.as_os_str(),
            "-e".as_ref(),
            "stderr".as_ref(),
            "-c".as_ref(),
            conf.as_ref(),
        ];
        let command = Command::new(&self.program, fixed.into_iter().chain(more.iter().map(OsStr::new)));
        Command { sandbox: self.sandbox.clone(), ..command }
    }

    fn configuration(&self) -> Result<String, PrepareError> {
        let locations = self.locations()?;
        let listen = self.listen;
        let user = own_user();
        let pid = quoted(&self.run_dir.join("nginx.pid"))?;
        let bodies = quoted(&self.run_dir.join("bodies"))?;
        let shutdown = self.shutdown_timeout.as_millis();
        let zones = self.limits.zones();
        let requests = self.access_log.lines();
        let shell = self.shell();
        Ok(format!(
            "\
# Written by muster at each start: changes here are lost.
daemon off;
master_process on;
# One is plenty for small files from memory; the fleet grows by nodes.
worker_processes 1;
worker_shutdown_timeout {shutdown}ms;
# A file for each connection.
worker_rlimit_nofile 4096;
{user}pid {pid};
error_log stderr warn;
events {{
    # Twice the requests at once, so that a probe finds one when these are all taken; idle ones are closed when needed.
    worker_connections 2048;
}}
http {{
    # Before any other map, because it says how large they may be.
    include caching.conf;
    include types.conf;
{requests}    log_not_found off;
    client_body_temp_path {bodies};
    client_header_timeout 10s;
    # All that Envoy lets in, in one line if need be, with what it adds.
    large_client_header_buffers 4 20k;
    client_body_timeout 10s;
    client_max_body_size 1k;
    # Envoy gives a client up before that, and has the last word.
    send_timeout 180s;
    reset_timedout_connection on;
    # Longer than Envoy keeps an idle connection, so that it is never nginx that closes one under a request.
    keepalive_timeout 75s;
    sendfile on;
    tcp_nopush on;
    server_tokens off;
    absolute_redirect off;
    max_ranges 1;
    # A probe, an error and the start page of a small site are not worth it; a cache in front has to keep both forms apart.
    gzip on;
    gzip_min_length 1000;
    gzip_comp_level 5;
    gzip_proxied any;
    gzip_vary on;
{shell}{zones}    server {{
        # Envoy is near: a client of its that does not read should not cost megabytes here too.
        listen {listen} sndbuf=32k;
        # For what is refused before a location is known.
        include headers.conf;
{locations}    }}
}}
"
        ))
    }

    fn locations(&self) -> Result<String, PrepareError> {
        let dir = quoted(&self.dir)?;
        let mut text = String::new();
        let mut location = |path: &str, lines: &[String]| {
            text += &format!("        location {path} {{\n");
            for line in lines {
                text += &format!("            {line};\n");
            }
            text += "        }\n";
        };
        let limited = |lines: &[String]| [lines, &self.limits.lines()].concat();
        let generated = |content_type: &str| {
            vec![
                "include generated.conf".into(),
                format!("root {dir}"),
                format!("default_type \"{content_type}\""),
            ]
        };
        for (name, content_type) in GENERATED {
            let policy = if name == PAGE { self.page_policy.as_str() } else { NO_PAGE_POLICY };
            let mut lines = generated(content_type);
            lines.push(format!("add_header Content-Security-Policy \"{policy}\" always"));
            location(&format!("= /{name}"), &limited(&lines));
        }
        let mut healthz = generated("text/plain; charset=utf-8");
        healthz.push(format!("add_header Content-Security-Policy \"{NO_PAGE_POLICY}\" always"));
        healthz.push("access_log off".into());
        healthz.push(format!("add_header {INSTANCE_HEADER} \"{}\" always", self.instance));
        healthz.push(format!("add_header {FLEET_HEADER} \"{}\" always", self.prefix));
        location("= /healthz", &healthz);

        for (path, lines) in self.site_locations()? {
            location(&path, &limited(&lines));
        }
        Ok(text)
    }
}

/// Whether nginx's configuration can name a path: `$` would be a variable and has no escape.
pub fn can_name(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.is_empty() && !text.contains(|c: char| c == '$' || c.is_control()))
}

/// As root, workers would drop to a user chosen when nginx was built, who may not exist here or not read the files:
/// they stay who the agent is. Everywhere else the directive is refused anyway.
fn own_user() -> String {
    let names = || {
        let user = User::from_uid(geteuid()).ok()??;
        let group = Group::from_gid(getegid()).ok()??;
        Some(format!("user {} {};\n", user.name, group.name))
    };
    if geteuid().is_root() { names().unwrap_or_default() } else { String::new() }
}

/// A path as nginx reads it.
fn quoted(path: &Path) -> Result<String, PrepareError> {
    match path.to_str() {
        Some(text) if can_name(path) => Ok(format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))),
        _ => Err(PrepareError::Path(path.to_owned())),
    }
}

/// Replaces a file whole, readable for nginx's workers whatever the umask.
fn write(dir: &Path, name: &str, text: &str) -> Result<(), PrepareError> {
    let path = dir.join(name);
    let replace = || {
        let mut file = tempfile::Builder::new().prefix(".muster-").tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        file.persist(&path)?;
        Ok(())
    };
    replace().map_err(|source| PrepareError::Write { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_or_refused() {
        assert_eq!(quoted(Path::new("/srv/my site")).unwrap(), "\"/srv/my site\"");
        assert_eq!(quoted(Path::new(r#"/a"b\c;{"#)).unwrap(), r#""/a\"b\\c;{""#);
        for wrong in ["", "/srv/$host", "/srv/a\nb"] {
            assert!(matches!(quoted(Path::new(wrong)), Err(PrepareError::Path(_))), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_written_is_readable_for_others() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "healthz", HEALTHZ).unwrap();
        let path = dir.path().join("healthz");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_to_string(path).unwrap(), HEALTHZ);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }
}
