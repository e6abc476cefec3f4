//! The registry fails, forgets or is meddled with.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use testbed::observe::Sampler;
use testbed::{Link, Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(30);
/// Election of etcd's own leader, reconnection with back-off, registration.
const RECOVERY: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_killed_or_frozen_changes_nothing() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(Duration::from_secs(6))
        .run(async |bed| {
            let sampler = Sampler::start(bed.nodes());
            let leader = bed.etcd.leader().await?;
            let follower = bed.etcd.members().find(|member| *member != leader).context("no follower")?;
            // Here time itself is the fault: long enough for a lease that nobody renews to end.
            let longer_than_a_lease = bed.ttl() * 3 / 2;
            bed.etcd.pause(follower)?;
            tokio::time::sleep(longer_than_a_lease).await;
            bed.etcd.resume(follower)?;
            bed.etcd.healthy(RECOVERY).await?;
            bed.etcd.kill(leader).await?;
            tokio::time::sleep(longer_than_a_lease).await;
            bed.etcd.start(leader)?;
            bed.etcd.healthy(RECOVERY).await?;
            // Frozen for less than a lease: a leader of etcd that wakes after that long may have every lease revoked
            // that it saw expire, renewed elsewhere or not (etcd-io/etcd#15247; seen with 3.5.30).
            let next = bed.etcd.leader().await?;
            bed.etcd.pause(next)?;
            tokio::time::sleep(bed.ttl() / 3).await;
            bed.etcd.resume(next)?;
            bed.etcd.healthy(RECOVERY).await?;
            bed.agreement(RECOVERY, &bed.up()).await?;
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_the_list_stays_marked_stale_and_recovers() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let before = bed.lists_agree(SOON, &bed.up()).await?;
            let sampler = Sampler::start(bed.nodes());
            bed.etcd.kill_all().await?;
            eventually(LEASE, "every list is marked stale", async || {
                for node in bed.nodes() {
                    let list = node.list().await?.says;
                    ensure!(list.stale_since.is_some(), "{} is not stale", node.name);
                    ensure!(list.ips == before.says.ips, "{} lists {:?}", node.name, list.ips);
                }
                Ok(())
            })
            .await?;
            tokio::time::sleep(bed.ttl()).await;
            ensure!(bed.envoy().endpoints().await? == bed.up(), "Envoy lost its routes");
            ensure!(bed.list_via_envoy().await?.says.ips == before.says.ips);
            bed.etcd.start_all()?;
            bed.agreement(RECOVERY, &bed.up()).await?;
            for seen in sampler.finish() {
                ensure!(seen.fewest == 3 && seen.broken.is_empty() && seen.stale, "{seen:?}");
            }
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_registry_is_filled_again_and_no_list_is_decimated() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let before = bed.lists_agree(SOON, &bed.up()).await?;
            let sampler = Sampler::start(bed.nodes());
            bed.etcd.wipe().await?;
            // Until the nodes have noticed, their lists agree on the life before.
            eventually(RECOVERY, "the lists name another life of the registry", async || {
                let after = bed.lists_agree(SOON, &bed.up()).await?;
                ensure!(before.says.registry != after.says.registry, "still {:?}", after.says.registry);
                Ok(())
            })
            .await?;
            bed.agreement(RECOVERY, &bed.up()).await?;
            for seen in sampler.finish() {
                ensure!(seen.fewest == 3 && seen.broken.is_empty(), "{seen:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_registry_loses_its_ghosts_and_regains_the_living() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let snapshot = bed.etcd.snapshot().await?;
            // The snapshot knows node3, which is gone, and not node4, which is here.
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            bed.stop_node(3).await?;
            bed.agreement(SOON, &bed.up()).await?;
            let sampler = Sampler::start(bed.nodes().iter().filter(|node| node.is_up()));
            bed.etcd.restore(&snapshot).await?;
            bed.agreement(RECOVERY, &bed.up()).await?;
            for seen in sampler.finish() {
                ensure!(seen.fewest >= 2 && seen.broken.is_empty(), "{seen:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_during_a_cut_is_read_again() -> anyhow::Result<()> {
    // A TTL the cut stays below: the lease must not be what brings the node back.
    Testbed::builder()
        .ttl(Duration::from_secs(20))
        .run(async |bed| {
            let number = bed.follower().await?;
            let lease = bed.node_key(number).await?.lease;
            bed.node(number).link_etcd(Link::Cut);
            let goner = bed.nodes().iter().map(|node| node.number).find(|other| *other != number);
            bed.stop_node(goner.context("no other node")?).await?;
            bed.add_node().await?;
            for _ in 0..3 {
                bed.etcd.ctl(&["put", "/elsewhere", "x"], None).await?;
            }
            let revision = bed.etcd.get_prefix("/elsewhere").await?.revision.to_string();
            bed.etcd.ctl(&["compact", &revision], None).await?;
            bed.node(number).link_etcd(Link::Open);
            // A list read as a whole cannot know which compacted event changed it last, so its `revision` may be a
            // later one than elsewhere until the next change.
            eventually(LEASE, "the node lists what is there", async || {
                let ips = bed.node(number).list().await?.says.ips;
                ensure!(ips == bed.up(), "it lists {ips:?}");
                Ok(())
            })
            .await?;
            ensure!(bed.node_key(number).await?.lease == lease, "the lease was lost on the way");
            let restarts = "muster_watch_restarts_total{reason=\"compacted\"}";
            let counted = bed.node(number).metrics().await?.get(restarts).copied();
            ensure!(counted == Some(1.0), "the watch was not told of the compaction: {counted:?}");
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_registry_lets_nobody_into_a_list_and_everybody_out_of_it() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            bed.etcd.fill().await?;
            let hung = bed.follower().await?;
            bed.node(hung).signal_nginx(Signal::SIGSTOP)?;
            let others: Vec<_> = bed.up().into_iter().filter(|ip| *ip != bed.node(hung).ip).collect();
            // A deletion needs no room; the new nginx would.
            bed.lists_agree(SOON, &others).await?;
            eventually(SOON, "the log says what to do", async || {
                let said = bed.node(hung).said("cannot register for now")?;
                ensure!(said.iter().any(|line| line["hint"].to_string().contains("disarm")), "{said:?}");
                Ok(())
            })
            .await?;
            bed.lists_agree(SOON, &others).await?;
            let leaving = bed.nodes().iter().map(|node| node.number).find(|number| *number != hung);
            let leaving = leaving.context("nobody else")?;
            let ended = bed.stop_node(leaving).await?;
            ensure!(ended.code == Some(0), "{ended:?}");
            let rest: Vec<_> = others.into_iter().filter(|ip| *ip != bed.node(leaving).ip).collect();
            bed.lists_agree(SOON, &rest).await?;
            bed.etcd.make_room().await?;
            bed.start_node(leaving)?;
            bed.agreement(RECOVERY, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_deleted_and_leases_revoked_by_hand_come_back() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            for number in [bed.leader().await?, bed.follower().await?] {
                let key = bed.node_key(number).await?;
                bed.etcd.ctl(&["del", &key.key], None).await?;
                let again = eventually(LEASE, "the deleted key is back", async || {
                    let again = bed.node_key(number).await?;
                    ensure!(again.create_revision > key.create_revision, "{again:?}");
                    Ok(again)
                })
                .await?;
                bed.agreement(SOON, &bed.up()).await?;
                bed.etcd.ctl(&["lease", "revoke", &format!("{:x}", again.lease)], None).await?;
                eventually(LEASE, "the node is back with another lease", async || {
                    let other = bed.node_key(number).await?;
                    ensure!(other.lease != again.lease, "{other:?}");
                    Ok(())
                })
                .await?;
                bed.agreement(LEASE, &bed.up()).await?;
            }
            Ok(())
        })
        .await
}

/// Whoever deletes all nodes at once does not empty the lists: each node is back before anybody believes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_keys_deleted_at_once_empty_no_list() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let before = bed.node_key(bed.follower().await?).await?;
            let sampler = Sampler::start(bed.nodes());
            bed.etcd.ctl(&["del", "--prefix", "/muster/nodes/"], None).await?;
            eventually(LEASE, "everybody has registered again", async || {
                let serving = bed.etcd.serving().await?;
                ensure!(serving.len() == 3, "{serving:?}");
                Ok(())
            })
            .await?;
            bed.agreement(LEASE, &bed.up()).await?;
            let after = bed.node_key(bed.follower().await?).await?;
            ensure!(after.create_revision > before.create_revision, "nothing was deleted");
            for seen in sampler.finish() {
                ensure!(seen.fewest == 3 && seen.broken.is_empty(), "{seen:?}");
            }
            Ok(())
        })
        .await
}

/// An etcd leader that wakes after longer than a lease may revoke every lease, renewed elsewhere or not
/// (etcd-io/etcd#15247; seen with 3.5.30). Whether it does or not, no list loses most of its nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_leader_frozen_for_longer_than_a_lease_empties_no_list() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(Duration::from_secs(3))
        .run(async |bed| {
            let sampler = Sampler::start(bed.nodes());
            let leader = bed.etcd.leader().await?;
            bed.etcd.pause(leader)?;
            // Time itself is the fault.
            tokio::time::sleep(bed.ttl() * 3).await;
            bed.etcd.resume(leader)?;
            bed.etcd.healthy(RECOVERY).await?;
            bed.agreement(RECOVERY, &bed.up()).await?;
            for seen in sampler.finish() {
                ensure!(seen.fewest >= 2 && seen.broken.is_empty(), "{seen:?}");
            }
            Ok(())
        })
        .await
}
