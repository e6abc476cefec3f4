//! Access logs: which requests Envoy and nginx say in each mode, and the id that joins their lines.

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testbed::{Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(30);
const SPOOFED: &str = "evil";
/// What the test asks for, and the answer. The testbed itself asks for files without the word behind the mark.
const GOOD: (&str, u16) = ("/ips.txt?asked", 200);
const BAD: (&str, u16) = ("/missing?asked=\"b", 404);

/// The status of one request whose id the client has made up.
async fn ask(edge: SocketAddrV4, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(edge).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: f\r\nConnection: close\r\nX-Request-Id: {SPOOFED}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.split(' ').nth(1).context("a status")?.parse()?)
}

/// The lines of these requests in the logs of Envoy and of the first node, as they stand there.
fn said(logs: &Path) -> anyhow::Result<[Vec<String>; 2]> {
    let read = |name: &str| -> anyhow::Result<Vec<String>> {
        let text = std::fs::read_to_string(logs.join(name))?;
        let of_requests =
            text.lines().filter(|line| line.contains("\"event\":\"request\"") && line.contains("?asked"));
        Ok(of_requests.map(str::to_owned).collect())
    };
    Ok([read("envoy1.log")?, read("node1.log")?])
}

fn paths(lines: &[String]) -> anyhow::Result<Vec<String>> {
    let path = |line: &String| -> anyhow::Result<String> {
        Ok(serde_json::from_str::<Value>(line)?["path"].as_str().context("a path")?.to_owned())
    };
    lines.iter().map(path).collect()
}

/// One node in this mode; then a request that is answered and one that is not, and what was said when both parts have
/// ended.
async fn lines(mode: &str) -> anyhow::Result<[Vec<String>; 2]> {
    let mut found = <[Vec<String>; 2]>::default();
    let bed = Testbed::builder().etcd(1).nodes(1).agent_arg(format!("--access-log={mode}"));
    bed.run(async |bed| {
        let (edge, log) = (bed.envoy().edge, bed.node(1).agent()?.log);
        for (path, status) in [GOOD, BAD] {
            ensure!(ask(edge, path).await? == status, "{path}");
        }
        // At its end Envoy writes what it still holds.
        let envoy = bed.envoy();
        kill(Pid::from_raw(envoy.pid().context("Envoy runs")?), Signal::SIGTERM)?;
        eventually(SOON, "Envoy has ended", async || {
            ensure!(envoy.pid().is_none(), "it runs");
            Ok(())
        })
        .await?;
        bed.stop_node(1).await?;
        found = said(log.parent().context("a directory")?)?;
        Ok(())
    })
    .await?;
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_say_each_request_under_one_id_that_no_client_has_chosen() -> anyhow::Result<()> {
    let [envoy, nginx] = lines("all").await?;
    for all in [&envoy, &nginx] {
        ensure!(paths(all)? == [GOOD.0, BAD.0], "{all:#?}");
        ensure!(!all.iter().any(|line| line.contains(SPOOFED)), "{all:#?}");
    }
    for at in 0..2 {
        let [at_envoy, at_nginx]: [Value; 2] =
            [serde_json::from_str(&envoy[at])?, serde_json::from_str(&nginx[at])?];
        let id = at_envoy["request_id"].as_str().context("an id")?;
        ensure!(id.len() == 36, "{id}");
        // What the README's grep finds: this request, at both, and no other.
        let wanted = format!("\"request_id\":\"{id}\"");
        let found: Vec<&String> = envoy.iter().chain(&nginx).filter(|line| line.contains(&wanted)).collect();
        ensure!(found == [&envoy[at], &nginx[at]], "{envoy:#?}\n{nginx:#?}");
        for same in ["level", "method", "status"] {
            ensure!(!at_envoy[same].is_null() && at_envoy[same] == at_nginx[same], "{same}");
        }
        ensure!(at_envoy["status"].is_u64() && at_envoy["bytes"].is_u64() && at_nginx["bytes"].is_u64());
        ensure!(at_envoy["duration_ms"].is_u64() && at_nginx["duration_s"].is_f64());
        let served = at_nginx["served"].as_str().context("who served")?;
        ensure!(at_envoy["upstream"].as_str().is_some_and(|upstream| upstream.starts_with(served)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_only_what_failed_is_said() -> anyhow::Result<()> {
    let [envoy, nginx] = lines("errors").await?;
    ensure!(paths(&envoy)? == [BAD.0], "{envoy:#?}");
    ensure!(paths(&nginx)? == [BAD.0], "{nginx:#?}");
    let id = serde_json::from_str::<Value>(&envoy[0])?["request_id"].to_string();
    ensure!(id != "null" && nginx[0].contains(&id), "{envoy:#?}\n{nginx:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_when_nothing_is_wanted() -> anyhow::Result<()> {
    let said = lines("off").await?;
    ensure!(said == <[Vec<String>; 2]>::default(), "{said:#?}");
    Ok(())
}
