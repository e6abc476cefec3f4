//! The leader goes, in every way, and Envoy goes on.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::ensure;
use testbed::{Link, Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(30);

async fn another_leads(bed: &Testbed, than: u8) -> anyhow::Result<u8> {
    eventually(LEASE, "another node leads", async || {
        let leader = bed.leader().await?;
        ensure!(leader != than, "node{than} still leads");
        Ok(leader)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_killed_leader_changes_reach_envoy_again() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let leader = bed.leader().await?;
            bed.kill_node(leader).await?;
            bed.agreement(LEASE, &bed.up()).await?;
            another_leads(bed, leader).await?;
            bed.add_node().await?;
            bed.agreement(LEASE, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_leaves_hands_over() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            for _ in 0..2 {
                let leader = bed.leader().await?;
                let exit = bed.stop_node(leader).await?;
                ensure!(exit.code == Some(0), "{exit:?}");
                bed.agreement(SOON, &bed.up()).await?;
                another_leads(bed, leader).await?;
                bed.start_node(leader)?;
                bed.agreement(SOON, &bed.up()).await?;
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_never_turns_envoy_back() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let leader = bed.leader().await?;
            let mut told: Vec<Vec<Ipv4Addr>> = Vec::new();
            let watching = async {
                loop {
                    if let Ok(now) = bed.envoy().endpoints().await
                        && told.last() != Some(&now)
                    {
                        told.push(now);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let scenario = async {
                let sleeper = bed.node(leader).ip;
                let goner = bed.follower().await?;
                bed.node(leader).pause()?;
                bed.agreement(LEASE, &bed.up()).await?;
                bed.stop_node(goner).await?;
                bed.agreement(SOON, &bed.up()).await?;
                bed.node(leader).resume()?;
                bed.agreement(LEASE, &bed.up()).await?;
                anyhow::Ok((sleeper, bed.node(goner).ip))
            };
            let (sleeper, goner) = tokio::select! {
                ended = scenario => ended?,
                () = watching => unreachable!("watching never ends"),
            };
            // On a busy machine the agreement may be seen before this observer has asked once more.
            told.push(bed.envoy().endpoints().await?);
            // Once the one that left is gone it must not come back, though the sleeper's last word named it.
            let first_without = told.iter().position(|ips| !ips.contains(&goner)).unwrap_or(told.len());
            ensure!(first_without < told.len(), "{told:?}");
            ensure!(
                told[first_without..].iter().all(|ips| !ips.contains(&goner)),
                "{goner} came back: {told:?}"
            );
            ensure!(told.last().is_some_and(|ips| ips.contains(&sleeper)), "{told:?}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_key_deleted_by_hand_makes_another_lead() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let leader = bed.leader().await?;
            let lease = bed.node_key(leader).await?.lease;
            bed.etcd.ctl(&["del", &format!("/muster/leader/{lease:x}")], None).await?;
            let next = another_leads(bed, leader).await?;
            eventually(SOON, "all three are candidates, and one of them says that it leads", async || {
                let candidates = bed.etcd.get_prefix("/muster/leader/").await?.keys.len();
                ensure!(candidates == 3, "{candidates} candidates");
                for node in bed.nodes() {
                    let leads = node.metrics().await?.get("muster_leader").copied();
                    let expected = f64::from(u8::from(node.number == next));
                    ensure!(leads == Some(expected), "{} says {leads:?}, node{next} leads", node.name);
                }
                Ok(())
            })
            .await?;
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_cut_off_from_every_agent_keeps_its_routes_and_catches_up() -> anyhow::Result<()> {
    for fault in [Link::Cut, Link::Silent] {
        Testbed::builder()
            .run(async |bed| {
                eventually(SOON, "the edge answers", async || bed.list_via_envoy().await).await?;
                bed.nodes().iter().for_each(|node| node.link_control(fault));
                let before = bed.up();
                let goner = bed.follower().await?;
                bed.stop_node(goner).await?;
                bed.lists_agree(SOON, &bed.up()).await?;
                ensure!(bed.envoy().endpoints().await? == before, "Envoy was told through a cut link");
                // What left refuses connections: Envoy tries the next one by itself.
                for _ in 0..20 {
                    ensure!(bed.list_via_envoy().await?.says.ips == bed.up());
                }
                bed.nodes().iter().for_each(|node| node.link_control(Link::Open));
                bed.agreement(LEASE, &bed.up()).await?;
                Ok(())
            })
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_envoys_are_told_the_same_and_a_new_one_is_told_all() -> anyhow::Result<()> {
    Testbed::builder()
        .envoys(2)
        .run(async |bed| {
            bed.envoys()[1].kill().await?;
            bed.envoys()[1].start()?;
            bed.add_node().await?;
            bed.agreement(LEASE, &bed.up()).await?;
            let mut dumps = Vec::new();
            for envoy in bed.envoys() {
                let dump = envoy.config_dump().await?;
                let configs = dump["configs"].as_array().cloned().unwrap_or_default();
                let routes =
                    configs.iter().find(|part| part["@type"].as_str().is_some_and(|t| t.contains("Routes")));
                dumps.push(routes.map(|routes| routes["dynamic_route_configs"][0]["route_config"].clone()));
            }
            ensure!(dumps[0].is_some() && dumps[0] == dumps[1], "{dumps:?}");
            Ok(())
        })
        .await
}
