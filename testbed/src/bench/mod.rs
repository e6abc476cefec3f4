//! `testbed bench`: how long each thing takes and what it costs, in one run, as a table and as JSON.

mod crowd;
mod roll;
mod times;

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use testbed::http;
use testbed::node::Node;
use testbed::{Testbed, tree};
use tokio::time::sleep;

use crowd::Crowd;
use times::{Quantiles, Times, until};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Bench {
    /// How often each event is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Agents in the test of memory; 0 leaves it out, and `status` with 1,000 nodes too
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u8).range(0..=200))]
    crowd: u8,
    /// Time to live of the nodes' leases, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=60))]
    ttl: u64,
    /// With TLS everywhere, as containers have it; the crowd stays without
    #[arg(long)]
    tls: bool,
    /// Which requests nginx and Envoy log: all, errors or off
    #[arg(long, env = "MUSTER_ACCESS_LOG", default_value = "errors")]
    access_log: String,
    /// Print JSON only
    #[arg(long)]
    json: bool,
}

/// Times are in seconds, memory in KiB.
#[derive(Serialize)]
struct Report {
    cores: usize,
    ttl_seconds: u64,
    tls: bool,
    access_log: String,
    /// From nginx's first 200 to the first answer of this node through Envoy.
    join_from_ready: Times,
    /// The same from the start of the agent's process.
    join_from_start: Times,
    /// From SIGTERM to gone from every other list.
    leave: Times,
    /// From SIGKILL to gone from every other list.
    kill: Times,
    /// From SIGKILL of the leader to a node started at that moment being known to Envoy.
    leader_kill: Times,
    /// From the watch event to the renamed file, by the agents' own histogram.
    event_to_file: Option<Quantiles>,
    follower_rss_kib: u64,
    leader_rss_kib: u64,
    /// Per cent of one core, mean over all idle agents.
    idle_cpu_percent: f64,
    crowd: Option<Crowd>,
    /// `muster status` from its start to its end; not with TLS.
    status: Option<Times>,
    status_of_1000: Option<Times>,
}

/// # Errors
/// The first thing that does not happen in time.
pub async fn bench(wanted: Bench) -> anyhow::Result<()> {
    let builder = Testbed::builder()
        .ttl(Duration::from_secs(wanted.ttl))
        .agent_arg(format!("--access-log={}", wanted.access_log));
    let builder = if wanted.tls { builder.tls() } else { builder };
    let mut bed = builder.start().await?;
    let measured = measure(&mut bed, &wanted).await;
    let mut report = measured.inspect_err(|_| bed.keep_logs())?;
    drop(bed);
    if wanted.crowd > 0 {
        report.crowd = Some(crowd::measure(wanted.crowd).await?);
        report.status_of_1000 = Some(roll::measure(wanted.rounds).await?);
    }
    if !wanted.json {
        print(&report);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn measure(bed: &mut Testbed, wanted: &Bench) -> anyhow::Result<Report> {
    bed.complete(PATIENCE).await?;
    let idle_cpu_percent = idle_cpu(bed).await?;
    let leader = bed.leader().await?;
    let leader_rss_kib = tree::usage(bed.node(leader).agent()?.pid)?.rss_kib;
    let follower = bed.follower().await?;
    let follower_rss_kib = tree::usage(bed.node(follower).agent()?.pid)?.rss_kib;

    let status = if wanted.tls { None } else { Some(roll::status(bed, wanted.rounds).await?) };

    let guest = bed.add_node().await?;
    bed.complete(PATIENCE).await?;
    let (mut from_ready, mut from_start, mut leave, mut kill) = (vec![], vec![], vec![], vec![]);
    for _ in 0..wanted.rounds {
        leave.push(gone(bed, guest, nix::sys::signal::Signal::SIGTERM).await?);
        let (ready, start) = join(bed, guest).await?;
        from_ready.push(ready);
        from_start.push(start);
        bed.complete(PATIENCE).await?;
        kill.push(gone(bed, guest, nix::sys::signal::Signal::SIGKILL).await?);
        bed.start_node(guest)?;
        bed.complete(PATIENCE).await?;
    }
    // Before a leader is killed, so that the histograms of all nodes are there.
    let event_to_file = times::event_to_file(bed.nodes()).await;
    let mut leader_kill = vec![];
    for _ in 0..wanted.rounds {
        leader_kill.push(lose_leader(bed).await?);
    }
    Ok(Report {
        cores: std::thread::available_parallelism()?.get(),
        ttl_seconds: wanted.ttl,
        tls: wanted.tls,
        access_log: wanted.access_log.clone(),
        join_from_ready: from_ready.into(),
        join_from_start: from_start.into(),
        leave: leave.into(),
        kill: kill.into(),
        leader_kill: leader_kill.into(),
        event_to_file,
        follower_rss_kib,
        leader_rss_kib,
        idle_cpu_percent,
        crowd: None,
        status,
        status_of_1000: None,
    })
}

/// Starts a node; returns the time to its first answer through Envoy since its nginx was ready and since its start.
async fn join(bed: &Testbed, number: u8) -> anyhow::Result<(Duration, Duration)> {
    let start = Instant::now();
    bed.start_node(number)?;
    let node = bed.node(number);
    until(PATIENCE, "nginx answers", async || {
        http::body(node.http, "/healthz").await?;
        Ok(())
    })
    .await?;
    let ready = Instant::now();
    until(PATIENCE, "an answer through Envoy", async || {
        let answer = bed.envoy().get("/ips.json").await?;
        anyhow::ensure!(answer.header("x-served-by") == node.ip.to_string(), "served by another");
        Ok(())
    })
    .await?;
    Ok((ready.elapsed(), start.elapsed()))
}

/// Signals a node; returns the time until no other node lists it.
async fn gone(bed: &Testbed, number: u8, how: nix::sys::signal::Signal) -> anyhow::Result<Duration> {
    let (node, agent) = (bed.node(number), bed.node(number).agent()?);
    let start = Instant::now();
    match how {
        nix::sys::signal::Signal::SIGKILL => agent.signal_tree(how),
        other => agent.signal(other),
    }
    let others: Vec<&Node> =
        bed.nodes().iter().filter(|other| other.number != number && other.is_up()).collect();
    until(PATIENCE, "gone from every list", async || {
        for other in &others {
            anyhow::ensure!(!other.list().await?.says.ips.contains(&node.ip), "{} lists it", other.name);
        }
        Ok(())
    })
    .await?;
    let took = start.elapsed();
    node.ended().await?;
    Ok(took)
}

/// Kills the leader and starts a node at the same moment; returns the time until Envoy knows the node.
async fn lose_leader(bed: &mut Testbed) -> anyhow::Result<Duration> {
    let leader = bed.leader().await?;
    let start = Instant::now();
    bed.node(leader).agent()?.signal_tree(nix::sys::signal::Signal::SIGKILL);
    let added = bed.add_node().await?;
    let ip = bed.node(added).ip;
    until(PATIENCE, "Envoy knows the new node", async || {
        anyhow::ensure!(bed.envoy().endpoints().await?.contains(&ip), "unknown to Envoy");
        Ok(())
    })
    .await?;
    let took = start.elapsed();
    bed.node(leader).ended().await?;
    // Back to as many nodes as before, and quiet.
    bed.start_node(leader)?;
    bed.stop_node(added).await?;
    bed.complete(PATIENCE).await?;
    Ok(took)
}

async fn idle_cpu(bed: &Testbed) -> anyhow::Result<f64> {
    let agents = bed.nodes().iter().map(Node::agent).collect::<anyhow::Result<Vec<_>>>()?;
    let used = || -> anyhow::Result<Duration> {
        agents.iter().map(|agent| Ok(tree::usage(agent.pid)?.cpu)).sum::<anyhow::Result<Duration>>()
    };
    // A whole number of renewals and keepalives.
    let window = Duration::from_secs(10);
    let before = used()?;
    sleep(window).await;
    let agents_used = used()?.checked_sub(before).context("an agent ended while idle")?;
    Ok(100.0 * agents_used.as_secs_f64() / window.as_secs_f64() / agents.len() as f64)
}

fn print(report: &Report) {
    let tls = if report.tls { "with TLS" } else { "without TLS" };
    println!("{tls}, access logs: {}", report.access_log);
    println!("{:<46} {:>9} {:>9} {:>9}   mark", "seconds", "min", "p50", "max");
    let rows = [
        ("nginx answers -> first request through Envoy", &report.join_from_ready, "< 0.3"),
        ("process start -> first request through Envoy", &report.join_from_start, ""),
        ("SIGTERM -> gone from every list", &report.leave, ""),
        ("SIGKILL -> gone from every list", &report.kill, "p50 < 0.2, max < 0.5"),
        ("leader killed -> a change applied by Envoy", &report.leader_kill, "p50 < 0.7"),
    ];
    let statuses = [
        ("muster status, 3 nodes", &report.status, "< 0.1"),
        ("muster status, 1,000 nodes", &report.status_of_1000, "< 1"),
    ];
    let statuses = statuses.iter().filter_map(|(what, times, mark)| Some((*what, times.as_ref()?, *mark)));
    for (what, times, mark) in rows.into_iter().chain(statuses) {
        println!("{what:<46} {:>9.3} {:>9.3} {:>9.3}   {mark}", times.min, times.p50, times.max);
    }
    if let Some(file) = &report.event_to_file {
        let what = "watch event -> file renamed (p50, p99)";
        println!("{what:<46} {:>9} {:>9.4} {:>9.4}   < 0.010", "", file.p50, file.p99);
    }
    println!(
        "\nagent RSS, 3 nodes: follower {} KiB, leader {} KiB   mark < 10240",
        report.follower_rss_kib, report.leader_rss_kib
    );
    println!("agent CPU, idle: {:.3} % of a core   mark < 0.5", report.idle_cpu_percent);
    if let Some(crowd) = &report.crowd {
        println!("{crowd}");
    }
    println!();
}
