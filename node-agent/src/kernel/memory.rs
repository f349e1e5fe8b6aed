//! Memory that the allocator keeps though nobody uses it, given back to the kernel.
//!
//! Reading ten thousand objects needs several times what is kept of them. This
//! module must not know when that is over.

/// Keeps the allocator from setting up an arena for each thread, as glibc does by
/// default: what is free in one is of no use to the others. To be called before
/// threads are started; other C libraries have no arenas.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a number of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what is free. Takes milliseconds when there is a lot of it.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only touches what the allocator holds as free, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
