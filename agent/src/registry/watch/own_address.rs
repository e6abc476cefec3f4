//! Where this node is: its own address, looked up whenever the connection is made anew.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::{Watch, WatchEnd};
use crate::config::not_publishable;
use crate::metrics::WatchRestart;
use crate::registry::address::{allowed_networks, own_address};

impl Watch {
    /// Looks the own address up and, with `--allow own`, the own network with it. One that is known and cannot be
    /// found now is kept: a name server that is away is no reason to end a watch.
    pub(super) async fn find_address(&mut self, bound: Duration) -> Result<(), WatchEnd> {
        let endpoint = self.etcd.endpoint().clone();
        let found = timeout(bound, own_address(self.settings.advertise.as_ref(), &endpoint)).await;
        let found = match found {
            Ok(found) => found.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("{endpoint} was not resolved within {bound:?}")),
        };
        let known = *self.outlets.address.borrow();
        let ip = match (found, known) {
            (Ok(ip), _) => ip,
            (Err(why), Some(_)) => {
                self.complain(format!("own address not found, the known one is kept: {why}"));
                return Ok(());
            }
            (Err(why), None) => return Err(WatchEnd::new(WatchRestart::Unreachable, why)),
        };
        self.settings.space.set_allow(allowed_networks(&self.settings.allow, ip));
        if known == Some(ip) {
            self.complaint = None;
            return Ok(());
        }
        if !self.settings.space.allows(ip) {
            let why = not_publishable(ip, &self.settings.allow);
            self.complain(why.clone());
            return Err(WatchEnd::new(WatchRestart::AddressRefused, why));
        }
        info!(name: "own-address", %ip, %endpoint, "own address");
        self.outlets.address.send_replace(Some(ip));
        Ok(())
    }

    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            warn!(name: "own-address-in-doubt", why, "own address in doubt");
            self.complaint = Some(why);
        }
    }
}
