//! Which requests nginx says, and in which words.

use std::fs::OpenOptions;

use tracing::warn;

/// Where: the agent's own standard output, which nginx has inherited and opens by this name.
const OUTPUT: &str = "/dev/stdout";

/// The requests that are logged. `/healthz` never is: Envoy and the agent ask it many times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    All,
    /// Those that were not answered well. Everything but the statuses of a file that was served: 0 is among them, of a
    /// client that went away without an answer.
    Failed,
    None,
}

/// Statuses of a request that was answered well: whole, in part, elsewhere, unchanged. nginx has no others here, because
/// it only serves files. A list because `map` compares without PCRE for equality only.
const WELL: [u16; 4] = [200, 206, 301, 304];

/// `status` without leading zeros, which JSON does not have: nginx writes 000 when there was no answer, 009 for HTTP/0.9.
const FORMAT: &str = r#"
    map $status $status_number {
        default $status;
        000 0;
        009 9;
    }
    log_format requests escape=json '{"ts":"$time_iso8601","level":"info","event":"request","request_id":"$http_x_request_id",'
        '"remote":"$remote_addr","method":"$request_method","path":"$request_uri","status":$status_number,'
        '"bytes":$body_bytes_sent,"duration_s":$request_time,"served":"$server_addr"}';
"#;

impl Requests {
    /// What stands in `http`.
    pub(super) fn lines(self) -> String {
        match self {
            Self::None => "    access_log off;\n".into(),
            Self::All => format!("{FORMAT}    access_log {OUTPUT} requests;\n"),
            Self::Failed => {
                let well: String = WELL.iter().map(|status| format!("        {status} 0;\n")).collect();
                format!(
                    "{FORMAT}    map $status $failed {{\n        default 1;\n{well}    }}\n    \
                     access_log {OUTPUT} requests if=$failed;\n"
                )
            }
        }
    }

    /// The same where nginx can open standard output by its name, which it cannot when that is a socket or somebody else's
    /// pipe: it would not start, and a node without an access log is better than none.
    pub fn if_possible(self) -> Self {
        if self == Self::None {
            return self;
        }
        match OpenOptions::new().append(true).open(OUTPUT) {
            Ok(_) => self,
            Err(error) => {
                warn!(name: "no-access-log", %error, "no access log: nginx cannot open standard output");
                Self::None
            }
        }
    }
}
