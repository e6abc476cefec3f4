//! What happened stands in the registry exactly once, whoever led meanwhile, and every node serves it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use testbed::{Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
/// A lease that plays no part within a test.
const LONG: Duration = Duration::from_secs(20);

/// Events that the registry keeps, and how many more there may be before the oldest go.
const KEPT: usize = 10_000;
const SURPLUS: usize = 100;
/// Events that a node serves.
const SERVED: usize = 200;

/// Revision, event and instance.
type Line = (i64, String, String);

async fn history(bed: &Testbed) -> anyhow::Result<Vec<Value>> {
    let range = bed.etcd.get_prefix("/muster/history/").await?;
    range.keys.iter().map(|key| Ok(serde_json::from_slice(&key.value)?)).collect()
}

fn lines(events: &[Value]) -> Vec<Line> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |event: &Value| {
        (event["revision"].as_i64().unwrap_or(0), text(&event["event"]), text(&event["instance"]))
    };
    let mut lines: Vec<Line> = events.iter().map(line).collect();
    lines.sort();
    lines
}

/// State and address by instance, as the nodes' keys said at a revision.
async fn nodes(bed: &Testbed, revision: i64) -> anyhow::Result<BTreeMap<String, (String, String)>> {
    let range = bed.etcd.get_prefix_at("/muster/nodes/", revision).await?;
    let mut nodes = BTreeMap::new();
    for key in range.keys {
        let value: Value = serde_json::from_slice(&key.value)?;
        let text = |name: &str| value[name].as_str().map(str::to_owned).context("no text");
        nodes.insert(text("instance")?, (text("state")?, text("ip")?));
    }
    Ok(nodes)
}

/// What happened to nodes by what etcd remembers of each revision.
async fn truth(bed: &Testbed, through: i64) -> anyhow::Result<Vec<Line>> {
    let mut truth = Vec::new();
    let mut before: BTreeMap<String, (String, String)> = BTreeMap::new();
    for revision in 2..=through {
        let now = nodes(bed, revision).await?;
        for (instance, node) in now.iter().filter(|(instance, node)| before.get(*instance) != Some(*node)) {
            let event = if node.0 == "serving" { "joined" } else { &node.0 };
            truth.push((revision, event.to_owned(), instance.clone()));
        }
        for (instance, (state, ip)) in before.iter().filter(|(instance, _)| !now.contains_key(*instance)) {
            let event = match state.as_str() {
                "draining" => "left",
                "lost" => "reaped",
                _ if now.values().any(|(_, taken)| taken == ip) => "superseded",
                _ => "expired",
            };
            truth.push((revision, event.to_owned(), instance.clone()));
        }
        before = now;
    }
    truth.sort();
    Ok(truth)
}

fn of_leaders(lines: &[Line]) -> Vec<&Line> {
    lines.iter().filter(|(_, event, _)| event == "leader-changed").collect()
}

async fn leader_killed(bed: &Testbed) -> anyhow::Result<u8> {
    let leader = bed.leader().await?;
    bed.kill_node(leader).await?;
    Ok(leader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_stands_there_once_whoever_led() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(4)
        .envoys(0)
        .ttl(LONG)
        .run(async |bed| {
            bed.lists_agree(SOON, &bed.up()).await?;
            for _ in 0..3 {
                // The others change while nobody leads: who leads next writes down what it did not see.
                let leader = leader_killed(bed).await?;
                let other = bed.follower().await?;
                bed.kill_node(other).await?;
                bed.start_node(leader)?;
                bed.start_node(other)?;
                bed.lists_agree(LONG, &bed.up()).await?;
            }
            let through = bed.etcd.get_prefix("/muster/nodes/").await?.revision;
            let truth = truth(bed, through).await?;
            ensure!(truth.len() >= 4 + 3 * 4, "little has happened: {truth:?}");
            let written = eventually(SOON, "the history says what happened", async || {
                let written: Vec<Line> =
                    lines(&history(bed).await?).into_iter().filter(|line| line.0 <= through).collect();
                let nodes: Vec<&Line> =
                    written.iter().filter(|(_, event, _)| event != "leader-changed").collect();
                ensure!(nodes == truth.iter().collect::<Vec<_>>(), "{nodes:#?} and not {truth:#?}");
                Ok(written)
            })
            .await?;
            let leaders = of_leaders(&written);
            ensure!(leaders.len() >= 4, "{leaders:?}");
            ensure!(
                leaders.windows(2).all(|pair| pair[0].2 != pair[1].2),
                "one leader told twice: {leaders:?}"
            );
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_it_with_what_took_how_long() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            bed.agreement(SOON, &bed.up()).await?;
            let killed = bed.follower().await?;
            bed.kill_node(killed).await?;
            bed.agreement(LONG, &bed.up()).await?;
            // The leader itself: what it measured outlives its term.
            let leader = bed.leader().await?;
            bed.stop_node(leader).await?;
            eventually(SOON, "every node's history says how both went", async || {
                let mut files = Vec::new();
                for node in bed.nodes().iter().filter(|node| node.is_up()) {
                    files.push(node.get("/history.json").await?.body);
                }
                ensure!(files.windows(2).all(|pair| pair[0] == pair[1]), "they differ");
                let file: Value = serde_json::from_slice(files.first().context("nobody is up")?)?;
                let newest_first = file["events"].as_array().context("no events")?;
                let ip_of = |number: u8| bed.node(number).ip.to_string();
                let of = |event: &str, number: u8| {
                    newest_first.iter().find(|one| one["event"] == event && one["ip"] == *ip_of(number))
                };
                let reaped = of("reaped", killed).context("not reaped")?;
                let left = of("left", leader).context("not left")?;
                ensure!(reaped["took_ms"].as_u64().is_some_and(|took| took < 20_000), "{reaped}");
                ensure!(!reaped["reason"].as_str().unwrap_or_default().is_empty(), "{reaped}");
                ensure!(left["took_ms"].as_u64().is_some_and(|took| took < 20_000), "{left}");
                let revisions: Vec<i64> =
                    newest_first.iter().filter_map(|one| one["revision"].as_i64()).collect();
                ensure!(revisions.is_sorted_by(|a, b| a >= b), "{revisions:?}");
                Ok(())
            })
            .await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_has_forgotten_is_a_gap_and_an_idle_hour_is_none() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(2)
        .envoys(0)
        .ttl(Duration::from_secs(2))
        .run(async |bed| {
            bed.lists_agree(SOON, &bed.up()).await?;
            // Everything is written down, and then etcd forgets it.
            let settled = eventually(SOON, "both have joined", async || {
                let written = lines(&history(bed).await?);
                let joined = written.iter().filter(|(_, event, _)| event == "joined").count();
                ensure!(joined == 2, "{written:?}");
                Ok(written)
            })
            .await?;
            compact(bed).await?;
            leader_killed(bed).await?;
            let after = eventually(LONG, "the next leader writes on", async || {
                let written = lines(&history(bed).await?);
                ensure!(of_leaders(&written).len() > of_leaders(&settled).len(), "{written:?}");
                Ok(written)
            })
            .await?;
            ensure!(!after.iter().any(|(_, event, _)| event == "gap"), "{after:?}");

            // What happens while nobody is there to write, and is forgotten, is gone.
            for number in
                bed.nodes().iter().filter(|node| node.is_up()).map(|node| node.number).collect::<Vec<_>>()
            {
                bed.kill_node(number).await?;
            }
            eventually(LONG, "all leases have ended", async || {
                let left = bed.etcd.get_prefix("/muster/leader/").await?.keys;
                ensure!(left.is_empty(), "{left:?}");
                Ok(())
            })
            .await?;
            compact(bed).await?;
            bed.start_node(1)?;
            eventually(LONG, "the gap is told", async || {
                let written = lines(&history(bed).await?);
                let gaps = written.iter().filter(|(_, event, _)| event == "gap").count();
                ensure!(gaps == 1, "{written:?}");
                Ok(())
            })
            .await
        })
        .await
}

/// Forgets everything but the newest revision, as etcd does by itself with what is older than an hour.
async fn compact(bed: &Testbed) -> anyhow::Result<()> {
    let newest = bed.etcd.get_prefix("/muster/nodes/").await?.revision;
    bed.etcd.ctl(&["compact", &newest.to_string()], None).await?;
    Ok(())
}

/// Writes events of long ago, which stand before every other: the keys.
async fn plant(bed: &Testbed, count: usize) -> anyhow::Result<Vec<String>> {
    let mut planted = Vec::new();
    for hundred in 0..count / 100 {
        let mut puts = String::from("\n");
        for n in 0..100 {
            let revision = hundred + 1;
            let key = format!("/muster/history/{revision:020}-{n:02}");
            let value = serde_json::json!({
                "v": 1, "revision": revision, "at": "2026-11-21T10:00:00Z", "event": "marked",
                "node": format!("planted-{hundred}-{n}"), "instance": "", "ip": null, "reason": "",
            });
            puts += &format!("put {key} '{value}'\n");
            planted.push(key);
        }
        bed.etcd.ctl(&["txn"], Some(format!("{puts}\n\n").as_bytes())).await?;
    }
    Ok(planted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_of_too_many_go_and_nodes_serve_the_newest() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(0)
        .envoys(0)
        .ttl(LONG)
        .run(async |bed| {
            let planted = plant(bed, KEPT + 2 * SURPLUS).await?;
            ensure!(bed.etcd.get_prefix("/muster/history/").await?.keys.len() == planted.len());
            bed.add_node().await?;
            let kept = eventually(SOON, "the oldest are gone", async || {
                let kept = bed.etcd.get_prefix("/muster/history/").await?.keys;
                let own = kept.iter().filter(|key| !planted.contains(&key.key)).count();
                ensure!(own >= 2, "the node has not joined and led yet");
                ensure!((KEPT..=KEPT + SURPLUS).contains(&kept.len()), "{} are kept", kept.len());
                let gone = planted.len() + own - kept.len();
                ensure!(kept[0].key == planted[gone], "{} is the oldest, not {}", kept[0].key, planted[gone]);
                Ok(kept)
            })
            .await?;
            let newest_first: Vec<Value> =
                kept.iter().rev().map(|key| serde_json::from_slice(&key.value)).collect::<Result<_, _>>()?;
            let about =
                |event: &Value| (event["revision"].clone(), event["event"].clone(), event["node"].clone());
            eventually(SOON, "the node serves the newest", async || {
                let file: Value = serde_json::from_slice(&bed.node(1).get("/history.json").await?.body)?;
                let served = file["events"].as_array().context("no events")?;
                ensure!(served.len() == SERVED, "{} are served", served.len());
                ensure!(served.iter().map(about).eq(newest_first[..SERVED].iter().map(about)), "{file}");
                Ok(())
            })
            .await
        })
        .await
}
