//! The built-in nginx: its configuration, its arguments, its identity.
//!
//! It serves the generated files, `/healthz` and nothing else; own static content may take over the rest of the paths.
//! nginx is built without the rewrite module and without PCRE, so there is no `return` and no regex location: what is
//! not served has a root that does not exist. Methods other than GET and HEAD meet the static module's own 405.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use askama::Template;
use nix::sys::signal::Signal;
use nix::unistd::{Group, User, getegid, geteuid};
use thiserror::Error;

use super::access_log::Requests;
use super::limits::Limits;
use super::site::Fallback;
use super::{caching, headers, types};
use crate::backoff::BackOff;
use crate::process::command::Command;
use crate::process::probe::{FLEET_HEADER, INSTANCE_HEADER};
use crate::process::sandbox::Sandbox;
use crate::process::service::{Audience, ChildSpec, OnExit};
use crate::replace::temporary;

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
    /// Own static content, already known to hold something: see [`super::holds_a_file`].
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

/// What `templates/nginx.conf` is filled with. Texts that end with a line's end may be empty.
#[derive(Template)]
#[template(path = "nginx.conf", escape = "none")]
struct Configuration {
    shutdown: Duration,
    user: String,
    pid: String,
    requests: String,
    bodies: String,
    shell: String,
    zones: String,
    listen: SocketAddrV4,
    locations: Vec<(String, Vec<String>)>,
}

#[derive(Debug, Error)]
pub enum PrepareError {
    #[error("{} cannot be written into nginx's configuration: use a path of plain text without $", .0.display())]
    Path(PathBuf),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Whether a path of its own is taken.
pub(super) fn is_generated(name: &str) -> bool {
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
        let mut command = Command::new(&self.program, fixed.into_iter().chain(more.iter().map(OsStr::new)));
        command.sandbox = self.sandbox.clone();
        command
    }

    fn configuration(&self) -> Result<String, PrepareError> {
        let conf = Configuration {
            shutdown: self.shutdown_timeout,
            user: own_user(),
            pid: quoted(&self.run_dir.join("nginx.pid"))?,
            requests: self.access_log.lines(),
            bodies: quoted(&self.run_dir.join("bodies"))?,
            shell: self.shell(),
            zones: self.limits.zones(),
            listen: self.listen,
            locations: self.locations()?,
        };
        Ok(conf.render().expect("rendering into memory does not fail"))
    }

    /// Each location by its path, with its directives.
    fn locations(&self) -> Result<Vec<(String, Vec<String>)>, PrepareError> {
        let dir = quoted(&self.dir)?;
        let generated = |content_type: &str, policy: &str| {
            vec![
                "include generated.conf".into(),
                format!("root {dir}"),
                format!("default_type \"{content_type}\""),
                format!("add_header Content-Security-Policy \"{policy}\" always"),
            ]
        };
        let limited = |lines: Vec<String>| lines.into_iter().chain(self.limits.lines()).collect();
        let mut locations = Vec::new();
        for (name, content_type) in GENERATED {
            let policy = if name == PAGE { self.page_policy.as_str() } else { NO_PAGE_POLICY };
            locations.push((format!("= /{name}"), limited(generated(content_type, policy))));
        }
        let mut healthz = generated("text/plain; charset=utf-8", NO_PAGE_POLICY);
        healthz.push("access_log off".into());
        healthz.push(format!("add_header {INSTANCE_HEADER} \"{}\" always", self.instance));
        healthz.push(format!("add_header {FLEET_HEADER} \"{}\" always", self.prefix));
        locations.push(("= /healthz".into(), healthz));
        locations.extend(self.site_locations()?.into_iter().map(|(path, lines)| (path, limited(lines))));
        Ok(locations)
    }
}

/// Whether nginx's configuration can name a path: `$` would be a variable and has no escape.
pub fn can_name(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.is_empty() && !text.contains(|c: char| c == '$' || c.is_control()))
}

/// As root, workers would drop to a user chosen when nginx was built, which may not exist here or not read the files:
/// they keep the agent's user. Everywhere else the directive is refused anyway.
fn own_user() -> String {
    let names = || {
        let user = User::from_uid(geteuid()).ok()??;
        let group = Group::from_gid(getegid()).ok()??;
        Some(format!("user {} {};\n", user.name, group.name))
    };
    if geteuid().is_root() { names().unwrap_or_default() } else { String::new() }
}

/// A path as nginx reads it.
pub(super) fn quoted(path: &Path) -> Result<String, PrepareError> {
    match path.to_str() {
        Some(text) if can_name(path) => Ok(format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))),
        _ => Err(PrepareError::Path(path.to_owned())),
    }
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), PrepareError> {
    let path = dir.join(name);
    let replace = || temporary(dir, text.as_bytes())?.persist(&path).map(drop).map_err(|error| error.error);
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
}
