//! Which headers of a client get through a real Envoy: those that only a proxy may say, and odd names.

use muster::envoy::EdgeSettings;

use super::envoy::{Envoy, answered_by};
use super::leader::Leader;
use super::roster::{published, published_with, settings};
use super::upstream::{BROKEN_PATH, ECHO_PATH, LATE_PATH, Upstream, fetch, fetch_with};
use crate::part::part;

/// Whatever only a proxy may say: names that Envoy would obey, names that somebody behind it could, and no names at all.
const SAID_BY_PROXIES: [&str; 28] = [
    "X-Envoy-Retry-On",
    "X-Envoy-Max-Retries",
    "X-Envoy-Retriable-Status-Codes",
    "X-Envoy-Retriable-Header-Names",
    "X-Envoy-Upstream-Rq-Timeout-Ms",
    "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms",
    "X-Envoy-Upstream-Rq-Timeout-Alt-Response",
    "X-Envoy-Upstream-Alt-Stat-Name",
    "X-Envoy-Hedge-On-Per-Try-Timeout",
    "X-Envoy-Expected-Rq-Timeout-Ms",
    "X-Envoy-Original-Path",
    "X-Envoy-Original-Host",
    "X-Envoy-Decorator-Operation",
    "X-Envoy-Internal",
    "X-Envoy-External-Address",
    "X-Envoy-Force-Trace",
    "X-Envoy-Attempt-Count",
    "X-Envoy-Ip-Tags",
    "X-Envoy-Peer-Metadata",
    "X-Envoy-Peer-Metadata-Id",
    "X-Envoy-Of-Tomorrow",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "X-Real-IP",
    "X-Request-Id",
];

#[tokio::test]
async fn nothing_that_only_a_proxy_may_say_gets_in() {
    let Some(program) = part("envoy") else { return };
    let upstream = Upstream::start("127.0.0.8").await;
    // Without logs there is no id of Envoy's own, which would hide the client's.
    let settings = EdgeSettings { log_from: None, ..settings() };
    let leader = Leader::start(Some(published_with(&[upstream.address], 1, &settings))).await;
    let envoy = Envoy::start(&program, &[leader.address]);
    let edge = envoy.edge().await;
    answered_by(edge, &upstream).await;

    let plain = fetch(edge, "GET", ECHO_PATH).await.unwrap();
    let mut headers: String = SAID_BY_PROXIES.map(|name| format!("{name}: spoofed\r\n")).concat();
    headers.push_str("X-Forwarded-Proto: https\r\n");
    let spoofed = fetch_with(edge, "GET", ECHO_PATH, &headers).await.unwrap();
    assert_eq!((spoofed.status, &spoofed.body), (200, &plain.body), "as if nothing had been said");
    assert!(plain.body.contains("\r\nx-envoy-external-address: 127.0.0.1\r\n"), "{}", plain.body);
    assert!(plain.body.contains("\r\nx-forwarded-proto: http\r\n"), "{}", plain.body);

    // Obeyed, the first would answer 504 and the second would ask until a million.
    let hasty = "X-Envoy-Upstream-Rq-Timeout-Ms: 50\r\nX-Envoy-Upstream-Rq-Per-Try-Timeout-Ms: 20\r\n";
    assert_eq!(fetch_with(edge, "GET", LATE_PATH, hasty).await.unwrap().status, 200);
    let again = "X-Envoy-Retry-On: 5xx\r\nX-Envoy-Max-Retries: 1000000\r\n";
    assert_eq!(fetch_with(edge, "GET", BROKEN_PATH, again).await.unwrap().status, 500);
    assert_eq!(upstream.broken.load(std::sync::atomic::Ordering::SeqCst), 1, "asked once");
}

#[tokio::test]
async fn a_trusted_proxy_says_who_asked_it_and_no_more() {
    let Some(program) = part("envoy") else { return };
    let upstream = Upstream::start("127.0.0.11").await;
    let settings = EdgeSettings { log_from: None, trusted_proxies: 1, ..settings() };
    let leader = Leader::start(Some(published_with(&[upstream.address], 1, &settings))).await;
    let envoy = Envoy::start(&program, &[leader.address]);
    let edge = envoy.edge().await;
    answered_by(edge, &upstream).await;

    let told = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n";
    let plain = fetch_with(edge, "GET", ECHO_PATH, told).await.unwrap();
    assert!(plain.body.contains("\r\nx-envoy-external-address: 203.0.113.9\r\n"), "{}", plain.body);
    assert!(plain.body.contains("\r\nx-forwarded-proto: https\r\n"), "{}", plain.body);

    // The client has said a lot, and the proxy has added whom it was asked by.
    let mut headers: String = SAID_BY_PROXIES
        .iter()
        .chain(&["X-Forwarded-F", "X-Forwarded-Fort", "X-Forwarded-P", "X-Forwarded-Prot", "X-Forwarded-"])
        .filter(|name| **name != "X-Forwarded-For")
        .map(|name| format!("{name}: spoofed\r\n"))
        .collect();
    headers.push_str("X-Forwarded-For: 198.51.100.6, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n");
    let spoofed = fetch_with(edge, "GET", ECHO_PATH, &headers).await.unwrap();
    let without_the_spoofed = spoofed.body.replace("198.51.100.6, ", "");
    assert_eq!((spoofed.status, &without_the_spoofed), (200, &plain.body), "who adds last is believed");

    // Nobody is named: the proxy itself has asked.
    let bare = fetch(edge, "GET", ECHO_PATH).await.unwrap();
    assert!(bare.body.contains("\r\nx-envoy-external-address: 127.0.0.1\r\n"), "{}", bare.body);
}

#[tokio::test]
async fn a_header_that_is_spelled_with_underscores_goes_no_further() {
    let Some(program) = part("envoy") else { return };
    let upstream = Upstream::start("127.0.0.12").await;
    let leader = Leader::start(Some(published(&[upstream.address], 1))).await;
    let envoy = Envoy::start(&program, &[leader.address]);
    let edge = envoy.edge().await;
    answered_by(edge, &upstream).await;
    let odd = "X_Served_By: me\r\nsentry_trace: 1\r\n_: x\r\nX-Even: kept\r\n";
    let answer = fetch_with(edge, "GET", ECHO_PATH, odd).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("\r\nx-even: kept\r\n") && !answer.body.contains('_'), "{}", answer.body);
}
