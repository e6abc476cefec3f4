//! An address that somebody else has now.

use std::net::SocketAddrV4;

use anyhow::ensure;
use testbed::Testbed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{CLOSED, LONG, SOON};

/// Answers 200 to everything, as any other server would: without an instance.
async fn stranger(at: SocketAddrV4) -> anyhow::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(at).await?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = client.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
                let _ = client.write_all(answer).await;
            });
        }
    })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_gone_although_a_stranger_answers_on_its_address() -> anyhow::Result<()> {
    Testbed::builder()
        .linked()
        .ttl(LONG)
        .run(async |bed| {
            let number = bed.follower().await?;
            let node = bed.node(number);
            let _stranger = stranger(SocketAddrV4::new(bed.addresses.behind(99), node.http.port())).await?;
            node.redirect_http(Some(SocketAddrV4::new(bed.addresses.behind(99), node.http.port())))?;
            ensure!(node.get("/healthz").await?.status == 200);
            bed.kill_node(number).await?;
            bed.agreement(CLOSED, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_itself_routes_nothing_to_a_stranger_on_a_listed_address() -> anyhow::Result<()> {
    Testbed::builder()
        .linked()
        .ttl(LONG)
        .run(async |bed| {
            let (envoy, node) = (bed.envoy(), bed.node(bed.follower().await?));
            testbed::eventually(SOON, "all nodes have passed a check", async || {
                ensure!(envoy.failing().await?.is_empty());
                Ok(())
            })
            .await?;
            let at = SocketAddrV4::new(bed.addresses.behind(99), node.http.port());
            let _stranger = stranger(at).await?;
            // The agent still finds its own nginx behind the link, so nothing but Envoy can notice.
            node.redirect_http(Some(at))?;
            testbed::eventually(SOON, "Envoy rejects the stranger", async || {
                ensure!(envoy.failing().await? == [node.ip]);
                Ok(())
            })
            .await?;
            ensure!(envoy.endpoints().await?.len() == 3, "it was taken from the list: nothing is shown");
            for _ in 0..100 {
                let answer = envoy.get("/ips.txt").await?;
                ensure!(!answer.header("x-served-by").is_empty(), "the stranger answered: {answer:?}");
            }
            node.redirect_http(None)?;
            testbed::eventually(SOON, "its own nginx is accepted again", async || {
                ensure!(envoy.failing().await?.is_empty());
                Ok(())
            })
            .await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_gone_although_a_stranger_answers_on_its_address() -> anyhow::Result<()> {
    Testbed::builder()
        .linked()
        .ttl(LONG)
        .run(async |bed| {
            let leader = bed.leader().await?;
            let node = bed.node(leader);
            let _stranger = stranger(SocketAddrV4::new(bed.addresses.behind(99), node.http.port())).await?;
            node.redirect_http(Some(SocketAddrV4::new(bed.addresses.behind(99), node.http.port())))?;
            bed.kill_node(leader).await?;
            bed.agreement(CLOSED, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_that_is_given_a_dead_ones_address_takes_its_place() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let (leader, follower) = (bed.leader().await?, bed.follower().await?);
            for number in [follower, leader] {
                let before = bed.node_key(number).await?;
                bed.node(number).kill().await?;
                // At once, as an engine does, and under the name of a new container.
                bed.node(number).start_as("heir")?;
                bed.agreement(SOON, &bed.up()).await?;
                testbed::eventually(SOON, "only the heir is registered there", async || {
                    let keys = bed.etcd.get_prefix("/muster/nodes/").await?.keys;
                    ensure!(keys.iter().all(|key| key.key != before.key), "{keys:?}");
                    ensure!(keys.len() == 3, "{keys:?}");
                    Ok(())
                })
                .await?;
                let list = bed.lists_agree(SOON, &bed.up()).await?.says;
                let row = list.nodes.iter().find(|row| row.ip == bed.node(number).ip);
                ensure!(row.is_some_and(|row| row.name == "heir"), "{list:?}");
                bed.stop_node(number).await?;
                bed.start_node(number)?;
                bed.agreement(SOON, &bed.up()).await?;
            }
            Ok(())
        })
        .await
}
