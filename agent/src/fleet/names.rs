//! What names and texts may look like: what is in the registry may be anybody's.

use super::entry::RejectionReason;

/// Texts that people read (reason, version, why) are cut off by refusal, not by truncation.
pub(super) const MAX_TEXT_BYTES: usize = 200;

/// `[A-Za-z0-9._-]{1,64}`
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// 16 hex digits, lower case.
pub fn is_instance(instance: &str) -> bool {
    instance.len() == 16 && instance.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One instance of one node, as its key, its files and the commands call it: `name-instance`.
pub fn node_id(name: &str, instance: &str) -> String {
    format!("{name}-{instance}")
}

/// Text that may be shown to people: printable ASCII, short.
///
/// # Errors
/// [`RejectionReason::Unreadable`].
pub(super) fn plain(text: &str) -> Result<(), RejectionReason> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if printable && text.len() <= MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(RejectionReason::Unreadable(format!(
        "a text is longer than {MAX_TEXT_BYTES} bytes or not printable ASCII"
    )))
}
