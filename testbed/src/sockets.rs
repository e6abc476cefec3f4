//! Whose a TCP connection is: asked of the kernel for one socket (sock_diag(7)), because reading `/proc/net/tcp` walks
//! through all of the machine's and takes milliseconds.

use std::fs;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// Where an answer has the inode: after the netlink header and `struct inet_diag_msg` up to its last field.
const INODE_AT: usize = 16 + 4 + 48 + 16;

/// Inode of the TCP socket with these two ends; `None` when there is none or the kernel does not say.
pub fn inode(local: SocketAddrV4, remote: SocketAddrV4) -> Option<u32> {
    let kernel =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag);
    let kernel = kernel.ok()?;
    send(kernel.as_raw_fd(), &question(local, remote), MsgFlags::empty()).ok()?;
    let mut answer = [0; 512];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let inode = answer[..length].get(INODE_AT..INODE_AT + 4).filter(|_| kind == SOCK_DIAG_BY_FAMILY)?;
    Some(u32::from_ne_bytes(inode.try_into().ok()?))
}

/// Whether a process has a socket open.
pub fn holds(pid: i32, inode: u32) -> bool {
    let name = format!("socket:[{inode}]");
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| link == Path::new(&name))
}

/// A netlink header and `struct inet_diag_req_v2`: 16 and 56 bytes.
fn question(local: SocketAddrV4, remote: SocketAddrV4) -> Vec<u8> {
    let mut message = Vec::with_capacity(72);
    message.extend(72_u32.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port id: there is one answer, to this socket.
    message.extend([0; 8]);
    message.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    // In any state.
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        message.extend(end.ip().octets());
        // Room for the rest of an IPv6 address.
        message.extend([0; 12]);
    }
    // On any interface, with any cookie.
    message.extend(0_u32.to_ne_bytes());
    message.extend([0xff; 8]);
    message
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_belongs_to_whoever_opened_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (SocketAddr::V4(local), SocketAddr::V4(remote)) =
            (client.local_addr().unwrap(), client.peer_addr().unwrap())
        else {
            unreachable!()
        };
        let inode = inode(local, remote).unwrap();
        assert!(holds(std::process::id().cast_signed(), inode));
        // Process 1 has sockets of its own.
        assert!(!holds(1, inode));
        drop(client);
    }
}
