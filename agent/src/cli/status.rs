//! `muster status`: what the registry says, and whether each node serves the same list.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::StatusFlags;
use crate::fleet::{KeySpace, Roster, Row};
use crate::registry::address::{allowed_networks, own_address};

/// Longest wait for one node's file.
const FILE_BOUND: Duration = Duration::from_secs(1);
/// Longest file read: 1,000 nodes have 200 KB.
const MAX_FILE_BYTES: usize = 16 << 20;

/// Exit codes: fine, differences found, cannot know.
const FINE: u8 = 0;
const DIFFERENT: u8 = 3;
const UNKNOWN: u8 = 4;

/// What one node's file says.
enum File {
    Digest(String, i64),
    Unreadable(String),
}

/// Prints the table.
///
/// # Errors
/// The runtime cannot be made, or standard output is closed.
pub fn run(flags: &StatusFlags) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(status(flags))
}

async fn status(flags: &StatusFlags) -> Result<u8> {
    let etcd = super::registry(&flags.registry)?;
    let own = own_address(None, etcd.endpoint()).await.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let allow = allowed_networks(&flags.allow, own);
    let space = KeySpace::new(&*flags.registry.prefix, allow);
    let (start, end) = space.range();
    let listing = match etcd.list(&start, &end, 0).await {
        Ok(listing) => listing,
        Err(error) => {
            tracing::error!(%error, "the registry does not answer: nothing can be said");
            return Ok(UNKNOWN);
        }
    };
    let (roster, rejections) = Roster::from_list(&space, 1, &listing.entries, listing.revision, None);
    let rows = roster.rows();
    let files = futures::future::join_all(rows.iter().map(file)).await;
    let agree = files.iter().filter(|file| agrees(file, &roster)).count();
    print(flags, &roster, &rows, &files, agree, rejections.len())?;
    Ok(if !rows.is_empty() && agree == rows.len() { FINE } else { DIFFERENT })
}

fn print(
    flags: &StatusFlags,
    roster: &Roster,
    rows: &[Row<'_>],
    files: &[File],
    agree: usize,
    skipped: usize,
) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let serving = rows.iter().filter(|row| row.routable).count();
    let (fleet, nodes, digest) = (&flags.registry.fleet, rows.len(), roster.digest());
    writeln!(
        out,
        "fleet {fleet}: {nodes} nodes, {serving} serving, digest {digest}, {agree}/{nodes} files agree"
    )?;
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NODE", "IP", "ROLE", "STATE", "SINCE", "FILE", "VERSION"]);
    for (row, file) in rows.iter().zip(files) {
        let node = row.node;
        let file = match file {
            File::Digest(digest, revision) if agrees(&File::Digest(digest.clone(), *revision), roster) => {
                format!("agrees @{revision}")
            }
            File::Digest(_, revision) => format!("differs @{revision}"),
            File::Unreadable(why) => format!("unknown: {why}"),
        };
        let role = if row.leader { "leader" } else { "" };
        let state = format!("{:?}", row.state).to_lowercase();
        table.add_row([&node.name, &node.ip.to_string(), role, &state, &node.since, &file, &node.version]);
    }
    writeln!(out, "{table}")?;
    if roster.leader().is_none() {
        writeln!(out, "no leader: Envoy keeps what it was told last")?;
    }
    if skipped > 0 {
        writeln!(
            out,
            "{skipped} entries under {} say nothing valid and were skipped",
            flags.registry.prefix
        )?;
    }
    Ok(())
}

fn agrees(file: &File, roster: &Roster) -> bool {
    matches!(file, File::Digest(digest, _) if *digest == roster.digest())
}

async fn file(row: &Row<'_>) -> File {
    let address = (row.node.ip, row.node.ports.http);
    match timeout(FILE_BOUND, fetch(address)).await {
        Ok(Ok(file)) => file,
        Ok(Err(error)) => File::Unreadable(error.to_string()),
        Err(_) => File::Unreadable("no answer".into()),
    }
}

async fn fetch(address: (Ipv4Addr, u16)) -> Result<File> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get("/ips.json").header("host", address.0.to_string());
    let exchange = async {
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let body = Limited::new(answer.into_body(), MAX_FILE_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
        let list: serde_json::Value = serde_json::from_slice(&body)?;
        let digest = list["digest"].as_str().ok_or_else(|| anyhow!("no digest in ips.json"))?;
        anyhow::Ok(File::Digest(digest.to_owned(), list["revision"].as_i64().unwrap_or(0)))
    };
    tokio::select! {
        file = exchange => file,
        ended = connection => Err(anyhow!("connection ended: {ended:?}")),
    }
}
