//! cgroup programs: socket calls that name a Service.
//!
//! Ports stand in network byte order in the low half of a word, addresses as
//! they stand in packets.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use datapath::{
    abi::{Addr, Be16, Family},
    socket::{self, Call, SocketVerdict},
};

use crate::{events, tables::KernelTables};

const ECONNREFUSED: i32 = 111;

/// What a program returns: the call goes on.
const ALLOW: i32 = 1;
/// What a program returns: the call fails.
const REFUSE: i32 = 0;

#[inline(always)]
fn call(ctx: &SockAddrContext, family: Family) -> Call {
    let raw = ctx.sock_addr;
    // SAFETY: the kernel hands a valid context to the program, and these fields
    // may be read a word at a time in every one of these hooks. The helpers only
    // read the context.
    unsafe {
        let addr = match family {
            Family::V4 => Addr::v4((*raw).user_ip4),
            Family::V6 => Addr::v6([(*raw).user_ip6[0], (*raw).user_ip6[1], (*raw).user_ip6[2], (*raw).user_ip6[3]]),
        };
        Call {
            addr,
            port: Be16::from_wire((*raw).user_port as u16),
            protocol: (*raw).protocol as u8,
            socket: bpf_get_socket_cookie(raw.cast()),
            netns: bpf_get_netns_cookie(raw.cast()),
        }
    }
}

#[inline(always)]
fn perform(ctx: &SockAddrContext, family: Family, verdict: SocketVerdict) -> i32 {
    let raw: *mut bpf_sock_addr = ctx.sock_addr;
    match verdict {
        SocketVerdict::Unchanged => ALLOW,
        SocketVerdict::Divert(addr, port) => {
            // SAFETY: the context is valid, and these fields may be written a word
            // at a time in every one of these hooks.
            unsafe {
                match family {
                    Family::V4 => (*raw).user_ip4 = addr.v4_word(),
                    Family::V6 => {
                        core::ptr::write_volatile(&raw mut (*raw).user_ip6[0], addr.0[0]);
                        core::ptr::write_volatile(&raw mut (*raw).user_ip6[1], addr.0[1]);
                        core::ptr::write_volatile(&raw mut (*raw).user_ip6[2], addr.0[2]);
                        core::ptr::write_volatile(&raw mut (*raw).user_ip6[3], addr.0[3]);
                    }
                }
                (*raw).user_port = u32::from(port.wire());
            }
            ALLOW
        }
        SocketVerdict::Refuse => REFUSE,
    }
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let call = call(ctx, family);
    let verdict = socket::connect(&mut KernelTables, &call);
    if verdict != SocketVerdict::Unchanged {
        events::tell_call(&call, &verdict);
    }
    if verdict == SocketVerdict::Refuse {
        // SAFETY: the helper only notes the value. Without it the call would fail with EPERM.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    perform(ctx, family, verdict)
}

/// `connect()` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V4)
}

/// `connect()` on an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V6)
}

/// `sendmsg()` on an IPv4 datagram socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    perform(&ctx, Family::V4, socket::send(&mut KernelTables, &call(&ctx, Family::V4)))
}

/// `sendmsg()` on an IPv6 datagram socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    perform(&ctx, Family::V6, socket::send(&mut KernelTables, &call(&ctx, Family::V6)))
}

/// `recvmsg()` on an IPv4 datagram socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    perform(&ctx, Family::V4, socket::receive(&KernelTables, &call(&ctx, Family::V4)))
}

/// `recvmsg()` on an IPv6 datagram socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    perform(&ctx, Family::V6, socket::receive(&KernelTables, &call(&ctx, Family::V6)))
}

/// `getpeername()` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    perform(&ctx, Family::V4, socket::peer_name(&KernelTables, &call(&ctx, Family::V4)))
}

/// `getpeername()` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    perform(&ctx, Family::V6, socket::peer_name(&KernelTables, &call(&ctx, Family::V6)))
}

/// A socket's end.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the helper only reads the context, which is valid for the program's run.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
    socket::release(&mut KernelTables, cookie);
    ALLOW
}
