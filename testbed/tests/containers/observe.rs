//! Prometheus beside a whole fleet, as `make observe` starts it: it finds everybody, every query of the dashboard has an
//! answer, and every alert can be asked. Needs an engine and images, so it is ignored unless asked for: `make test` runs
//! it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::engine::{Fleet, eventually};
use serde_json::Value;

const STARTED: Duration = Duration::from_secs(60);
/// Two readings of everybody, and the next look at the list.
const NOTICED: Duration = Duration::from_secs(45);
const MEMBERS: usize = 3;
const ENVOYS: usize = 2;

#[test]
#[ignore = "needs a container engine and the images of `make images`"]
fn whatever_is_watched_can_be_seen() {
    let fleet = Fleet::up(3);
    fleet.agrees("up", 3, STARTED);
    let prometheus = Prometheus::beside(&fleet);
    prometheus.hears(3);
    each_agents_metrics_are_well_formed(&fleet);
    its_certificate_reads_no_key(&fleet);

    fleet.scale(5);
    fleet.agrees("scaled to 5", 5, STARTED);
    prometheus.hears(5);
    let stopped = fleet.follower();
    fleet.docker(["stop", &stopped.id]);
    fleet.agrees("one stopped", 4, STARTED);
    prometheus.hears(4);

    every_query_of_the_dashboard_has_an_answer(&fleet, &prometheus);
    every_alert_can_be_asked_and_is_quiet(&prometheus);
    its_page_shows_everybody(&fleet, &prometheus);
}

/// Prometheus in the fleet's own project.
struct Prometheus {
    url: String,
}

impl Prometheus {
    /// By the command that people type.
    fn beside(fleet: &Fleet) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let network = fleet.network();
        let mut observe = Command::new(root().join("scripts/observe.sh"));
        observe.env("COMPOSE_PROJECT_NAME", network.trim_end_matches("_fleet"));
        observe.env("MUSTER_PORT", fleet.edge().port().to_string());
        observe.env("MUSTER_PROMETHEUS_PORT", port.to_string());
        let Output { status, stderr, .. } = observe.output().expect("scripts/observe.sh");
        let said = String::from_utf8_lossy(&stderr);
        let url = format!("http://127.0.0.1:{port}");
        assert!(status.success() && said.contains("targets after") && said.contains(&url), "{said}");
        Self { url }
    }

    /// Waits until it reads exactly these nodes, all members and all Envoys, and each of them answers.
    fn hears(&self, nodes: usize) {
        let expected = BTreeMap::from([("muster", nodes), ("etcd", MEMBERS), ("envoy", ENVOYS)]);
        eventually(&format!("Prometheus to hear {nodes} nodes"), NOTICED, || {
            let said = self.asks("targets", &[("state", "active")])?;
            let targets = said["activeTargets"].as_array().ok_or("no targets")?;
            let mut found: BTreeMap<&str, usize> = BTreeMap::new();
            for target in targets {
                if target["health"] != "up" {
                    return Err(format!(
                        "{} is {}: {}",
                        target["scrapeUrl"], target["health"], target["lastError"]
                    ));
                }
                *found.entry(target["labels"]["job"].as_str().unwrap_or_default()).or_default() += 1;
            }
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }

    /// The values of a query at this moment.
    ///
    /// # Errors
    /// Prometheus' own words.
    fn values(&self, query: &str) -> Result<Vec<f64>, String> {
        let said = self.asks("query", &[("query", query)])?;
        let series = said["result"].as_array().ok_or_else(|| format!("no vector: {said}"))?;
        let value = |one: &Value| one["value"][1].as_str().and_then(|text| text.parse().ok());
        Ok(series.iter().filter_map(value).collect())
    }

    fn asks(&self, what: &str, words: &[(&str, &str)]) -> Result<Value, String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "10", "--get", &format!("{}/api/v1/{what}", self.url)]);
        for (name, word) in words {
            command.args(["--data-urlencode", &format!("{name}={word}")]);
        }
        let Output { stdout, .. } = command.output().map_err(|error| error.to_string())?;
        let said: Value = serde_json::from_slice(&stdout).map_err(|error| error.to_string())?;
        if said["status"] == "success" { Ok(said["data"].clone()) } else { Err(said["error"].to_string()) }
    }
}

fn each_agents_metrics_are_well_formed(fleet: &Fleet) {
    let parts =
        Command::new(root().join("images/parts.sh")).arg("promtool").output().expect("images/parts.sh");
    assert!(parts.status.success(), "{parts:?}");
    for node in fleet.nodes() {
        let url = format!("http://{}:9464/metrics", node.ip);
        let metrics = Command::new("curl").args(["-sSf", "--max-time", "5", &url]).output().expect("curl");
        assert!(metrics.status.success(), "{metrics:?}");
        let promtool = root().join(".cache/parts/bin/promtool");
        let mut check = Command::new(promtool);
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut check = check.spawn().expect("promtool");
        check.stdin.take().expect("a pipe").write_all(&metrics.stdout).expect("promtool reads");
        let Output { status, stdout, stderr } = check.wait_with_output().expect("promtool ends");
        let said = [stdout, stderr].concat();
        assert!(status.success() && said.is_empty(), "{url}: {}", String::from_utf8_lossy(&said));
    }
}

/// What etcd gives to everybody with a certificate is all that Prometheus gets.
fn its_certificate_reads_no_key(fleet: &Fleet) {
    let etcd = fleet.compose(["ps", "-q", "etcd1"]);
    let image = fleet.docker(["inspect", "-f", "{{.Config.Image}}", etcd.trim()]);
    let network = fleet.network();
    let volume = format!("{}_pki-prometheus:/pki:ro", network.trim_end_matches("_fleet"));
    let mut get = Command::new("docker");
    get.args([
        "run",
        "--rm",
        "--network",
        &network,
        "--volume",
        &volume,
        "--entrypoint",
        "etcdctl",
        image.trim(),
    ]);
    get.args(["--endpoints=https://etcd1:2379", "--cacert=/pki/current/etcd-ca.crt"]);
    get.args(["--cert=/pki/current/etcd.crt", "--key=/pki/current/etcd.key", "get", "--prefix", "/muster"]);
    let Output { status, stdout, stderr } = get.output().expect("docker");
    let said = String::from_utf8_lossy(&stderr);
    assert!(!status.success() && stdout.is_empty(), "it reads keys: {}", String::from_utf8_lossy(&stdout));
    assert!(said.contains("permission denied") || said.contains("user name not found"), "{said}");
}

/// With a number and not only without an error: a misspelt name is no error to Prometheus.
fn every_query_of_the_dashboard_has_an_answer(fleet: &Fleet, prometheus: &Prometheus) {
    let text = fs::read_to_string(root().join("docs/dashboards/muster.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("each panel has a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((title, target["expr"].as_str().expect("each target has a query")));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        // Nothing has happened yet that it would show: its name and its labels have to be right all the same.
        let query = annotation["expr"].as_str().expect("a query");
        queries.push(("annotation", query.strip_suffix(" > 0").unwrap_or(query)));
    }
    assert!(queries.len() > 40, "only {} queries were found", queries.len());
    eventually("every query to have an answer", NOTICED, || {
        for _ in 0..20 {
            fleet.ask("GET", "/ips.json");
        }
        let mut wrong = Vec::new();
        for (title, query) in &queries {
            let asked = as_grafana_asks(query);
            match prometheus.values(&asked) {
                Ok(values) if values.iter().any(|value| value.is_finite()) => {}
                outcome => wrong.push(format!("{title}: {asked}: {outcome:?}")),
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    });
}

/// With its variables filled in.
fn as_grafana_asks(query: &str) -> String {
    let asked =
        query.replace("$__rate_interval", "1m").replace("$__interval", "1m").replace("$fleet", "muster");
    assert!(!asked.contains('$'), "a variable that this test does not know: {query}");
    asked
}

fn every_alert_can_be_asked_and_is_quiet(prometheus: &Prometheus) {
    let file = fs::read_to_string(root().join("docs/alerts/muster.rules.yaml")).expect("the alert rules");
    let written = file.lines().filter(|line| line.trim_start().starts_with("- alert:")).count();
    let said = prometheus.asks("rules", &[("type", "alert")]).expect("rules");
    let groups = said["groups"].as_array().expect("groups");
    let rules: Vec<&Value> =
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).collect();
    assert_eq!(rules.len(), written, "Prometheus has the rules of docs/alerts");
    for rule in rules {
        let (name, query) = (&rule["name"], rule["query"].as_str().expect("an expression"));
        prometheus.values(query).unwrap_or_else(|error| panic!("{name}: {query}: {error}"));
        let selectors = selectors(query);
        assert!(!selectors.is_empty(), "{name}: no series in {query}");
        for selector in selectors {
            let count = prometheus.values(&format!("count({selector})"));
            assert!(
                count.is_ok_and(|count| !count.is_empty()),
                "{name}: {selector} is a series that nobody has"
            );
        }
        assert_eq!(rule["health"], "ok", "{name}: {}", rule["lastError"]);
        assert_ne!(rule["state"], "firing", "{name} in a fleet that is well: {}", rule["alerts"]);
    }
}

/// Rendered by Prometheus: a query that is wrong there would be a blank or an error in the midst of it. A node that was
/// reached in vain before the list let go of it is shown so for some seconds more.
fn its_page_shows_everybody(fleet: &Fleet, prometheus: &Prometheus) {
    let url = format!("{}/consoles/muster.html", prometheus.url);
    let nodes = fleet.nodes().into_iter().map(|node| node.id);
    let names: Vec<String> =
        nodes.chain(["envoy-a", "envoy-b", "etcd1", "etcd2", "etcd3"].map(String::from)).collect();
    eventually("the page to show everybody, and well", NOTICED, || {
        let page = Command::new("curl").args(["-sSf", "--max-time", "10", &url]).output().expect("curl");
        let page = String::from_utf8_lossy(&page.stdout);
        let missing = names.iter().find(|name| !page.contains(&format!("<th scope=\"row\">{name}</th>")));
        let wrong = ["<td></td>", "does not answer", "is not ready", "NaN", "firing</td>"];
        let wrong = wrong.into_iter().find(|wrong| page.contains(wrong));
        // One of the nodes, and one of etcd's members.
        let leaders = page.matches("<td>leader</td>").count();
        match (missing, wrong, leaders, page.trim_end().ends_with("</html>")) {
            (None, None, 2, true) => Ok(()),
            found => Err(format!("missing, wrong, leaders, whole: {found:?} in {page}")),
        }
    });
}

/// The series that an expression is made of: names of metrics, with their labels where it says some.
fn selectors(query: &str) -> Vec<&str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(inner) {
        rest = &rest[start..];
        let name = rest.find(|c| !inner(c)).unwrap_or(rest.len());
        let labels =
            if rest[name..].starts_with('{') { rest[name..].find('}').map_or(0, |end| end + 1) } else { 0 };
        if ["muster_", "envoy_", "etcd_"].iter().any(|of| rest.starts_with(of)) || &rest[..name] == "up" {
            found.push(&rest[..name + labels]);
        }
        rest = &rest[name + labels..];
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}
