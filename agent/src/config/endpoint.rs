//! [`Endpoint`]: where an etcd member is.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::values::port;

/// One etcd endpoint: `http://HOST:PORT` or `https://HOST:PORT`, HOST a name or an IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// `https`.
    pub secure: bool,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "expected http://HOST:PORT, such as http://etcd1:2379";
        if text.is_empty() {
            return Err(format!("it is empty; {usage}"));
        }
        if text.contains(char::is_whitespace) {
            return Err(format!("it contains a space; {usage}, with commas alone between several"));
        }
        let secure = text.starts_with("https://");
        let rest = text.strip_prefix(if secure { "https://" } else { "http://" });
        let rest = rest.ok_or_else(|| format!("it has no http:// or https://; {usage}"))?;
        if rest.contains('[') {
            return Err(format!("it is IPv6, and muster speaks IPv4 only; {usage}"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| format!("it has no port; {usage}"))?;
        let named = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !named {
            return Err(format!("it has no valid host; {usage}"));
        }
        let digits = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if digits && host.parse::<Ipv4Addr>().is_err() {
            return Err(format!("its host is no IPv4 address; {usage}"));
        }
        Ok(Self {
            secure,
            host: host.to_owned(),
            port: self::port(port).map_err(|_| format!("it has no port from 1 to 65535; {usage}"))?,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}
