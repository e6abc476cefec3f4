//! A short hash, to compare what two agents hold and to show it to people.

use sha2::{Digest, Sha256};

/// The first 8 bytes of SHA-256 over all parts, as 16 hex digits.
pub fn digest<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
