//! cgroup programs: socket calls that name a Service.
//!
//! Ports stand in network byte order in the low half of a word, addresses as
//! they stand in packets.

use core::ptr::{self, NonNull};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval, bpf_sk_storage_get},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use datapath::{
    abi::{Addr, Be16, DialledValue, Family},
    socket::{self, Call, Socket, SocketVerdict},
};

use crate::{events, maps, tables::KernelTables};

const ECONNREFUSED: i32 = 111;

/// What a program returns: the call goes on.
const ALLOW: i32 = 1;
/// What a program returns: the call fails.
const REFUSE: i32 = 0;

/// The socket that makes the call.
struct CallingSocket<'a>(&'a SockAddrContext);

impl CallingSocket<'_> {
    /// Its own memory in DIALLED. With `first` it gets one that says so, if it has none.
    #[inline(always)]
    fn memory(&self, first: Option<&DialledValue>) -> Option<NonNull<DialledValue>> {
        let map = (&raw const maps::DIALLED).cast_mut().cast();
        let (first, flags) = match first {
            Some(first) => (ptr::from_ref(first).cast_mut().cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE)),
            None => (ptr::null_mut(), 0),
        };
        // SAFETY: the context is valid, and so is the socket in it; the helper copies from `first`
        // the size of the map's values, which is its own.
        let memory = unsafe {
            let socket = (*self.0.sock_addr).__bindgen_anon_1.sk;
            bpf_sk_storage_get(map, socket.cast(), first, flags)
        };
        NonNull::new(memory.cast())
    }
}

impl Socket for CallingSocket<'_> {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the helper only reads the context, which is valid for the program's run.
        unsafe { bpf_get_socket_cookie(self.0.sock_addr.cast()) }
    }
    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_netns_cookie(self.0.sock_addr.cast()) }
    }
    #[inline(always)]
    fn dialled(&self) -> Option<DialledValue> {
        // SAFETY: the memory is the socket's own, and lives until the program run's end at least.
        self.memory(None).map(|memory| unsafe { memory.read() })
    }
    #[inline(always)]
    fn note_dialled(&mut self, dialled: &DialledValue) {
        // Without memory the socket shows the backend's name instead of the Service's.
        let Some(memory) = self.memory(Some(dialled)) else { return };
        // It may be of an earlier call.
        // SAFETY: as above; the socket's lock keeps other calls out.
        unsafe { memory.write(*dialled) };
    }
}

#[inline(always)]
fn call(ctx: &SockAddrContext, family: Family) -> Call {
    let raw = ctx.sock_addr;
    // SAFETY: the kernel hands a valid context to the program, and these fields
    // may be read a word at a time in every one of these hooks.
    unsafe {
        let addr = match family {
            Family::V4 => Addr::v4((*raw).user_ip4),
            Family::V6 => Addr::v6([(*raw).user_ip6[0], (*raw).user_ip6[1], (*raw).user_ip6[2], (*raw).user_ip6[3]]),
        };
        Call { addr, port: Be16::from_wire((*raw).user_port as u16), protocol: (*raw).protocol as u8 }
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
    let (mut socket, call) = (CallingSocket(ctx), call(ctx, family));
    let verdict = socket::connect(&mut KernelTables, &mut socket, &call);
    if verdict != SocketVerdict::Unchanged && events::are_heard() {
        events::tell_call(&socket, &call, &verdict);
    }
    if verdict == SocketVerdict::Refuse {
        // SAFETY: the helper only notes the value. Without it the call would fail with EPERM.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    perform(ctx, family, verdict)
}

#[inline(always)]
fn send(ctx: &SockAddrContext, family: Family) -> i32 {
    perform(ctx, family, socket::send(&mut KernelTables, &CallingSocket(ctx), &call(ctx, family)))
}

#[inline(always)]
fn receive(ctx: &SockAddrContext, family: Family) -> i32 {
    perform(ctx, family, socket::receive(&KernelTables, &CallingSocket(ctx), &call(ctx, family)))
}

#[inline(always)]
fn peer_name(ctx: &SockAddrContext, family: Family) -> i32 {
    perform(ctx, family, socket::peer_name(&CallingSocket(ctx), &call(ctx, family)))
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
    send(&ctx, Family::V4)
}

/// `sendmsg()` on an IPv6 datagram socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&ctx, Family::V6)
}

/// `recvmsg()` on an IPv4 datagram socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    receive(&ctx, Family::V4)
}

/// `recvmsg()` on an IPv6 datagram socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    receive(&ctx, Family::V6)
}

/// `getpeername()` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    peer_name(&ctx, Family::V4)
}

/// `getpeername()` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    peer_name(&ctx, Family::V6)
}

/// A socket's end.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the helper only reads the context, which is valid for the program's run.
    socket::release(&mut KernelTables, || unsafe { bpf_get_socket_cookie(ctx.sock.cast()) });
    ALLOW
}
