//! Values nobody should have written, under the fleet's own prefix.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::Testbed;

const SOON: Duration = Duration::from_secs(30);
const INSTANCE: &str = "0123456789abcdef";

/// A node's value as it should be, but for one field.
fn node(field: &str, value: Value) -> Vec<u8> {
    let mut node = json!({
        "v": 1, "ip": "127.9.9.9", "ports": {"http": 8080, "control": 18000, "metrics": 9464}, "name": "evil",
        "instance": INSTANCE, "state": "serving", "reason": "", "since": "2026-01-01T00:00:00Z", "version": "0.1.0",
    });
    node[field] = value;
    node.to_string().into_bytes()
}

fn bad_values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = vec![
        b"not json".to_vec(),
        b"{\"v\":1,\"ip\":".to_vec(),
        b"\xef\xbb\xbf{\"v\":1}".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        vec![b'['; 100_000],
        vec![b'x'; 1_400_000],
    ];
    let ips = [
        "",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "169.254.169.254",
        "10.1.2.3",
        "010.0.0.1",
        "1.2.3",
        "::1",
        "::ffff:127.0.0.1",
        "fe80::1%lo",
        "localhost",
        "<script>alert(1)</script>",
        "\"}{\n",
        "\u{202e}127.0.0.1",
    ];
    values.extend(ips.map(|ip| node("ip", json!(ip))));
    values.extend([0, 70_000].map(|port| node("ports", json!({"http": port, "control": 1, "metrics": 1}))));
    values.push(node("ports", json!({"http": "80", "control": 1, "metrics": 1})));
    values.push(node("v", json!(2)));
    values.push(node("state", json!("excellent")));
    values.push(node("name", json!("../../etc")));
    values.push(node("reason", json!("<script>".repeat(1000))));
    values
}

async fn litter(bed: &Testbed) -> anyhow::Result<()> {
    let lease = format!("--lease={}", bed.etcd.grant(Duration::from_secs(600)).await?);
    let good_key = format!("/muster/nodes/evil-{INSTANCE}");
    // Each at a key of its own and under the name that the key has, so that all are there at once and only the value is
    // wrong.
    for (number, value) in bad_values().into_iter().enumerate() {
        let name = format!("evil{number}");
        let value = match String::from_utf8(value) {
            Ok(text) => text.replace("\"name\":\"evil\"", &format!("\"name\":\"{name}\"")).into_bytes(),
            Err(binary) => binary.into_bytes(),
        };
        bed.etcd.ctl(&["put", &format!("/muster/nodes/{name}-{INSTANCE}"), &lease], Some(&value)).await?;
    }
    // etcdctl takes an empty value as an argument only.
    bed.etcd.ctl(&["put", &good_key, "", &lease], None).await?;
    let good = node("v", json!(1));
    // A value as it should be, at keys that are not.
    for key in ["/muster/nodes/", "/muster/nodes/evil", "/muster/nodes/../evil", "/muster/nodes/a/b-\u{1}"] {
        bed.etcd.ctl(&["put", key, &lease], Some(&good)).await?;
    }
    // No lease: nothing would ever remove it.
    bed.etcd.ctl(&["put", &good_key], Some(&good)).await?;
    for key in ["/muster/leader/0", "/muster/leader/", "/muster/leader/zzz", "/muster/leader/1"] {
        bed.etcd.ctl(&["put", key], Some(b"{}")).await?;
        bed.etcd.ctl(&["put", &format!("{key}-leased"), &lease], Some(b"{\"v\":1}")).await?;
    }
    bed.etcd.ctl(&["put", "/muster/marks/"], Some(b"{")).await?;
    bed.etcd.ctl(&["put", "/muster/marks/evil"], Some(b"\xff")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_values_never_hide_good_ones() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            litter(bed).await?;
            bed.lists_agree(SOON, &bed.up()).await?;
            bed.add_node().await?;
            bed.stop_node(1).await?;
            bed.lists_agree(SOON, &bed.up()).await?;
            bed.envoys_know(SOON, &bed.up()).await?;
            for node in bed.nodes().iter().filter(|node| node.is_up()) {
                let page = String::from_utf8(node.get("/ips.html").await?.body)?;
                ensure!(!page.contains("<script>alert"), "{}'s page carries a stranger's script", node.name);
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_starts_on_a_registry_full_of_rubbish() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(0)
        .etcd(1)
        .run(async |bed| {
            litter(bed).await?;
            for _ in 0..2 {
                bed.add_node().await?;
            }
            bed.lists_agree(Duration::from_secs(15), &bed.up()).await?;
            bed.envoys_know(SOON, &bed.up()).await?;
            bed.leader().await?;
            Ok(())
        })
        .await
}
