//! Whatever one flag alone cannot tell, checked before a port is opened or a file is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::{
    Advertise, Allow, CheckFlags, Cli, CliCommand, DrainFlags, Endpoint, EventsFlags, MAX_ENDPOINTS,
    MarkFlags, OnExit, PkiCommand, RegistryFlags, RunFlags, StatusFlags, SwitchoverFlags, VerifyFlags,
    WaitFlags, not_publishable,
};
use crate::fleet::KeySpace;
use crate::nginx::can_name;

impl Cli {
    /// # Errors
    /// A sentence that names the flags, what is wrong and what to do.
    pub fn validate(&self) -> Result<(), String> {
        match &self.command {
            CliCommand::Run(flags) => flags.validate(),
            CliCommand::Status(flags) if flags.watch.is_some_and(|every| every.is_zero()) => {
                Err("--watch: expected whole seconds from 1 to 600, such as 2".into())
            }
            CliCommand::Status(StatusFlags { fleet, .. })
            | CliCommand::Events(EventsFlags { fleet, .. })
            | CliCommand::Verify(VerifyFlags { fleet, .. })
            | CliCommand::Check(CheckFlags { fleet, .. })
            | CliCommand::Drain(DrainFlags { mark: MarkFlags { fleet, .. }, .. })
            | CliCommand::Resume(MarkFlags { fleet, .. })
            | CliCommand::Switchover(SwitchoverFlags { fleet, .. })
            | CliCommand::Wait(WaitFlags { fleet, .. }) => endpoints(&fleet.registry),
            CliCommand::Pki(PkiCommand::EtcdAuth { registry, .. }) => root_of_etcd(registry),
            CliCommand::Pki(command) => members(command),
            CliCommand::Edge(_)
            | CliCommand::Healthcheck(_)
            | CliCommand::Version
            | CliCommand::Completion { .. } => Ok(()),
        }
    }
}

impl RunFlags {
    fn validate(&self) -> Result<(), String> {
        endpoints(&self.registry)?;
        let ports = [self.http_port, self.control_port, self.metrics_port];
        if ports[0] == ports[1] || ports[1] == ports[2] || ports[0] == ports[2] {
            return Err(format!(
                "--http-port, --control-port and --metrics-port must differ, such as 8080, 18000 and 9464, and are {}, {} and {}",
                ports[0], ports[1], ports[2]
            ));
        }
        if self.edge_tls == Some(self.edge) {
            return Err(format!(
                "--edge and --edge-tls must differ, such as 0.0.0.0:8080 and 0.0.0.0:8443, and are both {}",
                self.edge
            ));
        }
        if self.edge_tls_port.is_some() && self.edge_tls.is_none() {
            return Err("--edge-tls-port needs --edge-tls, such as 0.0.0.0:8443".into());
        }
        if self.ready_url.is_some() && self.command.is_empty() {
            return Err("--ready-url needs a COMMAND, such as `-- node server.js`; the built-in nginx is asked at /healthz".into());
        }
        self.directories()?;
        if let Some(Advertise::Ip(ip)) = self.advertise {
            let allow = self.allow.iter().filter_map(Allow::network).collect();
            let has_own = self.allow.contains(&Allow::Own);
            if !has_own && !KeySpace::new(&*self.registry.prefix, allow).allows(ip) {
                return Err(format!("--advertise: {}", not_publishable(ip, &self.allow)));
            }
        }
        Ok(())
    }

    /// A COMMAND has no use for nginx's directories, and the defaults may be out of its user's reach.
    fn directories(&self) -> Result<(), String> {
        if !self.command.is_empty() {
            return written("--dir", &self.dir);
        }
        for (flag, path) in [("--dir", &self.dir), ("--run-dir", &self.run_dir), ("--site", &self.site)] {
            if !can_name(path) {
                return Err(format!(
                    "{flag} `{}` cannot be written into nginx's configuration; expected plain text without $, such as /srv/muster",
                    path.display().to_string().escape_debug()
                ));
            }
        }
        written("--dir", &self.dir)?;
        written("--run-dir", &self.run_dir)?;
        read("--site", &self.site)?;
        let (dir, run_dir, site) = (real(&self.dir), real(&self.run_dir), real(&self.site));
        // The site is served whole, and muster rewrites what is in the other two.
        if dir == run_dir || dir.starts_with(&site) || run_dir.starts_with(&site) {
            return Err(format!(
                "--dir `{}`, --run-dir `{}` and --site `{}` must be directories of their own, such as /srv/muster, /run/muster and /srv/site",
                self.dir.display(),
                self.run_dir.display(),
                self.site.display()
            ));
        }
        Ok(())
    }

    pub fn on_exit(&self) -> OnExit {
        self.on_exit.unwrap_or(if self.command.is_empty() { OnExit::Restart } else { OnExit::Exit })
    }

    pub fn drain_timeout(&self) -> Duration {
        let bound = self.drain_timeout.unwrap_or(self.ttl + Duration::from_secs(2));
        bound.min(self.stop_grace.saturating_sub(super::GRACE_MARGIN))
    }
}

fn endpoints(registry: &RegistryFlags) -> Result<(), String> {
    let endpoints: &[Endpoint] = &registry.etcd;
    let secure = registry.tls_dir.is_some();
    if let Some(other) = endpoints.iter().find(|endpoint| endpoint.secure != secure) {
        return Err(match secure {
            true => format!(
                "--tls-dir is given and --etcd names {other} without TLS; expected https://HOST:PORT, such as https://etcd1:2379"
            ),
            false => format!(
                "--etcd asks for TLS at {other}; expected --tls-dir with the certificates for it, such as /pki/agent/current"
            ),
        });
    }
    if endpoints.len() > MAX_ENDPOINTS {
        return Err(format!(
            "--etcd takes at most {MAX_ENDPOINTS} endpoints, such as http://etcd1:2379,http://etcd2:2379, and {} were given",
            endpoints.len()
        ));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        if endpoints[..at].contains(endpoint) {
            return Err(format!(
                "--etcd names {endpoint} twice; expected each member once, such as http://etcd1:2379,http://etcd2:2379"
            ));
        }
    }
    Ok(())
}

/// Without TLS etcd cannot tell its clients apart, so users and roles would lock out all of them.
fn root_of_etcd(registry: &RegistryFlags) -> Result<(), String> {
    if registry.tls_dir.is_none() {
        return Err(
            "etcd-auth needs --tls-dir with the certificate of etcd's root, such as /pki/etcd-root/current"
                .into(),
        );
    }
    endpoints(registry)
}

fn members(command: &PkiCommand) -> Result<(), String> {
    let (PkiCommand::Init { members, .. } | PkiCommand::Renew { members, .. }) = command else {
        return Ok(());
    };
    for (at, member) in members.iter().enumerate() {
        if members[..at].iter().any(|other| other.name == member.name) {
            return Err(format!(
                "--members names {} twice; expected each member once, such as etcd1,etcd2,etcd3",
                member.name
            ));
        }
    }
    Ok(())
}

/// A directory that can be written, or be made where it is missing.
fn written(flag: &str, path: &Path) -> Result<(), String> {
    let found = is_there(flag, path)?;
    let nearest = if found { Some(path) } else { path.ancestors().find(|above| above.exists()) };
    let may = nearest.map_or(Ok(()), |nearest| access(nearest, AccessFlags::W_OK | AccessFlags::X_OK));
    may.map_err(|errno| unfit(flag, path, &format!("cannot be written: {}", errno.desc())))
}

/// A directory that can be read, or none.
fn read(flag: &str, path: &Path) -> Result<(), String> {
    if !is_there(flag, path)? {
        return Ok(());
    }
    let may = access(path, AccessFlags::R_OK | AccessFlags::X_OK);
    may.map_err(|errno| unfit(flag, path, &format!("cannot be read: {}", errno.desc())))
}

fn is_there(flag: &str, path: &Path) -> Result<bool, String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(unfit(flag, path, "is not a directory")),
        Err(_) if path.is_symlink() => Err(unfit(flag, path, "is a symbolic link to nothing")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unfit(flag, path, &format!("cannot be reached: {error}"))),
    }
}

fn unfit(flag: &str, path: &Path, why: &str) -> String {
    let kind = if flag == "--site" { "read" } else { "written, or made where it is missing" };
    format!("{flag} `{}` {why}; expected a directory that can be {kind}, such as /srv/muster", path.display())
}

/// Where a path leads. One that is not there yet leads where it says.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
