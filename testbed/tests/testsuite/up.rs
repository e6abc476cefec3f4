//! `testbed up`, as people type it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::{eventually, http, tree};

const PATIENCE: Duration = Duration::from_secs(30);

struct Up {
    child: Child,
    lines: mpsc::Receiver<String>,
    edge: SocketAddrV4,
}

impl Up {
    fn start(nodes: u8) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_testbed"))
            .args([
                "up",
                "--etcd",
                "1",
                "--nodes",
                &nodes.to_string(),
                "--port",
                &port.to_string(),
                "--ttl",
                "2",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (line, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|read| line.send(read)));
        let up = Self { child, lines, edge: SocketAddrV4::new([127, 0, 0, 1].into(), port) };
        up.until("Try it")?;
        Ok(up)
    }

    fn until(&self, wanted: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(wanted) {
                return Ok(());
            }
            seen.push(line);
        }
        bail!("never said {wanted:?}, but {seen:#?}")
    }

    fn say(&mut self, words: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.child.stdin.as_mut().context("no input")?, "{words}")?)
    }

    fn processes(&self) -> anyhow::Result<Vec<i32>> {
        Ok(tree::descendants(i32::try_from(self.child.id())?))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        eventually(PATIENCE, "it ends", async || self.child.try_wait()?.context("it runs")).await
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Its keeper ends the rest.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn alive(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn words_change_the_fleet_and_quit_ends_it() -> anyhow::Result<()> {
    let mut up = Up::start(2)?;
    up.say("add")?;
    up.until("3 listed")?;
    let list: serde_json::Value = serde_json::from_slice(&http::body(up.edge, "/ips.json").await?)?;
    ensure!(list["count"] == 3, "{list}");
    up.say("kill leader")?;
    up.until("2 listed")?;
    up.say("stop node9")?;
    up.until("there is no node node9")?;
    let processes = up.processes()?;
    up.say("quit")?;
    ensure!(up.ended().await?.success());
    let left: Vec<_> = processes.into_iter().filter(|pid| alive(*pid)).collect();
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[tokio::test]
async fn ctrl_c_and_a_kill_leave_nothing_behind() -> anyhow::Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut up = Up::start(1)?;
        let processes = up.processes()?;
        // The keeper, etcd, Envoy, the agent, nginx and its worker.
        ensure!(processes.len() >= 6, "only {processes:?}");
        up.signal(signal)?;
        let status = up.ended().await?;
        ensure!(status.success() == (signal == Signal::SIGINT), "{signal}: {status}");
        eventually(PATIENCE, "every process is gone", async || {
            let left: Vec<_> = processes.iter().filter(|pid| alive(**pid)).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[test]
fn bad_arguments_are_refused_with_what_is_allowed() -> anyhow::Result<()> {
    for (args, allowed) in [
        (["--nodes", "201"], "1..=200"),
        (["--etcd", "2"], "1, 3"),
        (["--port", "0"], "1..=65535"),
        (["--ttl", "1"], "2..=60"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_testbed")).arg("up").args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && said.contains(allowed), "{args:?}: {said}");
    }
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_testbed")).args(["up", "--port", &port]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("is taken; choose another"), "{said}");
    Ok(())
}
