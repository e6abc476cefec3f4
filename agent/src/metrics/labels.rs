//! The closed lists of label values. A value that is not here cannot be counted, so no input makes new series.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

/// An enum that is a whole label: `Enum "label" { Variant = "value" }`.
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident $label:literal { $($(#[$note:meta])* $variant:ident = $value:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$note])* $variant,)+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $value,)+ }
            }
        }

        impl EncodeLabelSet for $name {
            fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
                [($label, self.as_str())].encode(encoder)
            }
        }
    )+};
}

labels! {
    /// This agent's phase of life.
    Phase "state" {
        Starting = "starting",
        Serving = "serving",
        /// Alive, but withdrawn from the list because nginx does not answer.
        Withdrawn = "withdrawn",
        Draining = "draining",
        Stopping = "stopping",
    }
    /// State of a node in the list.
    Listed "state" {
        Serving = "serving",
        Draining = "draining",
        Lost = "lost",
    }
    /// A generated file, by its name.
    ListFile "file" {
        IpsJson = "ips.json",
        IpsTxt = "ips.txt",
        SdJson = "sd.json",
        HistoryJson = "history.json",
        NodeJson = "node.json",
        IpsHtml = "ips.html",
    }
    WriteResult "result" {
        Written = "written",
        Failed = "failed",
    }
    /// What the watch saw happen to a node.
    Event "event" {
        Joined = "joined",
        Draining = "draining",
        /// Gone after `draining`.
        Left = "left",
        Lost = "lost",
        /// Gone without a word.
        Expired = "expired",
    }
    /// A kind of request to etcd.
    Op "op" {
        Grant = "grant",
        Renew = "renew",
        TimeToLive = "time_to_live",
        Revoke = "revoke",
        Range = "range",
        Txn = "txn",
        Watch = "watch",
        Auth = "auth",
    }
    OpResult "result" {
        Ok = "ok",
        Failed = "failed",
        /// No answer: it may have been carried out.
        Unknown = "unknown",
    }
    /// Why a watch was opened anew.
    WatchRestart "reason" {
        /// No member answers, or the own address cannot be found.
        Unreachable = "unreachable",
        Broken = "broken",
        Silent = "silent",
        Compacted = "compacted",
        /// An event never came.
        LostEvent = "lost-event",
        /// An answer larger than this agent takes.
        Oversized = "oversized",
        /// The own address must not be listed.
        AddressRefused = "address-refused",
    }
    /// Why a key under the prefix was left alone.
    Refused "reason" {
        NoLease = "no-lease",
        Misnamed = "misnamed",
        TooLong = "too-long",
        Unreadable = "unreadable",
        NotAllowed = "not-allowed",
    }
    /// An Envoy resource type, by the name of its discovery service.
    Resource "type" {
        Clusters = "cds",
        Endpoints = "eds",
        Listeners = "lds",
        Routes = "rds",
    }
    XdsResult "result" {
        Ack = "ack",
        Nack = "nack",
    }
    /// What came of new certificates.
    Reload "result" {
        Taken = "taken",
        Refused = "refused",
    }
    DrainResult "result" {
        Acknowledged = "acknowledged",
        Timeout = "timeout",
        Forced = "forced",
        /// Nothing was routed to this node.
        NotNeeded = "not-needed",
        /// The registry took no notice of it.
        Unannounced = "unannounced",
    }
    /// Why `muster edge` started Envoy again.
    EnvoyRestart "reason" {
        /// It ended by itself.
        Ended = "ended",
        /// It was killed because it did not answer.
        Silent = "silent",
    }
    /// How `muster edge` stopped Envoy.
    EdgeDrain "result" {
        /// Nothing was under way any more.
        Done = "done",
        Timeout = "timeout",
        /// A second signal.
        Forced = "forced",
        /// It had no listener yet.
        NotNeeded = "not-needed",
        /// It did not answer, so it could not be asked to.
        Silent = "silent",
        /// It ended before it was told to.
        Ended = "ended",
    }
}
