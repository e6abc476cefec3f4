//! The balancer: a real Envoy whose bootstrap knows only where agents are, and what its admin interface says.

mod files;
mod supervised;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::address::Addresses;
use crate::certificates::Certificates;
use crate::http::{self, Answer};
use crate::process::{Keeper, Process, lock};
use crate::programs::Programs;
use files::{AGENTS, OWN, runtime, secrets};
use supervised::Supervision;

/// One Envoy, numbered from 1. All of a testbed are told to open the same edge.
#[derive(Debug)]
pub struct Envoy {
    pub number: u8,
    pub admin: SocketAddrV4,
    pub edge: SocketAddrV4,
    /// The agents' control addresses, as a file Envoy watches: what DNS tells it elsewhere.
    agents: PathBuf,
    program: PathBuf,
    keeper: Arc<Keeper>,
    /// `None`: in the clear.
    certificates: Option<Certificates>,
    /// `None`: Envoy itself is what is started.
    supervision: Option<Supervision>,
    process: Mutex<Option<Process>>,
}

impl Envoy {
    pub fn new(
        number: u8,
        edge: SocketAddrV4,
        addresses: Addresses,
        programs: &Programs,
        keeper: &Arc<Keeper>,
    ) -> Self {
        Self {
            number,
            admin: addresses.admin(number),
            edge,
            agents: keeper.directory.join(format!("envoy{number}-agents.json")),
            program: programs.envoy.clone(),
            keeper: Arc::clone(keeper),
            certificates: None,
            supervision: None,
            process: Mutex::new(None),
        }
    }

    /// The same with TLS to the agents.
    pub fn secured(self, certificates: Option<Certificates>) -> Self {
        Self { certificates, ..self }
    }

    /// # Errors
    /// When its files cannot be written or it cannot be started.
    pub fn start(&self) -> anyhow::Result<()> {
        let name = format!("envoy{}", self.number);
        if !self.agents.exists() {
            self.set_agents(&[])?;
        }
        let bootstrap = self.keeper.directory.join(format!("{name}.json"));
        std::fs::write(&bootstrap, self.bootstrap().to_string())?;
        if let Some(certificates) = &self.certificates {
            for (name, secret) in secrets(certificates) {
                std::fs::write(self.secret_file(name), json!({"resources": [secret]}).to_string())?;
            }
        }
        let bootstrap = bootstrap.display().to_string();
        // No base id, so no shared memory left behind; one worker is enough and starts faster.
        let args = ["-c", &bootstrap, "--config-yaml", runtime(), "--disable-hot-restart"];
        let args =
            args.into_iter().chain(["--concurrency", "1", "-l", "info", "--file-flush-interval-msec", "100"]);
        let process = match &self.supervision {
            Some(by) => {
                let args = by.args(&self.program, args);
                self.keeper.spawn(&name, &by.muster, args, &[])?
            }
            None => self.keeper.spawn(&name, &self.program, args, &[])?,
        };
        *lock(&self.process) = Some(process);
        Ok(())
    }

    /// # Errors
    /// When it does not end.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let process = lock(&self.process).take();
        if let Some(process) = process {
            process.signal(Signal::SIGKILL);
            process.ended(Duration::from_secs(10)).await?;
        }
        Ok(())
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        lock(&self.process).as_ref().filter(|process| process.exit().is_none()).map(|process| process.pid)
    }

    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Tells Envoy where agents may be found, whichever of them leads.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn set_agents(&self, controls: &[SocketAddrV4]) -> anyhow::Result<()> {
        let endpoint = |address: &SocketAddrV4| json!({"endpoint": {"address": socket(*address)}});
        let endpoints: Vec<Value> = controls.iter().map(endpoint).collect();
        let assignment = json!({
            "version_info": format!("{controls:?}"),
            "resources": [{
                "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": "xds",
                "endpoints": [{"lb_endpoints": endpoints}],
            }],
        });
        // Envoy looks at a watched file only when another is moved over it.
        let next = self.agents.with_extension("next");
        std::fs::write(&next, assignment.to_string())?;
        Ok(std::fs::rename(next, &self.agents)?)
    }

    /// A request through the edge.
    ///
    /// # Errors
    /// When there was no answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        http::get(self.edge, path, Duration::from_secs(6)).await
    }

    /// Addresses Envoy knows in the cluster `nginx`, sorted, healthy or not.
    ///
    /// # Errors
    /// When its admin interface does not answer.
    pub async fn endpoints(&self) -> anyhow::Result<Vec<Ipv4Addr>> {
        self.addresses(|_| true).await
    }

    /// Addresses in the cluster `nginx` that fail Envoy's own health check, sorted.
    ///
    /// # Errors
    /// When its admin interface does not answer.
    pub async fn failing(&self) -> anyhow::Result<Vec<Ipv4Addr>> {
        self.addresses(|host| host["health_status"]["failed_active_health_check"] == true).await
    }

    /// Days until the certificate that it shows agents ends.
    ///
    /// # Errors
    /// When its admin interface does not answer, or it has none.
    pub async fn certificate_days(&self) -> anyhow::Result<u64> {
        let certificates = self.admin_json("/certs").await?;
        let mut days = certificates["certificates"].as_array().into_iter().flatten();
        let days = days.find_map(|one| one["cert_chain"][0]["days_until_expiration"].as_str()?.parse().ok());
        days.with_context(|| format!("no certificate in {certificates}"))
    }

    /// `/config_dump`, with endpoints.
    ///
    /// # Errors
    /// When its admin interface does not answer.
    pub async fn config_dump(&self) -> anyhow::Result<Value> {
        self.admin_json("/config_dump?include_eds").await
    }

    /// Counters and gauges whose name matches `filter`, a regular expression.
    ///
    /// # Errors
    /// When its admin interface does not answer.
    pub async fn stats(&self, filter: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = self.admin_body(&format!("/stats?filter={filter}")).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = |line: &str| -> Option<(String, u64)> {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(text.lines().filter_map(line).collect())
    }

    async fn addresses(&self, of: impl Fn(&Value) -> bool) -> anyhow::Result<Vec<Ipv4Addr>> {
        let clusters = self.admin_json("/clusters?format=json").await?;
        let statuses = clusters["cluster_statuses"].as_array().context("no cluster_statuses")?;
        let nginx =
            statuses.iter().find(|status| status["name"] == "nginx").context("no cluster nginx yet")?;
        let hosts = nginx["host_statuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let address = |host: &Value| host["address"]["socket_address"]["address"].as_str()?.parse().ok();
        let mut found: Vec<Ipv4Addr> = hosts.iter().filter(|host| of(host)).filter_map(address).collect();
        found.sort_unstable();
        Ok(found)
    }

    async fn admin_json(&self, path: &str) -> anyhow::Result<Value> {
        let body = self.admin_body(path).await?;
        ensure!(!body.is_empty(), "nothing at {path}");
        serde_json::from_slice(&body).context("reading Envoy's JSON")
    }

    async fn admin_body(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        match &self.supervision {
            Some(by) => http::body_by(&by.socket, path).await,
            None => http::body(self.admin, path).await,
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = lock(&self.process).as_ref() {
            process.signal(signal);
        }
    }

    fn bootstrap(&self) -> Value {
        let by_ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
        let retry = json!({"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}});
        json!({
            "node": {"id": format!("envoy-{}", self.number), "cluster": "muster"},
            "admin": {"address": self.supervision.as_ref().map_or_else(|| socket(self.admin), Supervision::pipe)},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "retry_policy": retry}}],
                },
                "cds_config": by_ads,
                "lds_config": by_ads,
            },
            "static_resources": {"clusters": [self.xds_cluster()]},
        })
    }

    /// No health check: followers refuse the stream at once, and round robin walks on to the leader.
    fn xds_cluster(&self) -> Value {
        let http2 = json!({"connection_keepalive":
            {"interval": "1s", "timeout": "2s", "interval_jitter": {"value": 15}}});
        let mut cluster = json!({
            "name": "xds",
            "type": "EDS",
            "eds_cluster_config": {"eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": self.agents.display().to_string()},
            }},
            "connect_timeout": "0.3s",
            "lb_policy": "ROUND_ROBIN",
            "ignore_health_on_host_removal": true,
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
            "upstream_connection_options": {"tcp_keepalive":
                {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": http2},
            }},
        });
        if self.certificates.is_some() {
            cluster["transport_socket"] = self.transport_socket();
        }
        cluster
    }

    /// Certificates come by files that are watched, so that new ones are used without a restart.
    fn transport_socket(&self) -> Value {
        let from_file = |name: &str| {
            let source = json!({"path": self.secret_file(name).display().to_string()});
            json!({"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": source}})
        };
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "agent.muster",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                    "tls_certificate_sds_secret_configs": [from_file(OWN)],
                    "validation_context_sds_secret_config": from_file(AGENTS),
                },
            },
        })
    }

    /// Envoy takes one secret a file.
    fn secret_file(&self, name: &str) -> PathBuf {
        self.agents.with_file_name(format!("envoy{}-secret-{name}.json", self.number))
    }
}

fn socket(address: SocketAddrV4) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
