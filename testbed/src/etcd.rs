//! The registry: real etcd members, what can be done to them, and `etcdctl` to look and meddle.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::address::Addresses;
use crate::certificates::Certificates;
use crate::http;
use crate::observe::eventually;
use crate::process::{Keeper, Process, lock};
use crate::programs::Programs;

/// Small enough to be filled by a test.
const QUOTA_BYTES: usize = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// 1 or 3 members, numbered from 1.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    addresses: Addresses,
    programs: Programs,
    keeper: Arc<Keeper>,
    /// `None`: in the clear.
    certificates: Option<Certificates>,
}

/// One key as `etcdctl get` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub key: String,
    pub value: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// 0: none.
    pub lease: i64,
}

/// What a range held at one revision.
#[derive(Clone, Debug)]
pub struct Range {
    pub revision: i64,
    pub keys: Vec<Key>,
}

#[derive(Debug)]
struct Member {
    number: u8,
    data: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Etcd {
    /// Describes `members` members; [`Etcd::start_all`] starts them.
    pub fn new(members: u8, addresses: Addresses, programs: Programs, keeper: Arc<Keeper>) -> Self {
        let member = |number| Member {
            number,
            data: keeper.directory.join(format!("etcd{number}")),
            process: Mutex::new(None),
        };
        let members = (1..=members).map(member).collect();
        Self { members, addresses, programs, keeper, certificates: None }
    }

    /// The same with TLS, certificates required of clients and peers.
    pub fn secured(self, certificates: Option<Certificates>) -> Self {
        Self { certificates, ..self }
    }

    /// Member numbers, from 1.
    pub fn members(&self) -> impl Iterator<Item = u8> {
        self.members.iter().map(|member| member.number)
    }

    pub fn address(&self, member: u8) -> SocketAddrV4 {
        self.addresses.etcd_client(member)
    }

    /// Starts a member on the data it has.
    ///
    /// # Errors
    /// When it cannot be started; whether it serves is another question ([`Etcd::healthy`]).
    pub fn start(&self, member: u8) -> anyhow::Result<()> {
        let one = self.member(member)?;
        let client = self.url(self.addresses.etcd_client(member));
        let peer = self.url(self.addresses.etcd_peer(member));
        let args = [
            ("--name", name(member)),
            ("--data-dir", one.data.display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", self.initial_cluster()),
            ("--initial-cluster-token", "muster".into()),
            ("--heartbeat-interval", "100".into()),
            ("--election-timeout", "1000".into()),
            // The agents ping every 2 s; etcd's own default would break their streams.
            ("--grpc-keepalive-min-time", "1s".into()),
            ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
        ];
        let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        // No power is lost here: only the processes die.
        let args = args.chain(["--unsafe-no-fsync".to_owned()]).chain(self.tls_flags(member));
        let process = self.keeper.spawn(&name(member), &self.programs.etcd, args, &[])?;
        *lock(&one.process) = Some(process);
        Ok(())
    }

    /// # Errors
    /// As [`Etcd::start`].
    pub fn start_all(&self) -> anyhow::Result<()> {
        self.members().try_for_each(|member| self.start(member))
    }

    /// Kills a member (SIGKILL) and waits for its end. One that does not run stays as it is.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&self, member: u8) -> anyhow::Result<()> {
        let process = lock(&self.member(member)?.process).take();
        if let Some(process) = process {
            process.signal(Signal::SIGKILL);
            process.ended(PATIENCE).await?;
        }
        Ok(())
    }

    /// Kills all members within a few milliseconds.
    ///
    /// # Errors
    /// As [`Etcd::kill`].
    pub async fn kill_all(&self) -> anyhow::Result<()> {
        for member in &self.members {
            if let Some(process) = lock(&member.process).as_ref() {
                process.signal(Signal::SIGKILL);
            }
        }
        for member in self.members() {
            self.kill(member).await?;
        }
        Ok(())
    }

    /// # Errors
    /// When there is no such member.
    pub fn pause(&self, member: u8) -> anyhow::Result<()> {
        self.signal(member, Signal::SIGSTOP)
    }

    /// # Errors
    /// When there is no such member.
    pub fn resume(&self, member: u8) -> anyhow::Result<()> {
        self.signal(member, Signal::SIGCONT)
    }

    /// Kills all members, throws their data away and starts them again: the same cluster id, another history.
    ///
    /// # Errors
    /// When they do not come back.
    pub async fn wipe(&self) -> anyhow::Result<()> {
        self.kill_all().await?;
        for member in &self.members {
            std::fs::remove_dir_all(&member.data)?;
        }
        self.start_all()?;
        self.healthy(PATIENCE).await
    }

    /// Saves a snapshot and returns its file.
    ///
    /// # Errors
    /// As [`Etcd::ctl`].
    pub async fn snapshot(&self) -> anyhow::Result<PathBuf> {
        let file = self.keeper.directory.join("snapshot.db");
        // Only one endpoint is allowed here.
        let path = file.display().to_string();
        let endpoint = self.url(self.address(1));
        self.ctl_at(&endpoint, &["snapshot", "save", &path], None).await?;
        Ok(file)
    }

    /// Kills all members and starts them on a snapshot: the same cluster id, an older history.
    ///
    /// # Errors
    /// When the snapshot cannot be restored or they do not come back.
    pub async fn restore(&self, snapshot: &Path) -> anyhow::Result<()> {
        self.kill_all().await?;
        for member in &self.members {
            std::fs::remove_dir_all(&member.data)?;
            let args = [
                "snapshot".to_owned(),
                "restore".into(),
                snapshot.display().to_string(),
                format!("--name={}", name(member.number)),
                format!("--data-dir={}", member.data.display()),
                format!("--initial-cluster={}", self.initial_cluster()),
                "--initial-cluster-token=muster".into(),
                format!(
                    "--initial-advertise-peer-urls={}",
                    self.url(self.addresses.etcd_peer(member.number))
                ),
            ];
            self.ctl_at("", &args.each_ref().map(String::as_str), None).await?;
        }
        self.start_all()?;
        self.healthy(PATIENCE).await
    }

    /// Waits until every running member answers reads that need a quorum.
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn healthy(&self, patience: Duration) -> anyhow::Result<()> {
        eventually(patience, "etcd is healthy", async || {
            for member in &self.members {
                let runs = lock(&member.process).is_some();
                if runs {
                    let health = http::body(self.health_address(member.number), "/health").await?;
                    let health = String::from_utf8_lossy(&health).into_owned();
                    ensure!(health.contains(r#""health":"true""#), "member {}: {health}", member.number);
                }
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// The member that leads etcd's own consensus.
    ///
    /// # Errors
    /// When none of the running members knows.
    pub async fn leader(&self) -> anyhow::Result<u8> {
        for member in self.members() {
            let endpoint = self.url(self.address(member));
            let Ok(status) = self.ctl_at(&endpoint, &["endpoint", "status", "-w", "json"], None).await else {
                continue;
            };
            let status: serde_json::Value = serde_json::from_slice(&status)?;
            let status = &status[0]["Status"];
            if status["leader"].is_u64() && status["leader"] == status["header"]["member_id"] {
                return Ok(member);
            }
        }
        anyhow::bail!("etcd has no leader")
    }

    /// Everything whose key starts with `prefix`, as `etcdctl get --prefix` prints it.
    ///
    /// # Errors
    /// As [`Etcd::ctl`].
    pub async fn get_prefix(&self, prefix: &str) -> anyhow::Result<Range> {
        self.get_prefix_at(prefix, 0).await
    }

    /// The same as it was at a revision; at the newest when that is 0.
    ///
    /// # Errors
    /// As [`Etcd::ctl`]; the revision is compacted.
    pub async fn get_prefix_at(&self, prefix: &str, revision: i64) -> anyhow::Result<Range> {
        let at = format!("--rev={revision}");
        let printed = self.ctl(&["get", "--prefix", prefix, &at, "-w", "json"], None).await?;
        let printed: Printed = serde_json::from_slice(&printed).context("reading etcdctl's JSON")?;
        let keys = printed.kvs.into_iter().map(|kv| -> anyhow::Result<Key> {
            Ok(Key {
                key: String::from_utf8_lossy(&BASE64.decode(kv.key)?).into_owned(),
                value: BASE64.decode(kv.value)?,
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
                lease: kv.lease,
            })
        });
        Ok(Range { revision: printed.header.revision, keys: keys.collect::<anyhow::Result<_>>()? })
    }

    /// Addresses registered under `/muster/nodes/` with state `serving`, sorted.
    ///
    /// # Errors
    /// As [`Etcd::ctl`].
    pub async fn serving(&self) -> anyhow::Result<Vec<Ipv4Addr>> {
        let range = self.get_prefix("/muster/nodes/").await?;
        let mut serving: Vec<Ipv4Addr> = range
            .keys
            .iter()
            .filter_map(|key| serde_json::from_slice::<serde_json::Value>(&key.value).ok())
            .filter(|value| value["state"] == "serving")
            .filter_map(|value| value["ip"].as_str()?.parse().ok())
            .collect();
        serving.sort_unstable();
        serving.dedup();
        Ok(serving)
    }

    /// Writes under `/junk/` until no member takes another byte: etcd then refuses every put and every grant.
    ///
    /// # Errors
    /// As [`Etcd::ctl`], and when it goes on taking.
    pub async fn fill(&self) -> anyhow::Result<()> {
        let junk = vec![b'x'; 1 << 20];
        for number in 0..2 * QUOTA_BYTES / junk.len() {
            match self.ctl(&["put", &format!("/junk/{number}")], Some(&junk)).await {
                Err(refused) if format!("{refused:#}").contains("space exceeded") => return Ok(()),
                outcome => outcome?,
            };
        }
        bail!("it is never full")
    }

    /// What an operator does when etcd is full: throw away, compact, defragment, disarm.
    ///
    /// # Errors
    /// As [`Etcd::ctl`].
    pub async fn make_room(&self) -> anyhow::Result<()> {
        self.ctl(&["del", "--prefix", "/junk/"], None).await?;
        let revision = self.get_prefix("/junk/").await?.revision.to_string();
        self.ctl(&["compact", "--physical", &revision], None).await?;
        self.ctl(&["defrag"], None).await?;
        self.ctl(&["alarm", "disarm"], None).await?;
        Ok(())
    }

    /// Grants a lease and returns it as `etcdctl` writes it, in hex.
    ///
    /// # Errors
    /// As [`Etcd::ctl`].
    pub async fn grant(&self, ttl: Duration) -> anyhow::Result<String> {
        let printed = self.ctl(&["lease", "grant", &ttl.as_secs().to_string()], None).await?;
        let printed = String::from_utf8(printed)?;
        printed
            .split_whitespace()
            .nth(1)
            .map(str::to_owned)
            .with_context(|| format!("no lease in {printed:?}"))
    }

    /// Runs `etcdctl` against all members and returns what it printed; `input` is its standard input.
    ///
    /// # Errors
    /// When it fails or takes more than 20 s, with what it said.
    pub async fn ctl(&self, args: &[&str], input: Option<&[u8]>) -> anyhow::Result<Vec<u8>> {
        let endpoints: Vec<String> = self.members().map(|member| self.url(self.address(member))).collect();
        self.ctl_at(&endpoints.join(","), args, input).await
    }

    async fn ctl_at(&self, endpoints: &str, args: &[&str], input: Option<&[u8]>) -> anyhow::Result<Vec<u8>> {
        let operator = self.certificates.as_ref().map(|certificates| certificates.of("operator"));
        self.ctl_as(operator.as_deref(), endpoints, args, input).await
    }

    /// Runs `etcdctl` with the certificate in a directory, or in the clear, against all members.
    ///
    /// # Errors
    /// As [`Etcd::ctl`].
    pub async fn ctl_with(&self, shown: Option<&Path>, args: &[&str]) -> anyhow::Result<Vec<u8>> {
        let endpoints: Vec<String> = self.members().map(|member| self.url(self.address(member))).collect();
        self.ctl_as(shown, &endpoints.join(","), args, None).await
    }

    async fn ctl_as(
        &self,
        shown: Option<&Path>,
        endpoints: &str,
        args: &[&str],
        input: Option<&[u8]>,
    ) -> anyhow::Result<Vec<u8>> {
        let file = |name: &str| shown.map(|dir| dir.join(name).display().to_string()).unwrap_or_default();
        let (ca, certificate, key) = (file("etcd-ca.crt"), file("etcd.crt"), file("etcd.key"));
        let mut env = vec![("ETCDCTL_API", "3")];
        if !endpoints.is_empty() {
            env.push(("ETCDCTL_ENDPOINTS", endpoints));
        }
        if shown.is_some() {
            env.extend([("ETCDCTL_CACERT", &*ca), ("ETCDCTL_CERT", &certificate), ("ETCDCTL_KEY", &key)]);
        }
        let args_owned = args.iter().map(|arg| (*arg).to_owned());
        let output = self.keeper.run(&self.programs.etcdctl, args_owned, &env, input, PATIENCE).await?;
        ensure!(output.exit.code == Some(0), "etcdctl {}: {}", args.join(" "), output.stderr.trim());
        Ok(output.stdout)
    }

    fn initial_cluster(&self) -> String {
        let one = |member| format!("{}={}", name(member), self.url(self.addresses.etcd_peer(member)));
        self.members().map(one).collect::<Vec<_>>().join(",")
    }

    fn url(&self, address: SocketAddrV4) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    fn health_address(&self, member: u8) -> SocketAddrV4 {
        match self.certificates {
            Some(_) => self.addresses.etcd_health(member),
            None => self.address(member),
        }
    }

    fn tls_flags(&self, member: u8) -> Vec<String> {
        let Some(certificates) = &self.certificates else { return Vec::new() };
        let file = |file: &str| certificates.file(&name(member), file);
        vec![
            "--client-cert-auth".into(),
            format!("--trusted-ca-file={}", file("server-ca.crt")),
            format!("--cert-file={}", file("server.crt")),
            format!("--key-file={}", file("server.key")),
            "--peer-client-cert-auth".into(),
            format!("--peer-trusted-ca-file={}", file("peer-ca.crt")),
            format!("--peer-cert-file={}", file("peer.crt")),
            format!("--peer-key-file={}", file("peer.key")),
            "--enable-grpc-gateway=false".into(),
            format!("--listen-metrics-urls=http://{}", self.addresses.etcd_health(member)),
        ]
    }

    fn signal(&self, member: u8, signal: Signal) -> anyhow::Result<()> {
        if let Some(process) = lock(&self.member(member)?.process).as_ref() {
            process.signal(signal);
        }
        Ok(())
    }

    fn member(&self, number: u8) -> anyhow::Result<&Member> {
        self.members
            .iter()
            .find(|member| member.number == number)
            .with_context(|| format!("no etcd member {number}"))
    }
}

#[derive(Deserialize)]
struct Printed {
    header: PrintedHeader,
    #[serde(default)]
    kvs: Vec<PrintedKey>,
}

#[derive(Deserialize)]
struct PrintedHeader {
    revision: i64,
}

#[derive(Deserialize)]
struct PrintedKey {
    key: String,
    #[serde(default)]
    value: String,
    create_revision: i64,
    mod_revision: i64,
    #[serde(default)]
    lease: i64,
}

fn name(member: u8) -> String {
    format!("etcd{member}")
}
