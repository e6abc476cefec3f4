//! What this container's metrics port tells: Envoy's metrics, then those of `muster edge`.

use super::admin::Admin;
use crate::metrics::{EdgeMetrics, Format, Scrape};

#[derive(Clone, Debug)]
pub(super) struct Both {
    pub(super) admin: Admin,
    pub(super) metrics: EdgeMetrics,
}

impl Scrape for Both {
    /// In Prometheus' own format, the one that Envoy knows. Of an Envoy that does not answer there is nothing, which
    /// `muster_edge_envoy_up` explains.
    async fn scrape(&self, _: Format) -> (Format, String) {
        let mut text = self.admin.prometheus().await.unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&self.metrics.text(Format::Prometheus));
        (Format::Prometheus, text)
    }
}
