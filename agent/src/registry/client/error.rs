//! Why a call did not succeed, and whether another member may do better.

use etcd_client::Error;
use tonic::Code;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No member answered in time. What was asked for may have happened all the same.
    #[error("no etcd member answered: {0}")]
    Unavailable(String),
    /// A member answered, and the answer was no.
    #[error("etcd refused: {message}")]
    Refused { code: Code, message: String },
}

impl CallError {
    /// The revision asked for is not there yet: this registry's history is not the one known.
    pub fn is_future_revision(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("future revision"))
    }

    /// The revision asked for is not there any more.
    pub fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("compacted"))
    }

    /// The answer was larger than this client accepts.
    pub fn is_oversized(&self) -> bool {
        matches!(self, Self::Refused { code: Code::OutOfRange, message } if message.contains("message length"))
    }

    /// etcd's database is full: keep-alives go on, puts and grants do not.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("database space exceeded"))
    }
}

/// Sorts what the client reports into "ask another member" and "the answer is no".
pub fn classify(error: Error) -> CallError {
    let Error::GRpcStatus(status) = &error else {
        return CallError::Unavailable(error.to_string());
    };
    // Users or roles were changed while the call was on its way: the same call succeeds when it is made again.
    if status.message().contains("revision of auth store is old") {
        return CallError::Unavailable(status.message().to_owned());
    }
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated
        | Code::ResourceExhausted => {
            CallError::Refused { code: status.code(), message: status.message().to_owned() }
        }
        _ => CallError::Unavailable(format!("{}: {}", status.code(), status.message())),
    }
}
