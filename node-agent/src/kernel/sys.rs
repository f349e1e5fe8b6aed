//! bpf(2) and membarrier(2): the calls for which no crate has a safe wrapper.
//!
//! Invariant: everything here is one system call, and returns what the kernel
//! says of it. This module must not know what is attached where, or why.

use std::{
    ffi::CString,
    io,
    mem::{self, MaybeUninit},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{
    BPF_ANY, BPF_F_BEFORE, BPF_F_NO_PREALLOC, BPF_NOEXIST, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type,
    bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_info, bpf_map_type, bpf_prog_info,
};

use super::plain::{self, Plain};

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: every caller fills `attr` as the command demands, with pointers that outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), mem::size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command made the descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers; the kernel wants what isn't used to be zero.
    unsafe { mem::zeroed() }
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path holds a NUL byte"))
}

/// Where on an interface a program is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcxSide {
    Ingress,
    Egress,
}

/// Attaches a program to a cgroup, beside whatever others are there.
pub(super) fn link_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup);
    attr.link_create.attach_type = attach_type as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Attaches a program to an interface, before whatever others are there.
pub(super) fn link_tcx(program: BorrowedFd<'_>, ifindex: u32, side: TcxSide) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = match side {
        TcxSide::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        TcxSide::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    } as u32;
    // BEFORE relative to nothing: first of all.
    attr.link_create.flags = BPF_F_BEFORE;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Attaches a program to what an interface receives, before the kernel makes a
/// socket buffer of it (in the driver), or just after (`in_driver` is false).
pub(super) fn link_xdp(program: BorrowedFd<'_>, ifindex: u32, in_driver: bool) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.link_create.flags = if in_driver { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Puts another program in a link's place, between two packets.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes the program off, though the link's descriptor and pin go on.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Where a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// An interface, by index; 0: it is gone.
    Tcx { ifindex: u32 },
    /// An interface, by index; 0: it is gone.
    Xdp { ifindex: u32 },
    /// A cgroup, by id; 0: it is gone.
    Cgroup { id: u64 },
    /// None of ours.
    Other,
}

/// What the kernel knows of a link.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    let info: bpf_link_info = object_info(link)?;
    Ok(match info.type_ {
        kind if kind == bpf_link_type::BPF_LINK_TYPE_TCX as u32 => {
            // SAFETY: the kernel fills this member for a link of this type.
            LinkTarget::Tcx { ifindex: unsafe { info.__bindgen_anon_1.tcx.ifindex } }
        }
        kind if kind == bpf_link_type::BPF_LINK_TYPE_XDP as u32 => {
            // SAFETY: the kernel fills this member for a link of this type.
            LinkTarget::Xdp { ifindex: unsafe { info.__bindgen_anon_1.xdp.ifindex } }
        }
        kind if kind == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 => {
            // SAFETY: the kernel fills this member for a link of this type.
            LinkTarget::Cgroup { id: unsafe { info.__bindgen_anon_1.cgroup.cgroup_id } }
        }
        _ => LinkTarget::Other,
    })
}

/// Sizes of a map as it was created.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    object_info(map)
}

/// Whether a program was compiled to machine code.
pub(super) fn is_compiled(program: BorrowedFd<'_>) -> io::Result<bool> {
    object_info::<bpf_prog_info>(program).map(|info| info.jited_prog_len > 0)
}

fn object_info<T>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = MaybeUninit::<T>::zeroed();
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(fd);
    attr.info.info_len = mem::size_of::<T>() as u32;
    attr.info.info = info.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: called with kernel info structs only, which are integers and valid when zeroed.
    Ok(unsafe { info.assume_init() })
}

/// Pins a map or link on bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned on bpffs.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Reads an entry; `value` has the map's value size, times the possible CPUs for a per-CPU map.
fn lookup_raw(map: BorrowedFd<'_>, key: *const u8, value: *mut u8) -> io::Result<bool> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// Reads an entry of whatever map into `value`; false if it isn't there. `key` and `value` are as long as the map's keys
/// and values, as the caller has checked; of a per-CPU map there is a value for each possible CPU.
pub(super) fn map_lookup_bytes(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    lookup_raw(map, key.as_ptr(), value.as_mut_ptr())
}

/// Writes an entry of whatever map, likewise.
pub(super) fn map_update_bytes(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    map_update_raw(map, key.as_ptr(), value.as_ptr(), BPF_ANY)
}

/// The key after `key` of whatever map, or the first, put into `next`; false if there is none.
pub(super) fn map_next_key_bytes(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.map_or(0, |key| key.as_ptr() as u64);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    found(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))
}

fn found(result: io::Result<RawFd>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads an entry of a map whose key and value sizes are those of `K` and `V`, as the caller has checked.
pub(super) fn map_lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let found = lookup_raw(map, std::ptr::from_ref(key).cast(), value.as_mut_ptr().cast())?;
    // SAFETY: the kernel filled it when it found the entry, and any bytes are a value.
    Ok(found.then(|| unsafe { value.assume_init() }))
}

/// Reads an entry of a per-CPU map of `u64`: one number for each possible CPU.
pub(super) fn map_lookup_per_cpu<K: Plain>(map: BorrowedFd<'_>, key: &K, cpus: usize) -> io::Result<Vec<u64>> {
    let mut values = vec![0_u64; cpus];
    lookup_raw(map, std::ptr::from_ref(key).cast(), values.as_mut_ptr().cast())?;
    Ok(values)
}

/// Writes an entry, whether or not it was there.
pub(super) fn map_update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    map_update_raw(map, std::ptr::from_ref(key).cast(), std::ptr::from_ref(value).cast(), BPF_ANY)
}

/// Writes an entry unless there is one already, which is then EEXIST.
pub(super) fn map_insert<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    map_update_raw(map, std::ptr::from_ref(key).cast(), std::ptr::from_ref(value).cast(), BPF_NOEXIST)
}

/// Puts a map into a map of maps. The call returns when no program can still hold the map that was there before.
pub(super) fn map_update_inner(map: BorrowedFd<'_>, key: u32, inner: BorrowedFd<'_>) -> io::Result<()> {
    let inner = raw(inner);
    map_update_raw(map, std::ptr::from_ref(&key).cast(), std::ptr::from_ref(&inner).cast(), BPF_ANY)
}

fn map_update_raw(map: BorrowedFd<'_>, key: *const u8, value: *const u8, flags: u32) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    attr.__bindgen_anon_2.flags = u64::from(flags);
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes an entry; false if it wasn't there.
pub(super) fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr))
}

/// The key after `key` in the map's own order, or the first.
pub(super) fn map_next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::uninit();
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    let found = found(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))?;
    // SAFETY: the kernel filled it when there was one, and any bytes are a key.
    Ok(found.then(|| unsafe { next.assume_init() }))
}

/// Where a walk over a hash in batches stands.
#[derive(Clone, Copy, Default)]
pub(super) struct BatchCursor {
    at: u32,
    begun: bool,
    /// The walk is over.
    pub(super) done: bool,
}

impl BatchCursor {
    /// Goes on where a walk stopped; `None`: begins one.
    pub(super) fn resume(after: Option<u32>) -> Self {
        Self { at: after.unwrap_or(0), begun: after.is_some(), done: false }
    }

    /// Where to go on; `None`: the walk is over.
    pub(super) fn position(&self) -> Option<u32> {
        (!self.done).then_some(self.at)
    }
}

/// Reads the next entries of a hash, at most `batch` of them, into buffers that hold that many keys and values; how
/// many there were.
pub(super) fn map_read_batch(
    map: BorrowedFd<'_>,
    cursor: &mut BatchCursor,
    (keys, values): (&mut [u8], &mut [u8]),
    batch: u32,
) -> io::Result<u32> {
    let mut next = 0_u32;
    let mut attr = zeroed();
    attr.batch.map_fd = raw(map);
    attr.batch.in_batch = if cursor.begun { std::ptr::from_ref(&cursor.at) as u64 } else { 0 };
    attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = batch;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => cursor.done = true,
        Err(error) => return Err(error),
    }
    cursor.begun = true;
    cursor.at = next;
    // SAFETY: the kernel wrote the number of entries that it copied.
    Ok(unsafe { attr.batch.count })
}

/// Runs a tc program on a frame whose payload is `value`, which goes nowhere; what it returns.
pub(super) fn run_on_frame<V: Plain>(program: BorrowedFd<'_>, value: &V) -> io::Result<u32> {
    const ETHERNET: usize = 14;
    let mut frame = vec![0_u8; ETHERNET];
    frame.extend_from_slice(plain::bytes(value));
    let mut attr = zeroed();
    attr.test.prog_fd = raw(program);
    attr.test.data_in = frame.as_ptr() as u64;
    attr.test.data_size_in = frame.len() as u32;
    attr.test.repeat = 1;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel wrote what the program returned.
    Ok(unsafe { attr.test.retval })
}

/// Creates an array map of one `u32`, or of one map like `inner`.
pub(super) fn create_array(inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = match inner {
        Some(_) => bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
        None => bpf_map_type::BPF_MAP_TYPE_ARRAY,
    } as u32;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = 4;
    attr.__bindgen_anon_1.max_entries = 1;
    if let Some(inner) = inner {
        attr.__bindgen_anon_1.inner_map_fd = raw(inner);
    }
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Type information of a table: of which BTF, and the numbers of its key's and its value's types.
pub(super) struct Types<'a> {
    pub btf: &'a OwnedFd,
    pub key: u32,
    pub value: u32,
}

/// Gives BTF to the kernel.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_7.btf = btf.as_ptr() as u64;
    attr.__bindgen_anon_7.btf_size = btf.len() as u32;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Creates a map that keeps values with sockets.
pub(super) fn create_socket_storage(value_size: u32, types: Types<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32;
    attr.__bindgen_anon_1.map_flags = BPF_F_NO_PREALLOC;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = value_size;
    attr.__bindgen_anon_1.btf_fd = raw(types.btf);
    attr.__bindgen_anon_1.btf_key_type_id = types.key;
    attr.__bindgen_anon_1.btf_value_type_id = types.value;
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Waits until every CPU has passed through a point outside any program.
pub(super) fn membarrier_global() -> io::Result<()> {
    // From linux/membarrier.h; libc doesn't have it everywhere.
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes no pointer.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
