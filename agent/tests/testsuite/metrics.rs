//! What a scraper and a health check get.

use std::collections::{BTreeMap, BTreeSet};

use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, StatusCode};
use muster::metrics::{EdgeMetrics, Format, Health, ListFile, Listed, Metrics, Phase, WriteResult, serve};
use regex::Regex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Series of a scrape by name and labels; checks the grammar of every line on the way.
fn series(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    let sample = Regex::new(r#"^([a-z_]+(?:\{[a-z_]+="[^"\\]*"(?:,[a-z_]+="[^"\\]*")*\})?) (\S+)$"#).unwrap();
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(help.ends_with('.') && !help.ends_with(".."), "{line}");
            assert!(helped.insert(name.to_owned()), "{name} twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(
                helped.contains(name) && kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{line}"
            );
        } else {
            let found = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
            let value = found[2].parse().unwrap();
            assert!(samples.insert(found[1].to_owned(), value).is_none(), "{line} twice");
        }
    }
    (kinds, samples)
}

#[test]
fn names_are_as_promised_and_clean() {
    let (mut kinds, mut samples) = series(&Metrics::new("1.2.3", "abc").text(Format::Prometheus));
    let (edge_kinds, edge_samples) = series(&EdgeMetrics::new("1.2.3", "abc").text(Format::Prometheus));
    assert!(edge_kinds.contains_key("muster_build_info") && edge_kinds.contains_key("process_open_fds"));
    kinds.extend(edge_kinds);
    samples.extend(edge_samples);
    for name in [
        "muster_build_info",
        "muster_node_state",
        "muster_leader",
        "muster_leader_changes_total",
        "muster_nodes",
        "muster_list_revision",
        "muster_list_changed_timestamp_seconds",
        "muster_list_apply_duration_seconds",
        "muster_list_writes_total",
        "muster_membership_events_total",
        "muster_registry_last_contact_timestamp_seconds",
        "muster_registry_stale",
        "muster_registry_requests_total",
        "muster_registry_request_duration_seconds",
        "muster_watch_restarts_total",
        "muster_lease_expires_timestamp_seconds",
        "muster_lease_losses_total",
        "muster_xds_streams",
        "muster_xds_pushes_total",
        "muster_xds_responses_total",
        "muster_xds_ack_duration_seconds",
        "muster_drains_total",
        "muster_edge_envoy_up",
        "muster_edge_envoy_ready",
        "muster_edge_envoy_restarts_total",
        "muster_edge_drains_total",
        "muster_drain_duration_seconds",
        "muster_nginx_up",
        "muster_nginx_restarts_total",
        "muster_nginx_probe_duration_seconds",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(kinds.contains_key(name), "{name} is missing");
    }
    for (name, kind) in &kinds {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
        assert!(matches!(kind.as_str(), "counter" | "gauge" | "histogram"), "{name} is a {kind}");
        let base = |series: &str| {
            let name = series.split('{').next().unwrap();
            let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            if kind == "histogram" { part.unwrap_or(name).to_owned() } else { name.to_owned() }
        };
        assert!(samples.keys().any(|series| base(series) == *name), "{name} has no series from the start");
    }
    for (series, value) in &samples {
        let alive = ["muster_build_info", "muster_node_state{state=\"starting\"}", "process_"];
        assert_eq!(*value != 0.0, alive.iter().any(|start| series.starts_with(start)), "{series} is {value}");
    }
    assert_eq!(samples[r#"muster_build_info{version="1.2.3",revision="abc"}"#], 1.0);
    assert_eq!(samples.keys().filter(|series| series.starts_with("muster_list_writes_total")).count(), 12);
}

#[test]
fn a_clone_counts_into_the_same_series() {
    let metrics = Metrics::new("0", "0");
    let other = metrics.clone();
    other.list_writes.get_or_create(&(ListFile::IpsHtml, WriteResult::Failed)).inc();
    other.set_phase(Phase::Draining);
    other.set_nodes(Listed::Serving, 3);
    other.list_apply_duration.observe(0.004);
    let (_, samples) = series(&metrics.text(Format::Prometheus));
    assert_eq!(samples[r#"muster_list_writes_total{file="ips.html",result="failed"}"#], 1.0);
    assert_eq!(samples[r#"muster_nodes{state="serving"}"#], 3.0);
    assert_eq!(samples[r#"muster_node_state{state="draining"}"#], 1.0);
    assert_eq!(samples[r#"muster_node_state{state="starting"}"#], 0.0);
    assert_eq!(samples["muster_list_apply_duration_seconds_count"], 1.0);
}

async fn ask(port: u16, path: &str, accept: &str) -> (StatusCode, String, String) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let answer = muster::http::request(stream, Method::GET, "localhost", path, &[(ACCEPT, accept)], 1 << 20)
        .await
        .unwrap();
    let kind = answer.headers.get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap()).to_owned();
    (answer.status, kind, String::from_utf8(answer.body.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn the_port_answers_three_paths_and_ends_when_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (healths, health) =
        watch::channel(Health { live: Ok(()), ready: Err("nginx does not answer".into()) });
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, Metrics::new("0", "0"), health, shutdown.clone()));

    assert_eq!(ask(port, "/livez", "*/*").await.0, StatusCode::OK);
    let (status, _, body) = ask(port, "/readyz", "*/*").await;
    assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "nginx does not answer\n"));
    healths.send_replace(Health { live: Err("the supervisor ended".into()), ready: Ok(()) });
    assert_eq!(ask(port, "/livez", "*/*").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(port, "/readyz", "*/*").await.2, "ok\n");

    let (status, kind, body) = ask(port, "/metrics", "*/*").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(!body.contains("# EOF"));
    series(&body);
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let (_, kind, body) = ask(port, "/metrics", prometheus).await;
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(body.ends_with("# EOF\n"));
    for path in ["/", "/metrics/", "/config", "/livez/../metrics"] {
        assert_eq!(ask(port, path, "*/*").await.0, StatusCode::NOT_FOUND, "{path}");
    }

    // An open connection without a request does not hold up the end.
    let idle = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(20), server).await.expect("ends").unwrap().unwrap();
    drop(idle);
}
