//! The process that the node exists for, before its start: nginx or a COMMAND.

use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use nix::errno::Errno;
use tokio::time::sleep;
use tracing::info;

use super::Unusable;
use crate::config::RunFlags;
use crate::nginx::{Limits, Nginx, PrepareError, holds_a_file};
use crate::process::command::{Command, Exit};
use crate::process::probe::local_address;
use crate::process::readiness::Question;
use crate::process::sandbox::Sandbox;
use crate::process::service::{CHECK_BOUND, ChildSpec, Service};
use crate::process::supervisor::Supervisor;
use crate::process::{ServiceTask, try_port};

/// How long nginx's port may stay taken at the start, and how often it is tried.
const PORT_BOUND: Duration = Duration::from_secs(2);
const PORT_STEP: Duration = Duration::from_millis(20);

/// The process this node exists for, not started yet, and how to ask whether it answers.
pub(super) async fn served(
    flags: &RunFlags,
    instance: &str,
    supervisor: Supervisor,
) -> Result<(Option<Nginx>, Service, ServiceTask, Question)> {
    if let [program, args @ ..] = &flags.command[..] {
        let mut command = Command::new(program, args);
        // Its answers have to carry the instance, or it is taken for a stranger.
        command.env.push(("MUSTER_INSTANCE".into(), instance.into()));
        let (served, life) = Service::new(supervisor, ChildSpec::command(command, flags.on_exit()));
        let question = flags.ready_url.clone().map_or(Question::Nothing, Question::Url);
        return Ok((None, served, life, question));
    }
    let listen = SocketAddrV4::new(flags.listen, flags.http_port);
    let mut nginx = Nginx {
        program: flags.nginx.clone(),
        listen,
        dir: flags.dir.clone(),
        site: holds_a_file(&flags.site).then(|| flags.site.clone()),
        fallback: flags.fallback.clone(),
        run_dir: flags.run_dir.clone(),
        instance: instance.to_owned(),
        prefix: flags.registry.prefix.clone(),
        page_policy: crate::page::content_security_policy(),
        access_log: flags.access_log.of_nginx().if_possible(),
        shutdown_timeout: flags.stop_grace,
        limits: Limits::default(),
        sandbox: None,
    };
    wait_for_port(listen).await?;
    nginx.make_directories().map_err(unusable)?;
    if let Err(why) = enter_sandbox(&mut nginx, &supervisor).await? {
        info!(
            name: "nginx-runs-without-a-sandbox",
            why,
            "nginx runs without a sandbox: no link in the site is followed"
        );
        nginx.sandbox = None;
        prepare(&nginx)?;
    }
    let (served, life) = Service::new(supervisor, nginx.child_spec(flags.on_exit()));
    let address = local_address(flags.listen, flags.http_port);
    let question = Question::Healthz { address, instance: instance.to_owned() };
    Ok((Some(nginx), served, life, question))
}

fn prepare(nginx: &Nginx) -> Result<()> {
    Ok(nginx.prepare().map_err(unusable)?)
}

fn unusable(error: PrepareError) -> Unusable {
    Unusable(format!("{error} (--dir, --run-dir, --site)"))
}

/// A site that holds the agent's keys, or below which they are mounted once more, would publish them.
pub(super) fn refuse_a_site_with_keys(flags: &RunFlags) -> Result<()> {
    let found = |dir: &Path| dir.canonicalize().ok();
    let keys = flags.registry.tls_dir.as_deref().and_then(found);
    let (Some(site), Some(keys)) = (found(&flags.site), keys) else { return Ok(()) };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mount_points(&mounts).find(|at| at.starts_with(&site) && is_or_holds(at, &keys));
    let Some(at) = Some(keys).filter(|keys| keys.starts_with(&site)).or(mounted) else { return Ok(()) };
    Err(Unusable(format!(
        "--site {} would publish the keys of --tls-dir, which are in {}: keep them elsewhere",
        flags.site.display(),
        at.display()
    ))
    .into())
}

/// Whether `dir` is, by another path, `inner` or a directory above it.
fn is_or_holds(dir: &Path, inner: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let dir = identity(dir);
    dir.is_some() && inner.ancestors().any(|above| identity(above) == dir)
}

/// Of the lines of proc_pid_mountinfo(5): the fifth field, in which blanks are octal.
fn mount_points(mounts: &str) -> impl Iterator<Item = PathBuf> {
    let fields = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    fields
        .map(|field| PathBuf::from(field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
}

/// Gives nginx a sandbox and tries whether it starts in it. The inner error is why it does not: a kernel without Landlock, an
/// nginx with libraries, or root, for whom nginx looks its user up in /etc. A list of such reasons would never be complete.
async fn enter_sandbox(nginx: &mut Nginx, supervisor: &Supervisor) -> Result<Result<(), String>> {
    match Sandbox::new(&nginx.opens()) {
        Ok(sandbox) => nginx.sandbox = Some(sandbox),
        Err(why) => return Ok(Err(why.to_string())),
    }
    prepare(nginx)?;
    Ok(match supervisor.output(nginx.check(), CHECK_BOUND).await {
        Ok(output) if output.exit == Some(Exit::Code(0)) => Ok(()),
        Ok(output) => Err(output.text.trim().to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

/// What a predecessor left behind may hold nginx's port for a moment; anybody else keeps it.
async fn wait_for_port(port: SocketAddrV4) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PORT_BOUND;
    loop {
        match try_port(port) {
            Ok(()) => return Ok(()),
            Err(Errno::EADDRINUSE) if tokio::time::Instant::now() < deadline => sleep(PORT_STEP).await,
            Err(errno) => bail!("nginx cannot listen on {port} (--listen, --http-port): {}", errno.desc()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_what_they_are_and_not_by_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("pki/agent/generation-1");
        fs::create_dir_all(&keys).unwrap();
        assert!(is_or_holds(&dir.path().join("pki/../pki/agent"), &keys));
        assert!(is_or_holds(&keys, &keys));
        assert!(!is_or_holds(&dir.path().join("missing"), &keys));
        fs::create_dir(dir.path().join("site")).unwrap();
        assert!(!is_or_holds(&dir.path().join("site"), &keys));
    }

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let line = "36 35 98:0 /mnt1 /srv/my\\040site\\134x rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n";
        let read: Vec<PathBuf> = mount_points(line).collect();
        assert_eq!(read, [PathBuf::from("/srv/my site\\x")]);
        assert!(
            mount_points(&fs::read_to_string("/proc/self/mountinfo").unwrap()).any(|at| at == Path::new("/"))
        );
    }
}
