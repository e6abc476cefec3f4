//! `testbed up`: a working fleet in the foreground, for people without a container engine.

use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use testbed::{Testbed, eventually};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Long enough for a killed node's lease to end.
const PATIENCE: Duration = Duration::from_secs(20);

const HELP: &str = "\
  status             the list, and who leads
  add [COUNT]        start nodes
  stop NODE          let a node leave (SIGTERM)
  kill NODE          kill a node, agent and nginx (SIGKILL)
  kill leader        the same to whoever leads
  pause NODE         freeze a node (SIGSTOP)
  resume NODE        let it go on
  start NODE         start a node that was stopped or killed
  stop etcd          kill all members of etcd
  start etcd         start them again, with their data
  logs               keep the logs, and print the end of each
  quit               end everything; so does Ctrl-C";

#[derive(Args)]
pub struct Up {
    /// Nodes to start with
    #[arg(long, env = "MUSTER_NODES", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=200))]
    nodes: u8,
    /// Members of etcd: 1 or 3
    #[arg(long, default_value = "3", value_parser = ["1", "3"])]
    etcd: String,
    /// Port on 127.0.0.1 where Envoy listens
    #[arg(long, env = "MUSTER_PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Time to live of the nodes' leases, in seconds
    #[arg(long, env = "MUSTER_TTL", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=60))]
    ttl: u64,
}

/// Runs until told to end, by a word or a signal.
///
/// # Errors
/// What is missing or does not start.
pub async fn up(wanted: Up) -> anyhow::Result<()> {
    let edge = SocketAddrV4::new(Ipv4Addr::LOCALHOST, wanted.port);
    // Asked here, because Envoy would only say it in its log.
    TcpListener::bind(edge).with_context(|| {
        format!("port {} on 127.0.0.1 is taken; choose another, e.g. --port 8081", wanted.port)
    })?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let fleet = async {
        let mut testbed = start(&wanted, edge).await?;
        converse(&mut testbed).await;
        anyhow::Ok(testbed)
    };
    let ended = tokio::select! {
        ended = fleet => ended.map(drop),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    if ended.is_ok() {
        println!("\nended: no process and no file is left");
    }
    ended
}

async fn start(wanted: &Up, edge: SocketAddrV4) -> anyhow::Result<Testbed> {
    let begin = Instant::now();
    let step = |what: &str| println!("{:6.2} s  {what}", begin.elapsed().as_secs_f64());
    let testbed = Testbed::builder()
        .etcd(wanted.etcd.parse()?)
        .nodes(wanted.nodes)
        .ttl(Duration::from_secs(wanted.ttl))
        .edge(edge)
        .start()
        .await?;
    step(&format!("etcd serves, {} nodes and Envoy are starting", wanted.nodes));
    // 200 nodes on two cores need their time.
    let patience = PATIENCE + Duration::from_millis(500) * u32::from(wanted.nodes);
    let complete = testbed.complete(patience).await.and(Ok(()));
    complete.inspect_err(|_| testbed.keep_logs())?;
    step("every list, Envoy and etcd agree");
    eventually(PATIENCE, "Envoy serves the list", async || testbed.list_via_envoy().await).await?;
    step("the list is served through Envoy");
    println!();
    status(&testbed).await?;
    let etcd: Vec<String> = testbed.etcd.members().map(|m| testbed.etcd.address(m).to_string()).collect();
    println!(
        "\n  the list     http://{edge}/          curl http://{edge}/ips.json\n  \
         Envoy admin  http://{}/\n  etcd         etcdctl --endpoints {} get --prefix /muster\n\n\
         Try it (Ctrl-C ends everything):\n{HELP}\n",
        testbed.envoy().admin,
        etcd.join(",")
    );
    Ok(testbed)
}

/// Does what is typed until `quit`. The end of the input is no word: a fleet started by a script goes on.
async fn converse(testbed: &mut Testbed) {
    let (typed, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines().map_while(Result::ok);
        lines.map_while(|line| typed.send(line).ok()).for_each(drop);
    });
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["quit" | "exit"] => return,
            words => {
                if let Err(error) = obey(testbed, words).await {
                    println!("{error:#}");
                }
            }
        }
    }
    std::future::pending().await
}

async fn obey(testbed: &mut Testbed, words: &[&str]) -> anyhow::Result<()> {
    let begin = Instant::now();
    let done = match *words {
        ["status" | "list"] => return status(testbed).await,
        ["help"] => {
            println!("{HELP}");
            return Ok(());
        }
        ["logs"] => {
            testbed.keep_logs();
            println!("the logs are kept");
            return Ok(());
        }
        ["stop", "etcd"] => {
            testbed.etcd.kill_all().await?;
            println!("etcd stopped: the list stays, and turns stale");
            return Ok(());
        }
        ["start", "etcd"] => {
            testbed.etcd.start_all()?;
            "etcd started".to_owned()
        }
        ["add"] => format!("node{} started", testbed.add_node().await?),
        ["add", count] => {
            let count: u8 = count.parse().with_context(|| format!("{count} is no count; try: add 2"))?;
            for _ in 0..count {
                testbed.add_node().await?;
            }
            format!("{count} nodes started")
        }
        ["stop", node] => {
            let number = number(testbed, node).await?;
            let exit = testbed.stop_node(number).await?;
            format!(
                "node{number} left in {:.2} s, exit code {}",
                begin.elapsed().as_secs_f64(),
                exit.code.unwrap_or(-1)
            )
        }
        ["kill", node] => {
            let number = number(testbed, node).await?;
            testbed.kill_node(number).await?;
            format!("node{number} killed")
        }
        ["pause", node] => {
            let number = number(testbed, node).await?;
            testbed.node(number).pause()?;
            format!("node{number} frozen")
        }
        ["resume", node] => {
            let number = number(testbed, node).await?;
            testbed.node(number).resume()?;
            format!("node{number} goes on")
        }
        ["start", node] => {
            let number = number(testbed, node).await?;
            if testbed.node(number).agent().is_ok() {
                bail!("node{number} runs already");
            }
            testbed.start_node(number)?;
            format!("node{number} started")
        }
        _ => bail!("{} is unknown; known are:\n{HELP}", words.join(" ")),
    };
    println!("{done}");
    let up = testbed.up();
    if up.is_empty() {
        println!("no node is up: Envoy has nobody to ask");
        return Ok(());
    }
    testbed.agreement(PATIENCE, &up).await?;
    println!("every list, Envoy and etcd agree after {:.2} s", begin.elapsed().as_secs_f64());
    status(testbed).await
}

/// `node3`, `3` or `leader`.
async fn number(testbed: &Testbed, word: &str) -> anyhow::Result<u8> {
    if word == "leader" {
        return testbed.leader().await;
    }
    let node = testbed.nodes().iter().find(|node| node.name == word || node.number.to_string() == word);
    Ok(node.with_context(|| format!("there is no node {word}; `status` shows all"))?.number)
}

async fn status(testbed: &Testbed) -> anyhow::Result<()> {
    let list = testbed.list_via_envoy().await?.says;
    println!("  {:<16} {:<10} {:<10}", "ADDRESS", "NODE", "STATE");
    for node in &list.nodes {
        let leads = if node.leader { "leads" } else { "" };
        println!("  {:<16} {:<10} {:<10} {leads}", node.ip, node.name, node.state);
    }
    println!("  {} listed, revision {}, digest {}", list.count, list.revision, list.digest);
    Ok(())
}
