//! Flags of `muster pki`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::RegistryFlags;
use super::values::{days, directory, wait};
use crate::pki::plan::Member;

/// Longest life of a certificate, and longest look ahead, in days: that of the authorities.
pub const MAX_DAYS: u32 = 3650;

#[derive(Clone, Debug, Subcommand)]
pub enum PkiCommand {
    /// Make the authorities and certificates that are missing; what is there is never touched
    Init {
        /// Members of etcd, and what else each is reached as: etcd1 or etcd1+etcd1-peer+10.0.0.5
        #[arg(
            long,
            env = "MUSTER_PKI_MEMBERS",
            default_value = "etcd1,etcd2,etcd3",
            value_delimiter = ',',
            value_name = "NAME[+NAME]"
        )]
        members: Vec<Member>,
        #[command(flatten)]
        make: PkiMakeFlags,
    },
    /// Set up etcd's users and roles and turn its authentication on; done at once when it is
    EtcdAuth {
        #[command(flatten)]
        registry: RegistryFlags,
        /// How long to wait for etcd, in seconds (0 to 600)
        #[arg(long, env = "MUSTER_WAIT", default_value = "30", value_parser = wait, value_name = "SECONDS")]
        wait: Duration,
    },
    /// List certificates with names and ends; exit 3 when one is wrong, has ended or ends soon
    Show(PkiShowFlags),
    /// Replace certificates and their keys; the authorities stay
    Renew {
        /// The service: etcd1, agent, envoy and so on [default: all]
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        /// What members are reached as from now on [default: as their certificates say]
        #[arg(long, env = "MUSTER_PKI_MEMBERS", value_delimiter = ',', value_name = "NAME[+NAME]")]
        members: Vec<Member>,
        #[command(flatten)]
        make: PkiMakeFlags,
    },
}

#[derive(Clone, Debug, Args)]
pub struct PkiMakeFlags {
    /// Directory with one directory a service
    #[arg(long, env = "MUSTER_PKI_DIR", default_value = "/pki", value_parser = directory, value_name = "DIR")]
    pub dir: PathBuf,
    /// Days a new certificate is good for (1 to 3650)
    #[arg(long, env = "MUSTER_PKI_DAYS", default_value = "365", value_parser = days, value_name = "DAYS")]
    pub days: u32,
    /// User and group that what is made is given to, when run as root
    #[arg(long, env = "MUSTER_PKI_OWNER", default_value = "65532", value_name = "UID")]
    pub owner: u32,
}

#[derive(Clone, Debug, Args)]
pub struct PkiShowFlags {
    /// Directory with one directory a service, or that of one service
    #[arg(long, env = "MUSTER_PKI_DIR", default_value = "/pki", value_parser = directory, value_name = "DIR")]
    pub dir: PathBuf,
    /// How many days before its end a certificate ends soon (1 to 3650)
    #[arg(long, env = "MUSTER_PKI_WITHIN", default_value = "30", value_parser = days, value_name = "DAYS")]
    pub within: u32,
    /// How it is printed
    #[arg(long, short, default_value = "table")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}
