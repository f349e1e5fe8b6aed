//! Words of a packet, read and written where they lie.
//!
//! An IP header begins two bytes after a multiple of four: to Rust its words are
//! misaligned, to the kernel not. So each is one instruction, written out: of four loads of
//! a byte the verifier would have to follow each.

use core::arch::asm;

/// Loads a word in one go.
///
/// # Safety
/// The pointer is to a word of the packet, within bounds that the verifier has seen checked.
#[inline(always)]
pub unsafe fn load(at: *const u8) -> u32 {
    let word: u64;
    // SAFETY: the instruction only loads what the caller vouches for.
    unsafe {
        asm!("{word} = *(u32 *)({at} + 0)", at = in(reg) at, word = out(reg) word,
             options(readonly, nostack, preserves_flags));
    }
    word as u32
}

/// Stores a word in one go, as [`load`] loads it.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn store(at: *mut u8, word: u32) {
    // SAFETY: the instruction only stores where the caller vouches for.
    unsafe {
        asm!("*(u32 *)({at} + 0) = {word}", at = in(reg) at, word = in(reg) u64::from(word),
             options(nostack, preserves_flags));
    }
}
