//! Every request of the list that nobody should get far with, and what it is answered.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use testbed::observe::{List, Traffic};
use testbed::{Testbed, http};

use super::raw;

/// What is sent and what must come back, by theme. `~` is a line's end.
const PLAIN: [(&str, u16); 65] = [
    // Methods.
    ("GET /ips.json HTTP/1.1~Host: f~~", 200),
    ("HEAD /ips.json HTTP/1.1~Host: f~~", 200),
    ("POST /ips.json HTTP/1.1~Host: f~Content-Length: 0~~", 405),
    ("PUT /ips.json HTTP/1.1~Host: f~Content-Length: 1~~x", 405),
    ("DELETE /ips.json HTTP/1.1~Host: f~~", 405),
    ("PATCH /ips.json HTTP/1.1~Host: f~Content-Length: 0~~", 405),
    ("OPTIONS /ips.json HTTP/1.1~Host: f~~", 405),
    ("TRACE /ips.json HTTP/1.1~Host: f~~", 405),
    ("CONNECT f:80 HTTP/1.1~Host: f:80~~", 404),
    ("get /ips.json HTTP/1.1~Host: f~~", 400),
    ("FETCH /ips.json HTTP/1.1~Host: f~~", 400),
    // Paths.
    ("GET //ips.json HTTP/1.1~Host: f~~", 200),
    ("GET /./ips.json HTTP/1.1~Host: f~~", 200),
    ("GET /a/../ips.json HTTP/1.1~Host: f~~", 200),
    ("GET /%2e%2e/ips.json HTTP/1.1~Host: f~~", 200),
    ("GET /ips%2ejson HTTP/1.1~Host: f~~", 200),
    ("GET http://other/ips.json HTTP/1.1~Host: f~~", 200),
    ("GET /ips.json/ HTTP/1.1~Host: f~~", 404),
    ("GET /.ips.json.tmp HTTP/1.1~Host: f~~", 404),
    ("GET /%2eips.json.tmp HTTP/1.1~Host: f~~", 404),
    ("GET /.git/config HTTP/1.1~Host: f~~", 404),
    ("GET /a/.env HTTP/1.1~Host: f~~", 404),
    ("GET /.well-known/x HTTP/1.1~Host: f~~", 404),
    ("GET /../../etc/passwd HTTP/1.1~Host: f~~", 404),
    ("GET /nginx.conf HTTP/1.1~Host: f~~", 404),
    ("GET /ips.json%00 HTTP/1.1~Host: f~~", 400),
    ("GET /ips.json%00.html HTTP/1.1~Host: f~~", 400),
    ("GET /a%2f..%2fips.json HTTP/1.1~Host: f~~", 400),
    ("GET /a%5c..%5cips.json HTTP/1.1~Host: f~~", 400),
    ("GET /ips.json#x HTTP/1.1~Host: f~~", 400),
    ("GET /ips .json HTTP/1.1~Host: f~~", 400),
    ("GET /\u{e4} HTTP/1.1~Host: f~~", 400),
    ("GET * HTTP/1.1~Host: f~~", 400),
    // Conditions and ranges: never 304, because a list may change twice in a second and keep its size. But `*` asks for
    // a list only if there is none.
    ("GET /ips.json HTTP/1.1~Host: f~If-None-Match: *~~", 304),
    ("GET /ips.json HTTP/1.1~Host: f~If-None-Match: \"0-0\"~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT~~", 200),
    ("HEAD /ips.html HTTP/1.1~Host: f~If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~Range: bytes=0-3~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~Range: bytes=0-,0-,0-,0-,0-,0-~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~Range: bytes=9999999-~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~Range: bytes=0-99999999999999999999~~", 200),
    // Where one message ends and the next begins.
    ("GET /ips.json HTTP/1.1~Host: f~Transfer-Encoding: chunked~~0~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~Content-Length: 5~Transfer-Encoding: chunked~~0~~", 400),
    ("GET /ips.json HTTP/1.1~Host: f~Content-Length: 1~Content-Length: 2~~xx", 400),
    ("GET /ips.json HTTP/1.1~Host: f~Content-Length: 0~Content-Length: 0~~", 400),
    ("GET /ips.json HTTP/1.1~Host: f~Content-Length: -1~~", 400),
    ("GET /ips.json HTTP/1.1~Host: f~Transfer-Encoding: nonsense~~", 501),
    ("GET /ips.json HTTP/1.1\nHost: f\n\n", 200),
    ("GET /ips.json HTTP/1.1~Host: f~X-Folded: a~ b~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~X-Spaced : a~~", 400),
    ("GET /ips.json HTTP/1.1~Host: f~X-Nul: a\0b~~", 400),
    ("GET /ips.json HTTP/1.1~Host: f~X_Served_By: me~~", 200),
    // Whom it is for.
    ("GET /ips.json HTTP/1.1~~", 400),
    ("GET /ips.json HTTP/1.1~Host: a~Host: b~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~X-Forwarded-For: 10.0.0.1~X-Envoy-Internal: true~~", 200),
    // Other protocols.
    ("GET /ips.json HTTP/1.0~~", 200),
    ("GET /ips.json HTTP/1.0~Host: f~Connection: close~~", 200),
    ("HEAD /ips.json HTTP/1.0~Connection: keep-alive~~", 200),
    ("POST /ips.json HTTP/1.0~Content-Length: 0~~", 405),
    ("GET /ips.json~~", 200),
    ("GET /ips.json HTTP/1.1~Host: f~Connection: upgrade~Upgrade: websocket~~", 403),
    (
        "GET /ips.json HTTP/1.1~Host: f~Connection: upgrade, http2-settings~Upgrade: h2c~HTTP2-Settings: AAMAAABk~~",
        200,
    ),
    ("GET /ips.json HTTP/1.1~Host: f~Expect: 100-continue~Content-Length: 0~~", 200),
    ("\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0~~", 400),
    ("nonsense~~", 400),
];

/// What is too long to be written out.
fn big() -> Vec<(&'static str, Vec<u8>, u16)> {
    let get = |more: &str| format!("GET /ips.json HTTP/1.1\r\nHost: f\r\n{more}\r\n").into_bytes();
    let mut many = String::new();
    for number in 0..200 {
        write!(many, "X-H{number}: x\r\n").expect("a string");
    }
    let ranges = vec!["0-"; 500].join(",");
    let line = format!("GET /{} HTTP/1.1\r\nHost: f\r\n\r\n", "a".repeat(20 << 10)).into_bytes();
    vec![
        ("a header of 64 KB", get(&format!("X-Big: {}\r\n", "a".repeat(64 << 10))), 431),
        ("a cookie of 9 KB", get(&format!("Cookie: a={}\r\n", "a".repeat(9000))), 200),
        ("a header of 15 KB", get(&format!("X-Big: {}\r\n", "a".repeat(15 << 10))), 200),
        ("a header of 17 KB", get(&format!("X-Big: {}\r\n", "a".repeat(17 << 10))), 431),
        ("200 headers", get(&many), 431),
        ("a path of 20 KB", line, 431),
        ("500 ranges", get(&format!("Range: bytes={ranges}\r\n")), 200),
        ("a body that unpacks to 100 MB", gzip_bomb("GET"), 413),
        ("the same posted", gzip_bomb("POST"), 405),
    ]
}

/// 100 MB of zeros as gzip packs them, to a thousandth.
fn gzip_bomb(method: &str) -> Vec<u8> {
    let packed =
        Command::new("sh").args(["-c", "head -c 100000000 /dev/zero | gzip"]).output().expect("gzip runs");
    let body = packed.stdout;
    assert!(packed.status.success() && body.len() > 90_000, "{} bytes", body.len());
    let length = body.len();
    let head = format!(
        "{method} /ips.json HTTP/1.1\r\nHost: f\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.into_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_gets_the_answer_that_it_should() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(2)
        .run(async |bed| {
            let edge = bed.envoy().edge;
            let plain =
                PLAIN.iter().map(|(line, status)| (*line, line.replace('~', "\r\n").into_bytes(), *status));
            let mut wrong = Vec::new();
            for (name, bytes, status) in plain.chain(big()) {
                match raw::ask(edge, &bytes).await {
                    Ok(reply) => wrong.extend(faults(name, &reply, status)),
                    Err(error) => wrong.push(format!("{name:?}: {error:#}")),
                }
            }
            ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
            let list = http::body(edge, "/ips.json").await?;
            ensure!(List::parse(list)?.says.count == 2, "nothing has changed");
            Ok(())
        })
        .await
}

/// What is wrong with an answer: its status, and what every answer has or must not have, whoever gave it.
fn faults(name: &str, reply: &raw::Reply, status: u16) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |right: bool, what: &str| {
        if !right {
            faults.push(format!("{name:?}: {what}: {}", reply.head.replace("\r\n", " | ")));
        }
    };
    expect(reply.status == status, &format!("{} instead of {status}", reply.status));
    expect(reply.all("x-content-type-options") == ["nosniff"], "nosniff, once");
    // What nginx refuses without having found a location has none.
    expect(reply.all("content-security-policy").len() <= 1, "one policy");
    expect(status != 200 || reply.all("content-security-policy").len() == 1, "a policy");
    expect(reply.all("server").iter().all(|server| *server == "nginx"), "no name of Envoy, no version");
    expect(!reply.head.contains("\r\nx-envoy"), "nothing of Envoy's own");
    expect(status != 405 || reply.all("allow") == ["get, head"], "what is allowed");
    expect(!name.starts_with("HEAD") || reply.body.is_empty(), "no body after HEAD");
    expect(status != 200 || reply.all("cache-control") == ["no-store"], "nothing is kept");
    expect(status != 200 || reply.all("etag").is_empty(), "no ETag");
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_read_while_it_is_rewritten_is_whole() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(2)
        .run(async |bed| {
            let readers: Vec<Traffic> = (0..4).map(|_| Traffic::start(bed.envoy().edge)).collect();
            for _ in 0..3 {
                let number = bed.add_node().await?;
                bed.agreement(Duration::from_secs(20), &bed.up()).await?;
                bed.stop_node(number).await?;
                bed.agreement(Duration::from_secs(20), &bed.up()).await?;
            }
            for reader in readers {
                let answers = reader.finish().await;
                ensure!(answers.failures.is_empty(), "{answers:?}");
            }
            Ok(())
        })
        .await
}
