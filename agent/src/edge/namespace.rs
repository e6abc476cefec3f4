//! Whether this container still has its network.
//!
//! A container that joined another's network namespace keeps running when that one dies, with `lo` alone: nothing
//! reaches it, and it reaches nothing. Only a new start joins the namespace that the other one has then.

use std::time::Duration;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use tokio::time::{Instant, sleep};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long it must have been so: interfaces come one after the other when a container starts.
const BOUND: Duration = Duration::from_secs(1);

/// Waits until for a second no interface but `lo` was up with an IPv4 address.
pub(super) async fn until_cut_off() {
    let began = Instant::now();
    let mut judge = Judge::default();
    while !judge.sees(began.elapsed(), reaches_out()) {
        sleep(LOOK).await;
    }
}

/// True also when the question cannot be answered: nothing is given up for lack of an answer.
fn reaches_out() -> bool {
    getifaddrs().map_or(true, |mut addresses| addresses.any(|address| leads_out(&address)))
}

fn leads_out(address: &InterfaceAddress) -> bool {
    let ipv4 = address.address.as_ref().and_then(SockaddrStorage::as_sockaddr_in).is_some();
    ipv4 && counts(address.flags)
}

fn counts(flags: InterfaceFlags) -> bool {
    flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
}

/// Remembers since when it has been cut off.
#[derive(Debug, Default)]
struct Judge {
    since: Option<Duration>,
}

impl Judge {
    /// Whether it has been so for too long now. Times count from any moment.
    fn sees(&mut self, now: Duration, reaches_out: bool) -> bool {
        if reaches_out {
            self.since = None;
            return false;
        }
        now.saturating_sub(*self.since.get_or_insert(now)) >= BOUND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_second_without_a_way_out_counts() {
        let ms = Duration::from_millis;
        let mut judge = Judge::default();
        assert!(!judge.sees(ms(0), false));
        assert!(!judge.sees(ms(999), false));
        assert!(!judge.sees(ms(1100), true));
        assert!(!judge.sees(ms(1300), false));
        assert!(!judge.sees(ms(2200), false));
        assert!(judge.sees(ms(2300), false));
    }

    #[test]
    fn neither_lo_nor_what_is_down_leads_out() {
        use InterfaceFlags as Flags;
        assert!(counts(Flags::IFF_UP | Flags::IFF_BROADCAST));
        assert!(!counts(Flags::IFF_UP | Flags::IFF_LOOPBACK));
        assert!(!counts(Flags::IFF_BROADCAST));
    }
}
