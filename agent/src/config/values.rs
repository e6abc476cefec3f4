//! One value at a time, from text. Each error says what is allowed and gives an example; clap names the flag and the
//! value.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use super::duration::DurationKind;
use super::pki::MAX_DAYS;
use super::{
    MAX_DRAIN_SECONDS, MAX_KEEP_MARKS_SECONDS, MAX_LINGER_MS, MAX_PREFIX_BYTES, MAX_SILENCE_SECONDS,
    MAX_SINCE_SECONDS, MAX_TRUSTED_PROXIES, MAX_WAIT_SECONDS, OnExit, STOP_GRACE_SECONDS, TTL_SECONDS,
};
use crate::fleet::{FIRST_PARTS, is_name};

pub(super) fn on_exit(text: &str) -> Result<OnExit, String> {
    match text {
        "restart" => Ok(OnExit::Restart),
        "exit" => Ok(OnExit::Exit),
        _ => Err("expected restart or exit, such as --on-exit exit".into()),
    }
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("expected a number from 1 to 65535, such as 8080".into()),
    }
}

pub(super) fn listen(text: &str) -> Result<Ipv4Addr, String> {
    match text.parse::<Ipv4Addr>() {
        Ok(ip) if !ip.is_multicast() && !ip.is_broadcast() => Ok(ip),
        _ => Err("expected an own IPv4 address to listen on, or 0.0.0.0 for all of them".into()),
    }
}

pub(super) fn edge(text: &str) -> Result<SocketAddrV4, String> {
    match text.parse::<SocketAddrV4>() {
        Ok(edge) if edge.port() > 0 => Ok(edge),
        _ => Err("expected IPV4:PORT, such as 0.0.0.0:8080".into()),
    }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 64 letters, digits, dots, dashes or underscores, such as web-1".into())
}

pub(super) fn prefix(text: &str) -> Result<String, String> {
    let usage = "expected a path such as /muster: a leading slash, then letters, digits, and . _ - / between";
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let parts_ok = trimmed.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_name));
    if !parts_ok {
        return Err(usage.into());
    }
    if trimmed.len() > MAX_PREFIX_BYTES {
        return Err(format!(
            "the prefix has {} bytes, at most {MAX_PREFIX_BYTES} are allowed; {usage}",
            trimmed.len()
        ));
    }
    if let Some(room) = trimmed.split('/').skip(2).find(|part| FIRST_PARTS.contains(part)) {
        return Err(format!(
            "it lies among the keys of another fleet: below a prefix `{room}` is muster's own; {usage}"
        ));
    }
    Ok(trimmed.to_owned())
}

pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        return Ok(text.into());
    }
    Err("expected an absolute path, such as /srv/muster".into())
}

pub(super) fn secret_file(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        return Ok(text.into());
    }
    Err("expected an absolute path where Envoy is, such as /etc/envoy-tls/edge.json".into())
}

pub(super) fn program(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("no program is named; expected a path or a name, such as nginx or /usr/sbin/nginx".into());
    }
    Ok(text.into())
}

pub(super) fn proxies(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(proxies) if proxies <= MAX_TRUSTED_PROXIES => Ok(proxies),
        _ => Err(format!("expected a number from 0 to {MAX_TRUSTED_PROXIES}, such as 1 behind one CDN")),
    }
}

pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    DurationKind::seconds(TTL_SECONDS, "5 or 5s").whole().parse(text)
}

pub(super) fn drain_timeout(text: &str) -> Result<Duration, String> {
    DurationKind::seconds(0..=MAX_DRAIN_SECONDS, "7 or 2m").parse(text)
}

pub(super) fn stop_grace(text: &str) -> Result<Duration, String> {
    DurationKind::seconds(STOP_GRACE_SECONDS, "30 or 5m").parse(text)
}

pub(super) fn silence(text: &str) -> Result<Duration, String> {
    DurationKind::seconds(1..=MAX_SILENCE_SECONDS, "1 or 1500ms").parse(text)
}

pub(super) fn bootstrap(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        return Ok(text.into());
    }
    Err("expected an absolute path, such as /etc/envoy/without-memory.yaml".into())
}

pub(super) fn socket_file(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        return Ok(text.into());
    }
    Err("expected the absolute path of a socket file, such as /run/envoy/admin.sock".into())
}

pub(super) fn keep_marks(text: &str) -> Result<Duration, String> {
    DurationKind::seconds(1..=MAX_KEEP_MARKS_SECONDS, "86400 or 24h").parse(text)
}

pub(super) fn days(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(days) if (1..=MAX_DAYS).contains(&days) => Ok(days),
        _ => Err(format!("expected whole days from 1 to {MAX_DAYS}, such as 365")),
    }
}

pub(super) fn wait(text: &str) -> Result<Duration, String> {
    DurationKind::seconds(0..=MAX_WAIT_SECONDS, "30 or 2m").parse(text)
}

pub(super) fn since(text: &str) -> Result<Duration, String> {
    DurationKind::seconds(0..=MAX_SINCE_SECONDS, "90s, 10m or 2h").parse(text)
}

pub(super) fn linger(text: &str) -> Result<Duration, String> {
    let range = Duration::ZERO..=Duration::from_millis(MAX_LINGER_MS);
    DurationKind { unit: Duration::from_millis(1), range, whole: false, example: "500 or 1s" }.parse(text)
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("expected a level such as info, or info,muster::registry=debug".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What neither an argument nor a variable can carry, and so no test of the program itself.
    #[test]
    fn a_prefix_with_nul_or_of_a_megabyte_is_refused_briefly() {
        for wrong in ["/muster\0", &format!("/{}", "a".repeat(1 << 20)), &"/a".repeat(1 << 19)] {
            let error = prefix(wrong).unwrap_err();
            assert!(error.contains("such as /muster") && error.len() < 300, "{}", error.len());
        }
    }

    #[test]
    fn a_prefix_may_nest_but_not_among_anothers_keys() {
        for right in ["/nodes", "/a/muster", "/muster/blue/", "/muster/nodes2"] {
            assert_eq!(prefix(right).as_deref(), Ok(right.trim_end_matches('/')));
        }
        for wrong in ["/muster/nodes", "/muster/leader/", "/a/history/b", "/", "", "muster", "//a", "/a//"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }
}
