//! What scripts and engines ask of an Envoy.

use anyhow::ensure;
use nix::sys::signal::Signal;
use testbed::{Testbed, eventually};

use super::{AMPLE, ready};

/// Runs a command of muster's; it must end with this code and say these words.
async fn ends(bed: &Testbed, words: &[&str], code: i32, says: &str) -> anyhow::Result<()> {
    let output = match words[0] {
        "wait" => bed.muster(words).await?,
        _ => bed.plain_muster(words).await?,
    };
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), output.stderr);
    ensure!(output.exit.code == Some(code), "{words:?}: {:?}, expected {code}: {said}", output.exit);
    ensure!(said.contains(says), "{words:?} does not say {says:?}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_knows_who_is_connected_and_up_to_date() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(2)
        .envoys(2)
        .run(async |bed| {
            let [one, two] = bed.envoys() else { anyhow::bail!("two Envoys") };
            let (first, second) = (one.id(), two.id());
            ends(bed, &["wait", "--envoy", &first, "--envoy", &second, "--timeout", "20"], 0, "after")
                .await?;
            let strange = ["wait", "--envoy", "envoy-9", "--timeout", "0"];
            ends(bed, &strange, 5, "no leader has met envoy envoy-9").await?;
            // It stands still, so it cannot acknowledge that a node is gone; nobody says yet that it is not connected.
            two.pause();
            let follower = bed.follower().await?;
            let name = bed.node(follower).name.clone();
            let drained = bed.muster(&["drain", &name]).await?;
            ensure!(drained.exit.code == Some(0), "{}", drained.stderr);
            ends(bed, &["wait", "--envoy", &first, "--timeout", "20"], 0, "after").await?;
            let output = bed.muster(&["wait", "--envoy", &second, "--timeout", "0"]).await?;
            ensure!(output.exit.code == Some(5), "{:?}: {}", output.exit, output.stderr);
            two.kill().await?;
            let gone = ["wait", "--envoy", &second, "--timeout", "0"];
            eventually(AMPLE, "it is known to be gone", async || {
                ends(bed, &gone, 5, &format!("envoy {second} is not connected")).await
            })
            .await?;
            // Connected and up to date once, says a leader that nobody remembers.
            let digest = bed.node(bed.leader().await?).list().await?.says.digest;
            let ghost = serde_json::json!({"v": 1, "connected": true, "digest": digest, "writer": 1});
            bed.etcd.ctl(&["put", "/muster/envoys/ghost"], Some(ghost.to_string().as_bytes())).await?;
            let not_with_it = "envoy ghost is not connected to the one that leads";
            ends(bed, &["wait", "--envoy", "ghost", "--timeout", "0"], 5, not_with_it).await?;
            two.start()?;
            ends(bed, &["wait", "--envoy", &second, "--timeout", "30"], 0, "after").await?;
            bed.etcd.kill_all().await?;
            ends(bed, &["wait", "--envoy", &first, "--timeout", "0"], 4, "waited in vain").await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthcheck_tells_ready_from_alive() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(1)
        .supervised(&[])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let at = envoy.supervisor()?;
            let (ip, port) = (at.ip().to_string(), at.port().to_string());
            let alive = ["healthcheck", "--listen", &ip, "--metrics-port", &port];
            let is_ready = [&alive[..], &["--ready"]].concat();
            ends(bed, &alive, 0, "").await?;
            ends(bed, &is_ready, 0, "").await?;
            // A node answers the same question: registered or not.
            let node = bed.node(1);
            let node_port = node.metrics.port().to_string();
            let node_ip = node.metrics.ip().to_string();
            let node_ready = ["healthcheck", "--ready", "--listen", &node_ip, "--metrics-port", &node_port];
            ends(bed, &node_ready, 0, "").await?;
            // Nobody leads, and so a new Envoy waits: alive, and not ready.
            node.pause()?;
            envoy.signal_below(Signal::SIGKILL)?;
            eventually(AMPLE, "the new Envoy waits", async || {
                let why = envoy.ask_supervisor("/readyz").await?.body;
                let why = String::from_utf8_lossy(&why).into_owned();
                ensure!(why.contains("waits for its configuration"), "{why}");
                Ok(())
            })
            .await?;
            ends(bed, &is_ready, 1, "503").await?;
            ends(bed, &alive, 0, "").await?;
            node.resume()?;
            ready(envoy).await?;
            let exit = envoy.stop().await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            ends(bed, &alive, 1, "does not answer").await?;
            ends(bed, &is_ready, 1, "not ready").await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_is_not_there_ends_it_like_a_shell() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(1)
        .envoys(0)
        .run(async |bed| {
            let ip = bed.addresses.ip(250).to_string();
            let flags = ["edge", "--listen", &ip, "--require-network", "false", "--"];
            let missing = [&flags[..], &["/nowhere/envoy"]].concat();
            ends(bed, &missing, 127, "not found").await?;
            let directory = [&flags[..], &["/"]].concat();
            ends(bed, &directory, 126, "cannot be executed").await
        })
        .await
}
