//! Addresses that one test has for itself.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};

/// An address of 127.0.0.0/8 that no other test has, in this program or in another that runs beside it.
pub fn own() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x40, low, COUNT.fetch_add(1, Ordering::Relaxed))
}
