//! Processes that die.

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use testbed::{Testbed, eventually};

use super::{CLOSED, LONG, SOON, another_leads, one_is_reaped, reaped};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_is_gone_long_before_its_lease() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            bed.kill_node(bed.follower().await?).await?;
            bed.agreement(CLOSED, &bed.up()).await?;
            let said = one_is_reaped(bed).await?;
            ensure!(said["why"].is_string() && said["detected_ms"].is_u64(), "{said}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_takes_its_nginx_along_and_is_gone_as_soon() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let node = bed.node(bed.follower().await?);
            node.signal_agent(Signal::SIGKILL)?;
            node.ended().await?;
            bed.agreement(CLOSED, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_nginx_that_outlives_its_agent_for_a_moment_does_not_save_the_node() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let (leader, number) = (bed.leader().await?, bed.follower().await?);
            let node = bed.node(number);
            // Whoever would kill nginx at once stands still, as on a machine that has no core for it.
            let guard = node.guard()?;
            kill(guard, Signal::SIGSTOP)?;
            node.signal_agent(Signal::SIGKILL)?;
            node.ended().await?;
            eventually(CLOSED, "the leader has been answered by nginx", async || {
                let said = bed.node(leader).said("nginx answers without its agent: asked again")?;
                ensure!(said.len() == 1, "{said:?}");
                Ok(())
            })
            .await?;
            node.get("/healthz").await?;
            ensure!(reaped(bed)?.is_empty(), "reaped beside a living nginx");
            kill(guard, Signal::SIGCONT)?;
            one_is_reaped(bed).await?;
            bed.agreement(CLOSED, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_followed_long_before_its_lease_ends() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let leader = bed.leader().await?;
            bed.kill_node(leader).await?;
            bed.agreement(CLOSED, &bed.up()).await?;
            another_leads(bed, leader, CLOSED).await?;
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_together_with_its_successors_is_followed_too() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .nodes(5)
        .run(async |bed| {
            let line = bed.line().await?;
            let agents = [line[0], line[1]].map(|number| bed.node(number).agent());
            for agent in agents {
                agent?.signal_tree(Signal::SIGKILL);
            }
            for number in [line[0], line[1]] {
                bed.node(number).ended().await?;
            }
            bed.agreement(LONG * 3 / 4, &bed.up()).await?;
            ensure!(bed.leader().await? == line[2], "not the next in line leads");
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_followers_killed_at_once_are_gone_as_soon_as_one() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .nodes(4)
        .run(async |bed| {
            // More than half, but closed and not silent: no reason for the leader to doubt itself.
            let leader = bed.leader().await?;
            let followers: Vec<_> = bed.nodes().iter().filter(|node| node.number != leader).collect();
            for node in &followers {
                node.agent()?.signal_tree(Signal::SIGKILL);
            }
            for node in &followers {
                node.ended().await?;
            }
            bed.agreement(CLOSED, &bed.up()).await?;
            ensure!(bed.leader().await? == leader, "it resigned");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_random_kills_and_starts_converge() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .nodes(4)
        .run(async |bed| {
            let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
            let seed = seed.unwrap_or_else(|| fastrand::u64(..));
            let mut random = fastrand::Rng::with_seed(seed);
            let mut story = format!("again with SEED={seed}:");
            for _ in 0..10 {
                let number = random.u8(1..=4);
                let up = bed.node(number).is_up();
                if up && bed.up().len() > 1 {
                    bed.kill_node(number).await?;
                } else if !up {
                    bed.start_node(number)?;
                }
                story.push_str(&format!(" {}{number}", if up { '-' } else { '+' }));
                // Between two events, or in the middle of what the last one set off.
                tokio::time::sleep(std::time::Duration::from_millis(random.u64(0..400))).await;
            }
            // Who registers while nobody leads, and dies before anybody does, never attended: only its lease tells.
            bed.agreement(LONG + SOON, &bed.up()).await.map_err(|error| error.context(story))?;
            Ok(())
        })
        .await
}
