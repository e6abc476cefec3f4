//! Memory of many agents: each with a sleeping command in place of nginx.

use std::fmt;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use testbed::{Testbed, eventually, tree};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Agents of the first reading, from which the growth is counted.
const FEW: u8 = 50;

/// Memory in KiB.
#[derive(Serialize)]
pub struct Crowd {
    agents: u8,
    /// How many of them the first agent lists: fewer when the machine is too busy for all their probes.
    listed: usize,
    /// Highest of any agent at any time.
    peak_rss_kib: u64,
    leader_rss_kib: u64,
    /// The leader with the first 50 agents.
    leader_rss_kib_with_few: u64,
    /// What each further node costs on the leader.
    leader_kib_per_node: f64,
}

/// # Errors
/// When the agents do not all register in time.
pub async fn measure(agents: u8) -> anyhow::Result<Crowd> {
    // Each agent passes through the testbed's own proxies with several connections.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ready_url = format!("http://{}/", listener.local_addr()?);
    let answering = tokio::spawn(always_ready(listener));
    let mut bed = Testbed::builder()
        .etcd(1)
        .nodes(0)
        // It would spend its time on health checks of addresses where nobody listens.
        .envoys(0)
        // Renewals of all agents on a few cores must not decide who stays.
        .ttl(Duration::from_secs(20))
        .agent_arg(format!("--ready-url={ready_url}"))
        .command(&["/bin/sleep", "infinity"])
        .start()
        .await?;
    let measured = grow(&mut bed, agents).await;
    answering.abort();
    measured.inspect_err(|_| bed.keep_logs())
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} agents without nginx, {} listed: peak RSS {} KiB; leader {} KiB, {:.1} KiB for each node above {FEW}   mark < 60",
            self.agents, self.listed, self.peak_rss_kib, self.leader_rss_kib, self.leader_kib_per_node
        )
    }
}

async fn grow(bed: &mut Testbed, agents: u8) -> anyhow::Result<Crowd> {
    let few = FEW.min(agents);
    fill(bed, few).await?;
    // A crowd only grows, so who leads the first leads all.
    let leader = bed.node(bed.leader().await?).agent()?.pid;
    let leader_few = tree::usage(leader)?.rss_kib;
    // What they hold is measured all the same when not all could be listed.
    let filled = fill(bed, agents).await;
    let agents = u8::try_from(bed.nodes().len())?;
    let listed = match filled {
        Ok(()) => usize::from(agents),
        Err(_) => bed.node(1).list_on_disk()?.says.count,
    };
    let leader_all = tree::usage(leader)?.rss_kib;
    let mut peak = 0;
    for node in bed.nodes() {
        peak = peak.max(tree::usage(node.agent()?.pid)?.peak_rss_kib);
    }
    let grown = f64::from(agents - few).max(1.0);
    Ok(Crowd {
        agents,
        listed,
        peak_rss_kib: peak,
        leader_rss_kib: leader_all,
        leader_rss_kib_with_few: leader_few,
        leader_kib_per_node: (leader_all as f64 - leader_few as f64) / grown,
    })
}

/// Ten at a time: a crowd that starts at once measures the machine.
async fn fill(bed: &mut Testbed, agents: u8) -> anyhow::Result<()> {
    while bed.nodes().len() < usize::from(agents) {
        for _ in 0..10.min(usize::from(agents) - bed.nodes().len()) {
            bed.add_node().await?;
        }
        let wanted = bed.nodes().len();
        // One node's file stands for all: asking each, or etcd by etcdctl, would be the larger part of the load.
        let first = bed.node(1);
        eventually(Duration::from_secs(60), "all agents are listed", async || {
            let listed = first.list_on_disk()?.says.count;
            anyhow::ensure!(listed == wanted, "{} lists {listed} of {wanted}", first.name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn always_ready(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}
