//! Limits of one nginx over all clients.

/// Totals of a node, and not of a client: all its requests come from Envoy, and a limit for each client would be one for
/// Envoy. What is above them is answered 503 with `x-envoy-ratelimited`, which Envoy does not repeat on another node: an
/// overload would be carried to every one. (`x-envoy-overloaded`, which old versions obeyed too, is repeated by 1.40.) 429 was
/// rejected: it tells a client that this client asks too much.
///
/// `/healthz` is not counted: an overloaded node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second. Half a second's worth may come at once.
    pub rate: u32,
    /// Requests being answered at one moment.
    pub at_once: u32,
}

/// Bounds against a runaway, not shaping. Measured: three nodes and Envoy on two cores keep up with 2,400 a second
/// (docs/load.md), and a file costs nginx 31 us of a core, so that its one worker could answer some 32,000. The overloaded
/// fleet, 3,200 a second with a p99 of 0.1 s, had some 350 requests under way, on all nodes together.
impl Default for Limits {
    fn default() -> Self {
        Self { rate: 50_000, at_once: 1024 }
    }
}

impl Limits {
    /// What they count by, once. One key for all requests: a text and no variable.
    pub(super) fn zones(self) -> String {
        format!(
            "\
    limit_req_zone node zone=rate:64k rate={rate}r/s;
    limit_conn_zone node zone=at_once:64k;
    limit_req_status 503;
    limit_conn_status 503;
    map $status $ratelimited {{
        503 true;
    }}
    map $status $retry_after {{
        503 1;
    }}
    # Below what is logged: thousands of lines a second would be the second overload. Envoy counts the answers.
    limit_req_log_level info;
    limit_conn_log_level info;
",
            rate = self.rate
        )
    }

    /// In each location that is limited. Without a delay: whom Envoy has given up must not stand in a queue here.
    pub(super) fn lines(self) -> [String; 2] {
        [
            format!("limit_req zone=rate burst={} nodelay", (self.rate / 2).max(1)),
            format!("limit_conn at_once {}", self.at_once),
        ]
    }
}
