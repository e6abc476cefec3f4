//! The mark of a name that nobody has any more is forgotten, and no other.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use testbed::{Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
/// A lease that plays no part within a test.
const LONG: Duration = Duration::from_secs(20);
const KEEP: Duration = Duration::from_secs(6);
const MARK: &[u8] = br#"{"v":1,"since":"2026-01-01T00:00:00Z","why":""}"#;

async fn marks(bed: &Testbed) -> anyhow::Result<Vec<String>> {
    let marks = bed.etcd.get_prefix("/muster/marks/").await?.keys;
    Ok(marks.into_iter().map(|mark| mark.key.replace("/muster/marks/", "")).collect())
}

async fn marked(bed: &Testbed, expected: &[&str]) -> anyhow::Result<()> {
    eventually(SOON, "the marks", async || {
        let marks = marks(bed).await?;
        ensure!(marks == expected, "{marks:?}");
        Ok(())
    })
    .await
}

async fn drain(bed: &Testbed, name: &str) -> anyhow::Result<()> {
    let output = bed.muster(&["drain", name, "--force"]).await?;
    ensure!(output.exit.code == Some(0), "{}", output.stderr);
    Ok(())
}

/// The names whose marks any agent has said to have removed, once these are among them.
async fn removed(bed: &Testbed, expected: &[&str]) -> anyhow::Result<()> {
    eventually(SOON, "what was removed", async || {
        let mut names = Vec::new();
        for node in bed.nodes() {
            let said = node.said("mark removed: nobody has had its name for long")?;
            names.extend(said.iter().filter_map(|line| line["node"].as_str().map(str::to_owned)));
        }
        names.sort();
        ensure!(names == expected, "{names:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mark_of_an_absent_name_goes_and_that_of_a_present_one_stays() -> anyhow::Result<()> {
    let bed = Testbed::builder().etcd(1).nodes(3).envoys(0).ttl(LONG).agent_arg("--keep-marks=1");
    bed.run(async |bed| {
        bed.agreement(SOON, &bed.up()).await?;
        let leader = bed.leader().await?;
        let others: Vec<u8> = (1..=3).filter(|number| *number != leader).collect();
        let [stays, goes] = [others[0], others[1]].map(|number| bed.node(number).name.clone());
        drain(bed, &stays).await?;
        drain(bed, &goes).await?;
        bed.stop_node(others[1]).await?;
        marked(bed, &[&stays]).await?;
        removed(bed, &[&goes]).await?;
        // The successor does the same, and the name that is marked is still there.
        bed.kill_node(leader).await?;
        bed.etcd.ctl(&["put", "/muster/marks/zz-nobody"], Some(MARK)).await?;
        marked(bed, &[&stays]).await?;
        removed(bed, &[&goes, "zz-nobody"]).await
    })
    .await
}

/// Takes a node out and starts it anew. A machine too busy to do that within the time proves nothing, and is asked again.
async fn restarted_in_time(bed: &Testbed, number: u8) -> anyhow::Result<()> {
    let node = bed.node(number);
    for _ in 0..5 {
        drain(bed, &node.name).await?;
        let started = Instant::now();
        bed.stop_node(number).await?;
        bed.start_node(number)?;
        eventually(SOON, "it is registered again", async || {
            ensure!(bed.etcd.serving().await?.contains(&node.ip), "not yet");
            Ok(())
        })
        .await?;
        if started.elapsed() < KEEP / 2 {
            return Ok(());
        }
    }
    bail!("it never came back in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_in_time_keeps_its_mark() -> anyhow::Result<()> {
    let bed = Testbed::builder()
        .etcd(1)
        .nodes(2)
        .envoys(0)
        .ttl(LONG)
        .agent_arg(format!("--keep-marks={}", KEEP.as_secs()));
    bed.run(async |bed| {
        bed.agreement(SOON, &bed.up()).await?;
        let node = bed.follower().await?;
        let name = bed.node(node).name.clone();
        restarted_in_time(bed, node).await?;
        // A name that was absent from that moment on is forgotten; by then the time that began before is over.
        bed.etcd.ctl(&["put", "/muster/marks/zz-nobody"], Some(MARK)).await?;
        ensure!(marks(bed).await? == [name.as_str(), "zz-nobody"]);
        marked(bed, &[&name]).await?;
        removed(bed, &["zz-nobody"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_removes_nothing() -> anyhow::Result<()> {
    let bed =
        Testbed::builder().etcd(1).nodes(2).envoys(0).agent_arg(format!("--keep-marks={}", KEEP.as_secs()));
    bed.run(async |bed| {
        bed.agreement(SOON, &bed.up()).await?;
        let former = bed.leader().await?;
        bed.etcd.ctl(&["put", "/muster/marks/zz-nobody"], Some(MARK)).await?;
        // Who lists a node that came after the mark has seen the mark.
        bed.add_node().await?;
        bed.agreement(SOON, &bed.up()).await?;
        let began = Instant::now();
        bed.node(former).pause()?;
        eventually(SOON, "another leads", async || {
            ensure!(bed.leader().await? != former, "not yet");
            Ok(())
        })
        .await?;
        // The time of the former one is over then, and that of its successor has begun later.
        tokio::time::sleep_until((began + KEEP).into()).await;
        bed.node(former).resume()?;
        marked(bed, &[]).await?;
        removed(bed, &["zz-nobody"]).await?;
        let said = bed.node(former).said("mark removed: nobody has had its name for long")?;
        ensure!(said.is_empty(), "{said:?}");
        Ok(())
    })
    .await
}
