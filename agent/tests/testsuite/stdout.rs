//! A node whose standard output nginx cannot open by its name, as under an init that gives it a socket.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::part::part;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn nginx_serves_without_an_access_log_when_stdout_is_a_socket() {
    let Some(nginx) = part("nginx") else { return };
    let dir = tempfile::tempdir().unwrap();
    let ip = crate::address::own().to_string();
    let (here, there) = UnixStream::pair().unwrap();
    here.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["run", "--etcd", "http://127.0.0.1:9", "--listen", &ip, "--allow", "127.0.0.0/8"])
        .args(["--access-log", "all", "--log-format", "json", "--nginx"])
        .arg(nginx)
        .args(["--dir".as_ref(), dir.path().join("files").as_os_str()])
        .args(["--run-dir".as_ref(), dir.path().join("run").as_os_str()])
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(there))
        .spawn()
        .unwrap();
    let mut events = Vec::new();
    for line in BufReader::new(here).lines() {
        let Ok(line) = line else { break };
        let line: Value = serde_json::from_str(&line).expect("a log line is JSON");
        events.push(line["event"].as_str().expect("an event").to_owned());
        if events.last().is_some_and(|event| event == "answering" || event == "served-process-ended") {
            break;
        }
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    agent.wait().unwrap();
    assert!(events.iter().any(|event| event == "no-access-log"), "{events:?}");
    assert!(events.iter().any(|event| event == "answering"), "{events:?}");
}
