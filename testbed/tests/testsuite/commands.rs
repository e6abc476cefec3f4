//! The command line against a real fleet: what each command says and what it exits with.

#[path = "../../../agent/tests/testsuite/schema/mod.rs"]
mod schema;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::process::Output;
use testbed::{Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
/// A lease that plays no part within a test.
const LONG: Duration = Duration::from_secs(20);

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), output.stderr)
}

/// What a command says, if it ends as it should and says these words.
async fn outcome(bed: &Testbed, words: &[&str], code: i32, says: &[&str]) -> anyhow::Result<String> {
    let output = bed.muster(words).await?;
    let text = said(&output);
    ensure!(output.exit.code == Some(code), "{words:?} ended with {:?}: {text}", output.exit);
    for word in says {
        ensure!(text.contains(word), "{words:?} does not say `{word}`: {text}");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same at once for a command that does something. One that only looks may look again: etcd may be electing.
async fn expect(bed: &Testbed, words: &[&str], code: i32, says: &[&str]) -> anyhow::Result<String> {
    if ["drain", "resume", "switchover"].contains(&words[0]) {
        return outcome(bed, words, code, says).await;
    }
    eventually(SOON, "a command says it", async || outcome(bed, words, code, says).await).await
}

/// What the leader writes its records under: the create revision of its candidate key.
async fn term(bed: &Testbed) -> anyhow::Result<i64> {
    let candidates = bed.etcd.get_prefix("/muster/leader/").await?.keys;
    candidates.iter().map(|key| key.create_revision).min().context("nobody leads")
}

async fn document(bed: &Testbed, words: &[&str], code: i32, name: &str) -> anyhow::Result<Value> {
    let read: Value = serde_json::from_str(&expect(bed, words, code, &[]).await?).context("no JSON")?;
    let file = format!("{}/../docs/schema/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
    schema::check(&serde_json::from_str(&std::fs::read_to_string(&file).context(file)?)?, &read, name);
    Ok(read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_fleet_is_told_as_one() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            bed.agreement(SOON, &bed.up()).await?;
            let leader = bed.node(bed.leader().await?).name.clone();
            expect(bed, &["wait", "--count", "3", "--leader", "--node", &leader], 0, &["after"]).await?;
            expect(bed, &["verify", "--wait", "10"], 0, &["everybody agrees: 3 nodes, 1 envoys"]).await?;
            expect(bed, &["check", "--wait", "10"], 0, &["all ", "checks passed", "\u{2713} somebody leads"])
                .await?;
            let table =
                expect(bed, &["status"], 0, &["etcd 3/3", "3/3 files agree", "1/1 envoys in sync"]).await?;
            ensure!(table.lines().filter(|line| line.contains("routed")).count() == 3, "{table}");
            ensure!(table.lines().any(|line| line.contains(&leader) && line.contains("leader")), "{table}");
            expect(bed, &["status", "-o", "wide"], 0, &["INSTANCE", "REASON"]).await?;
            let tsv = expect(bed, &["status", "-o", "tsv"], 0, &[]).await?;
            ensure!(
                tsv.lines().count() == 4 && tsv.lines().all(|line| line.split('\t').count() == 9),
                "{tsv}"
            );
            let status = document(bed, &["status", "-o", "json"], 0, "status").await?;
            ensure!(status["ok"] == true && status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3));
            document(bed, &["verify", "--wait", "10", "-o", "json"], 0, "verify").await?;
            document(bed, &["check", "--wait", "10", "-o", "json"], 0, "check").await?;
            eventually(SOON, "three have joined", async || {
                let events = expect(bed, &["events", "-o", "jsonl"], 0, &[]).await?;
                let joined = events.lines().filter(|line| line.contains(r#""event":"joined""#)).count();
                ensure!(joined == 3, "{events}");
                Ok(())
            })
            .await?;
            expect(bed, &["events", "--since", "1h"], 0, &["TIME", "joined", "leader-changed"]).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_taken_out_and_let_in_again() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(2)
        .ttl(LONG)
        .run(async |bed| {
            bed.agreement(SOON, &bed.up()).await?;
            let (node, ip) = (bed.node(1).name.clone(), bed.node(1).ip);
            expect(bed, &["drain", "nobody"], 1, &["no node is called `nobody`", &node]).await?;
            expect(bed, &["resume", &node], 0, &["is not drained"]).await?;
            let address = ip.to_string();
            let out = ["drain", &address, "--why", "new disk", "--wait"];
            expect(bed, &out, 0, &["withdrawn, every envoy has acknowledged it"]).await?;
            let routed = bed.envoy().endpoints().await?;
            ensure!(routed == [bed.node(2).ip], "acknowledged, and Envoy routes to {routed:?}");
            expect(bed, &["drain", &node], 0, &["drained already"]).await?;
            expect(bed, &["status"], 0, &["draining", "new disk"]).await?;
            expect(bed, &["wait", "--count", "1"], 0, &[]).await?;
            // The last one is not taken by mistake.
            let last = bed.node(2).name.clone();
            expect(bed, &["drain", &last], 1, &["last node", "--force"]).await?;
            expect(bed, &["resume", &node, "--wait"], 0, &["let in again"]).await?;
            ensure!(bed.envoy().endpoints().await? == bed.up());
            expect(bed, &["drain", &last, "--force"], 0, &["withdrawn"]).await?;
            expect(bed, &["drain", &node, "--force", "--wait"], 0, &["withdrawn"]).await?;
            expect(bed, &["check"], 3, &["docs/checks.md#no-node-serves"]).await?;
            expect(bed, &["status"], 3, &["no node is routed to", "1/1 envoys in sync"]).await?;
            let status = document(bed, &["status", "-o", "json"], 3, "status").await?;
            ensure!(status["ok"] == false, "{status}");
            eventually(SOON, "the history tells of the marks", async || {
                let events = expect(bed, &["events"], 0, &[]).await?;
                let marked = events.lines().filter(|line| line.contains(" marked ")).count();
                ensure!(marked == 3, "{events}");
                Ok(())
            })
            .await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_moves_where_it_is_told() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            expect(bed, &["verify", "--wait", "10"], 0, &["everybody agrees"]).await?;
            for _ in 0..2 {
                let leader = bed.leader().await?;
                let to = *bed.line().await?.last().context("nobody in line")?;
                ensure!(to != leader, "one in line only");
                let name = bed.node(to).name.clone();
                expect(bed, &["switchover", "--to", &name], 0, &[&name, "leads"]).await?;
                ensure!(bed.leader().await? == to, "another leads");
                expect(bed, &["switchover", "--to", &name], 1, &["leads already"]).await?;
                // The others queue anew, and nothing else has changed.
                eventually(SOON, "all stand in line again", async || {
                    ensure!(bed.line().await?.len() == 3);
                    Ok(())
                })
                .await?;
                expect(bed, &["verify", "--wait", "10"], 0, &["everybody agrees"]).await?;
            }
            expect(bed, &["switchover", "--to", "nobody"], 1, &["no node is called"]).await?;
            expect(bed, &["switchover"], 0, &["leads"]).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_difference_is_found() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            bed.agreement(SOON, &bed.up()).await?;
            // A ghost: a key that hangs on a lease of nobody's.
            let [a, b, c, _] = bed.node(1).ip.octets();
            let lease = bed.etcd.grant(LONG).await?;
            let ghost = "/muster/nodes/ghost-00000000000000aa";
            let value = format!(
                r#"{{"v":1,"ip":"{}","ports":{{"http":1,"control":1,"metrics":1}},"name":"ghost","instance":"00000000000000aa","state":"serving","since":"2026-11-21T10:00:00Z"}}"#,
                Ipv4Addr::from_octets([a, b, c, 250])
            );
            bed.etcd.ctl(&["put", "--lease", &lease, ghost, &value], None).await?;
            let found = expect(bed, &["verify", "--wait", "1"], 3, &["list of ghost is absent"]).await?;
            ensure!(found.contains("1 differences"), "{found}");
            let hints = ["docs/checks.md#file-unreadable", "docs/checks.md#node-does-not-answer"];
            expect(bed, &["check"], 3, &hints).await?;
            bed.etcd.ctl(&["del", ghost], None).await?;
            expect(bed, &["verify", "--wait", "10"], 0, &[]).await?;

            // A key of nobody's.
            bed.etcd.ctl(&["put", "/muster/nodes/garbage", "<script>"], None).await?;
            expect(bed, &["verify", "--wait", "1"], 3, &["unreadable", "garbage"]).await?;
            expect(bed, &["check"], 3, &["docs/checks.md#unreadable-keys"]).await?;
            expect(bed, &["status"], 3, &["unreadable keys are skipped: 1", "garbage"]).await?;
            document(bed, &["verify", "--wait", "0", "-o", "json"], 3, "verify").await?;
            document(bed, &["check", "-o", "json"], 3, "check").await?;
            bed.etcd.ctl(&["del", "/muster/nodes/garbage"], None).await?;

            // A file that is behind: its agent is frozen, its nginx is not.
            let behind = bed.follower().await?;
            let name = bed.node(behind).name.clone();
            bed.node(behind).signal_agent(Signal::SIGSTOP)?;
            let other = bed.node(if behind == 1 { 2 } else { 1 }).name.clone();
            expect(bed, &["drain", &other], 0, &[]).await?;
            expect(bed, &["verify", "--wait", "1"], 3, &[&format!("list of {name} differs"), "other states"]).await?;
            expect(bed, &["status"], 3, &["differs @"]).await?;
            expect(bed, &["check"], 3, &["docs/checks.md#file-differs"]).await?;
            bed.node(behind).signal_agent(Signal::SIGCONT)?;
            expect(bed, &["verify", "--wait", "15"], 0, &[]).await?;

            // An Envoy that is behind, and one that refuses, as the leader would write of them: one that is only frozen
            // counts as gone after three seconds.
            let current = bed.node(bed.leader().await?).list().await?.says.digest;
            let rejected = "envoy slow rejected its configuration: no such cluster";
            for (digest, rejection, says, hint, in_sync) in [
                ("0000000000000000", None, "envoy slow is behind", "docs/checks.md#envoy-behind", "1/2 envoys in sync"),
                ("0000000000000000", Some("no such cluster"), rejected, "docs/checks.md#envoy-rejects", "1/2 envoys in sync"),
                // What it rejected was no list.
                (&current, Some("no such cluster"), rejected, "docs/checks.md#envoy-rejects", "2/2 envoys in sync"),
            ] {
                let writer = term(bed).await?;
                let record = json!({"v": 1, "connected": true, "through": 1, "digest": digest, "rejection": rejection, "writer": writer});
                bed.etcd.ctl(&["put", "/muster/envoys/slow", &record.to_string()], None).await?;
                expect(bed, &["verify", "--wait", "0"], 3, &[says]).await?;
                expect(bed, &["check"], 3, &[hint]).await?;
                expect(bed, &["status"], 3, &[in_sync, says]).await?;
            }
            // All is well with this one, says a leader that nobody remembers.
            let record = json!({"v": 1, "connected": true, "through": 1, "digest": current, "writer": 1});
            bed.etcd.ctl(&["put", "/muster/envoys/slow", &record.to_string()], None).await?;
            let unmet = "envoy slow is not connected to the one that leads";
            expect(bed, &["verify", "--wait", "0"], 4, &[unmet]).await?;
            expect(bed, &["check"], 3, &["docs/checks.md#envoy-not-connected"]).await?;
            expect(bed, &["status"], 3, &["1/1 envoys in sync", unmet]).await?;
            bed.etcd.ctl(&["del", "/muster/envoys/slow"], None).await?;
            // No time at all is never enough.
            expect(bed, &["resume", &other, "--wait", "0"], 5, &["not acknowledged"]).await?;
            expect(bed, &["verify", "--wait", "15"], 0, &[]).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_is_gone_is_named_until_its_record_is() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(2)
        .envoys(2)
        .ttl(LONG)
        .run(async |bed| {
            expect(bed, &["check", "--wait", "20"], 0, &["checks passed"]).await?;
            let [stays, goes] = bed.envoys() else { anyhow::bail!("two Envoys") };
            goes.kill().await?;
            let said = format!("envoy {} is not connected", goes.id());
            expect(bed, &["status"], 3, &["1/1 envoys in sync", &said]).await?;
            expect(bed, &["verify", "--wait", "0"], 4, &[&said]).await?;
            expect(bed, &["check"], 3, &[&goes.id(), "docs/checks.md#envoy-not-connected"]).await?;
            let status = document(bed, &["status", "-o", "json"], 3, "status").await?;
            let connected: Vec<(&Value, &Value)> = status["envoys"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| (&one["id"], &one["connected"]))
                .collect();
            ensure!(
                connected == [(&json!(stays.id()), &json!(true)), (&json!(goes.id()), &json!(false))],
                "{status}"
            );

            // The last one, and what is said of a fleet that has none.
            stays.kill().await?;
            expect(bed, &["check"], 3, &["docs/checks.md#no-envoy", &stays.id()]).await?;
            expect(bed, &["status"], 3, &["no Envoy is connected to the leader"]).await?;
            stays.start()?;

            // Gone for good, as the hint says: nobody writes it again.
            bed.etcd.ctl(&["del", &format!("/muster/envoys/{}", goes.id())], None).await?;
            expect(bed, &["check", "--wait", "20"], 0, &["checks passed"]).await?;
            expect(bed, &["drain", &bed.node(1).name, "--wait"], 0, &["every envoy has acknowledged it"])
                .await?;
            expect(bed, &["verify", "--wait", "10"], 0, &["everybody agrees: 2 nodes, 1 envoys"]).await?;
            expect(bed, &["status"], 0, &["1/1 envoys in sync"]).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_nobody_leads_and_one_without_an_envoy_are_not_well() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(2)
        .envoys(0)
        .ttl(LONG)
        .run(async |bed| {
            bed.lists_agree(SOON, &bed.up()).await?;
            expect(bed, &["status"], 3, &["2/2 files agree", "no Envoy is connected to the leader"]).await?;
            expect(bed, &["check"], 3, &["docs/checks.md#no-envoy"]).await?;
            expect(bed, &["verify", "--wait", "0"], 4, &["no Envoy is connected to the leader"]).await?;

            // Agents that stand still do not put themselves in line again.
            for node in bed.nodes() {
                node.signal_agent(Signal::SIGSTOP)?;
            }
            bed.etcd.ctl(&["del", "--prefix", "/muster/leader/"], None).await?;
            expect(bed, &["status"], 3, &["no leader"]).await?;
            expect(bed, &["check"], 3, &["docs/checks.md#nobody-leads"]).await?;
            for node in bed.nodes() {
                node.signal_agent(Signal::SIGCONT)?;
            }
            expect(bed, &["wait", "--leader", "--count", "2"], 0, &["after"]).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_known_is_said_so() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(2)
        .ttl(LONG)
        .run(async |bed| {
            bed.agreement(SOON, &bed.up()).await?;
            expect(bed, &["wait", "--count", "9", "--timeout", "1"], 5, &["2 nodes are routed to, not 9"])
                .await?;
            let registered = bed.node(1).ip.to_string();
            expect(bed, &["wait", "--gone", &registered, "--timeout", "0"], 5, &["is registered"]).await?;
            expect(bed, &["wait"], 2, &["--count"]).await?;
            expect(bed, &["status", "--watch", "0"], 2, &["--watch"]).await?;
            expect(bed, &["events", "--since", "often"], 2, &["such as 90s"]).await?;

            // One member of three: everything is known, and not all is well.
            bed.etcd.kill(3).await?;
            expect(bed, &["status"], 3, &["etcd 2/3"]).await?;
            expect(bed, &["check"], 3, &["docs/checks.md#etcd-member-silent"]).await?;
            bed.etcd.kill_all().await?;
            for command in
                [&["status"][..], &["events"], &["drain", "x"], &["switchover"], &["verify", "--wait", "0"]]
            {
                expect(bed, command, 4, &["nothing can be said"]).await?;
            }
            expect(bed, &["check"], 4, &["docs/checks.md#registry-unreadable"]).await?;
            expect(bed, &["wait", "--leader", "--timeout", "0"], 4, &["waited in vain"]).await?;
            document(bed, &["status", "-o", "json"], 4, "status").await?;
            document(bed, &["verify", "--wait", "0", "-o", "json"], 4, "verify").await?;
            bed.etcd.start_all()?;
            bed.etcd.healthy(SOON).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_was_replaced_under_a_node_is_named() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(2)
        .site_file("index.html", 3)
        .run(async |bed| {
            expect(bed, &["check"], 0, &["node1 serves the site as it is"]).await?;
            let site = bed.node(1).site();
            std::fs::rename(&site, site.with_extension("old"))?;
            std::fs::create_dir(&site)?;
            std::fs::write(site.join("index.html"), "v2")?;
            let says =
                ["node1 serves the site as it is: not so", "replaced", "docs/checks.md#site-not-served"];
            let text = expect(bed, &["check"], 3, &says).await?;
            ensure!(text.contains("\u{2713} node2 serves the site as it is"), "{text}");
            ensure!(bed.node(1).said("the site is not served as it is")?.len() == 1, "once in the log");
            bed.stop_node(1).await?;
            bed.start_node(1)?;
            expect(bed, &["check"], 0, &["node1 serves the site as it is"]).await?;
            Ok(())
        })
        .await
}
