//! The container whose network namespace was joined has died.

use std::time::Duration;

use anyhow::ensure;
use testbed::Testbed;
use testbed::network::{alone, ip};
use tokio::time::Instant;

use super::{AMPLE, ready};

/// Longer than an Envoy with `lo` alone would stay.
const STAYS: Duration = Duration::from_secs(2);

#[test]
fn lo_alone_ends_it_with_1_and_another_interface_does_not() -> anyhow::Result<()> {
    alone(|| {
        let builder = Testbed::builder().etcd(1).nodes(1).supervised(&["--require-network", "true"]);
        let prepared = ip(&["link", "add", "out", "type", "veth", "peer", "name", "peer"])
            .and_then(|()| ip(&["address", "add", "192.0.2.1/24", "dev", "out"]))
            .and_then(|()| ip(&["link", "set", "out", "up"]));
        async move {
            prepared?;
            builder
                .run(async |bed| {
                    let envoy = bed.envoy();
                    ready(envoy).await?;
                    let began = Instant::now();
                    while began.elapsed() < STAYS {
                        ensure!(envoy.ask_supervisor("/readyz").await?.status == 200);
                        ensure!(envoy.process()?.exit().is_none(), "it ended beside an interface");
                    }
                    ip(&["link", "delete", "out"])?;
                    let exit = envoy.process()?.ended(AMPLE).await?;
                    ensure!(exit.code == Some(1), "{exit:?}");
                    let said = envoy.said("network namespace gone, only lo is left: leaving")?;
                    ensure!(said.len() == 1, "{said:?}");
                    Ok(())
                })
                .await
        }
    })
}

#[test]
fn who_may_be_alone_stays() -> anyhow::Result<()> {
    alone(|| {
        Testbed::builder().etcd(1).nodes(1).supervised(&["--require-network", "false"]).run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let began = Instant::now();
            while began.elapsed() < STAYS {
                ensure!(envoy.ask_supervisor("/readyz").await?.status == 200);
            }
            Ok(())
        })
    })
}
