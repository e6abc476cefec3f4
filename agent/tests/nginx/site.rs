//! Own files as web servers serve them: types, compressed forms, pages in the place of missing ones, and for how long they
//! may be kept.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use muster::nginx::Nginx;

use super::{Node, Response};

/// "precompressed", by gzip.
const PACKED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\x28\x4a\x4d\xce\xcf\x2d\x28\x4a\x2d\x2e\x4e\x4d\x01\x00\x7f\x3c\xae\x28\x0d\x00\x00\x00";

/// A node whose site holds these files.
async fn with(files: &[(&str, &[u8])], change: impl FnOnce(&mut Nginx)) -> Option<Node> {
    Node::start(|nginx, tmp| {
        let site = tmp.join("site");
        for (path, content) in files {
            let file = site.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        nginx.site = Some(site);
        change(nginx);
    })
    .await
}

fn site(node: &Node) -> &Path {
    node.nginx.site.as_deref().unwrap()
}

fn asked_with(node: &Node, path: &str, header: &str) -> Response {
    node.ask(&format!("GET {path} HTTP/1.1\r\n{header}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_their_types_and_text_is_utf_8() {
    let names = [
        "a.zip",
        "a.tar.gz",
        "a.ttf",
        "a.ogg",
        "a.mov",
        "a.csv",
        "a.txt",
        "a.md",
        "A.HTML",
        "a.unheard-of",
        "README",
    ];
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, "ü".as_bytes())).collect();
    let Some(node) = with(&files, |_| {}).await else { return };
    for (path, kind) in [
        ("/a.zip", "application/zip"),
        ("/a.tar.gz", "application/gzip"),
        ("/a.ttf", "font/ttf"),
        ("/a.ogg", "audio/ogg"),
        ("/a.mov", "video/quicktime"),
        ("/a.csv", "text/csv; charset=utf-8"),
        ("/a.txt", "text/plain; charset=utf-8"),
        ("/a.md", "text/markdown; charset=utf-8"),
        ("/A.HTML", "text/html; charset=utf-8"),
        ("/a.unheard-of", "application/octet-stream"),
        ("/README", "application/octet-stream"),
    ] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.header("Content-Type")), (200, Some(kind)), "{path}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shrinks_is_compressed_once_for_those_who_ask() {
    let text = "all work and no play ".repeat(10_000);
    let files: [(&str, &[u8]); 6] = [
        ("app.js", text.as_bytes()),
        ("page.html", text.as_bytes()),
        ("small.js", b"1"),
        ("photo.png", text.as_bytes()),
        ("lib.js", b"not this"),
        ("lib.js.gz", PACKED),
    ];
    let Some(node) = with(&files, |_| {}).await else { return };
    fs::write(node.nginx.dir.join("ips.json"), &text).unwrap();
    fs::write(node.nginx.dir.join("ips.html"), &text).unwrap();
    let asks = "Accept-Encoding: deflate, gzip, br\r\n";
    // A client of a proxy, as Envoy's own clients may be.
    let asks_by_a_proxy = "Accept-Encoding: gzip\r\nVia: 1.1 cdn\r\n";
    for path in ["/app.js", "/page.html", "/ips.json", "/ips.html", "/"] {
        for asks in [asks, asks_by_a_proxy] {
            let answer = asked_with(&node, path, asks);
            assert_eq!(answer.header("Content-Encoding"), Some("gzip"), "{path}");
            assert_eq!(answer.header("Vary"), Some("Accept-Encoding"), "{path}");
        }
        let plain = node.get(path);
        assert_eq!((plain.header("Content-Encoding"), plain.body.len()), (None, text.len()), "{path}");
        assert_eq!(plain.header("Vary"), Some("Accept-Encoding"), "{path}: a cache keeps both apart");
        let refused = asked_with(&node, path, "Accept-Encoding: gzip;q=0\r\n");
        assert_eq!(refused.header("Content-Encoding"), None, "{path}");
    }
    for path in ["/small.js", "/photo.png", "/lib.js.gz", "/healthz"] {
        assert_eq!(asked_with(&node, path, asks).header("Content-Encoding"), None, "{path}");
    }
    let beside = asked_with(&node, "/lib.js", asks);
    assert_eq!(beside.header("Content-Encoding"), Some("gzip"));
    assert_eq!(beside.header("Content-Length"), Some(PACKED.len().to_string().as_str()), "as it lies there");
    assert_eq!(beside.header("Content-Type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(node.get("/lib.js").body, "not this");
    node.stop().await;
}

/// Brotli shrinks more than gzip, so it goes first; nothing is compressed with it here.
#[tokio::test(flavor = "multi_thread")]
async fn brotli_beside_a_file_is_sent_to_those_who_take_it() {
    let text = "all work and no play ".repeat(1_000);
    let files: [(&str, &[u8]); 6] = [
        ("app.js", text.as_bytes()),
        ("app.js.br", b"in brotli"),
        ("app.js.gz", PACKED),
        ("one.css", text.as_bytes()),
        ("one.css.br", b"in brotli"),
        ("other.js", text.as_bytes()),
    ];
    let Some(node) = with(&files, |_| {}).await else { return };
    for takes in [
        "br",
        "BR",
        "gzip, deflate, br, zstd",
        "gzip,br",
        "br;q=0.1",
        "br ; q=1.0, gzip",
        "brotli, br",
        "*, br;q=0.001",
    ] {
        let answer = asked_with(&node, "/app.js", &format!("Accept-Encoding: {takes}\r\n"));
        let (encoding, vary) = (answer.header("Content-Encoding"), answer.header("Vary"));
        assert_eq!(
            (encoding, vary, answer.body.as_str()),
            (Some("br"), Some("Accept-Encoding"), "in brotli")
        );
        assert_eq!(answer.header("Content-Type"), Some("text/javascript; charset=utf-8"), "{takes}");
    }
    for (takes, encoding) in [
        ("gzip, br;q=0", Some("gzip")),
        ("br;q=0.000, gzip", Some("gzip")),
        ("brotli, gzip", Some("gzip")),
        ("b, r, gzip;q=0.5", Some("gzip")),
        ("br x, gzip", Some("gzip")),
        ("br;", None),
        ("b", None),
        ("", None),
        (",,;,", None),
    ] {
        let answer = asked_with(&node, "/app.js", &format!("Accept-Encoding: {takes}\r\n"));
        assert_eq!(answer.header("Content-Encoding"), encoding, "{takes}");
        assert_eq!(answer.header("Vary"), Some("Accept-Encoding"), "{takes}: a cache keeps them apart");
    }
    let packed_here = asked_with(&node, "/one.css", "Accept-Encoding: gzip\r\n");
    assert_eq!(packed_here.header("Content-Encoding"), Some("gzip"), "no .gz beside it");
    let none_beside = asked_with(&node, "/other.js", "Accept-Encoding: br\r\n");
    assert_eq!((none_beside.header("Content-Encoding"), none_beside.body.len()), (None, text.len()));
    let itself = asked_with(&node, "/app.js.br", "Accept-Encoding: br\r\n");
    assert_eq!(
        (itself.status, itself.header("Content-Encoding")),
        (200, None),
        "what is asked for by its name"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_has_its_own_page_for_what_is_missing_and_its_well_known_files() {
    let files: [(&str, &[u8]); 4] = [
        ("index.html", b"own"),
        ("404.html", b"own 404"),
        (".well-known/security.txt", b"Contact: x"),
        (".env", b"secret"),
    ];
    let Some(node) = with(&files, |_| {}).await else { return };
    for path in ["/missing", "/missing/", "/a/b.js", "/.env", "/.git/config", "/.well-known/none"] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (404, "own 404"), "{path}");
        assert_eq!(answer.header("Content-Type"), Some("text/html; charset=utf-8"), "{path}");
        assert_eq!(answer.header("Cache-Control"), None, "{path}");
    }
    assert_eq!(node.get("/404.html").status, 200);
    let known = node.get("/.well-known/security.txt");
    assert_eq!((known.status, known.body.as_str()), (200, "Contact: x"));
    fs::remove_file(site(&node).join("404.html")).unwrap();
    let plain = node.get("/missing");
    assert!(plain.status == 404 && plain.body.contains("nginx"), "{}", plain.body);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_links_of_a_single_page_site_lead_to_its_page() {
    let files: [(&str, &[u8]); 4] =
        [("app.html", b"shell"), ("app.js", b"1"), ("docs/index.html", b"docs"), ("404.html", b"own 404")];
    let fallback = "/app.html".parse().unwrap();
    let Some(node) = with(&files, |nginx| nginx.fallback = fallback).await else { return };
    let navigates = "Sec-Fetch-Mode: navigate\r\n";
    for (path, header, status, body) in [
        ("/users/7", navigates, 200, "shell"),
        ("/users/7", "", 200, "shell"),
        ("/users/7.html?a=b", navigates, 200, "shell"),
        ("/app.html", navigates, 200, "shell"),
        ("/app.js", "Sec-Fetch-Mode: no-cors\r\n", 200, "1"),
        ("/gone.js", "Sec-Fetch-Mode: no-cors\r\n", 404, "own 404"),
        ("/api/x", "Sec-Fetch-Mode: cors\r\n", 404, "own 404"),
        ("/docs/", navigates, 200, "docs"),
        ("/", navigates, 200, "<!doctype html>page"),
        ("/ips.json", navigates, 200, "{}"),
        ("/.env", navigates, 404, "own 404"),
    ] {
        let answer = asked_with(&node, path, header);
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path} {header}");
    }
    assert_eq!(node.get("/docs").header("Location"), Some("/docs/"));
    assert_eq!(asked_with(&node, "/users/7", navigates).header("Cache-Control"), Some("no-cache"));
    fs::remove_file(site(&node).join("app.html")).unwrap();
    assert_eq!(asked_with(&node, "/users/7", navigates).status, 404, "no circle without the page");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_named_by_its_content_is_kept_without_asking() {
    let files: [(&str, &[u8]); 4] = [
        ("index.html", b"own"),
        ("assets/index-DiwrgTda.js", b"1"),
        ("assets/main.3f2a1b9c.css", b"2"),
        ("logo.svg", b"3"),
    ];
    let Some(node) = with(&files, |_| {}).await else { return };
    let kept = |path: &str| node.get(path).header("Cache-Control").map(str::to_owned);
    for path in ["/assets/index-DiwrgTda.js", "/assets/main.3f2a1b9c.css?v=1"] {
        assert_eq!(kept(path).as_deref(), Some("public, max-age=31536000, immutable"), "{path}");
    }
    for path in ["/", "/index.html", "/logo.svg"] {
        assert_eq!(kept(path).as_deref(), Some("no-cache"), "{path}");
    }
    assert_eq!(kept("/ips.json").as_deref(), Some("no-store"), "a list belongs to one moment");
    assert_eq!(kept("/assets/other-DiwrgTdb.js"), None, "404");
    node.stop().await;
}

/// A build whose files all have one time, deployed twice: the second time with other content of the same length.
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_changes_with_the_content_whatever_time_a_file_claims() {
    let Some(node) = with(
        &[("app.js", b"first!"), ("lib.js", b"-"), ("lib.js.gz", PACKED), ("lib.js.br", b"packed")],
        |_| {},
    )
    .await
    else {
        return;
    };
    let claimed = SystemTime::UNIX_EPOCH + Duration::from_secs(315_532_800);
    let claim = |name: &str| {
        let file = fs::File::options().write(true).open(site(&node).join(name)).unwrap();
        file.set_modified(claimed).unwrap();
    };
    for (name, asks) in
        [("app.js", ""), ("lib.js.gz", "Accept-Encoding: gzip\r\n"), ("lib.js.br", "Accept-Encoding: br\r\n")]
    {
        let path = format!("/{}", name.trim_end_matches(".gz").trim_end_matches(".br"));
        claim(name);
        let before = asked_with(&node, &path, asks);
        let tag = before.header("ETag").unwrap().to_owned();
        let same = asked_with(&node, &path, &format!("{asks}If-None-Match: {tag}\r\n"));
        assert_eq!(same.status, 304, "{path}: nothing has changed");
        assert_eq!(same.header("Cache-Control"), Some("no-cache"));
        let file = site(&node).join(name);
        let mut content = fs::read(&file).unwrap();
        content.reverse();
        fs::write(&file, content).unwrap();
        claim(name);
        let after = asked_with(&node, &path, &format!("{asks}If-None-Match: {tag}\r\n"));
        assert_eq!(after.status, 200, "{path}: {tag} and {:?}", after.header("ETag"));
        let part = asked_with(&node, &path, &format!("{asks}If-Range: {tag}\r\nRange: bytes=1-\r\n"));
        assert_eq!(part.status, 200, "{path}: a part of what has changed is part of nothing");
    }
    let tag = node.get("/app.js").header("ETag").unwrap().to_owned();
    let part = asked_with(&node, "/app.js", &format!("If-Range: {tag}\r\nRange: bytes=1-\r\n"));
    assert_eq!((part.status, part.body.as_str()), (206, "tsrif"), "and a download goes on");
    node.stop().await;
}
