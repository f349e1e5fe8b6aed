//! The kernel programs: entry points, one for each hook.
//!
//! A program reads its packet or socket, lets `datapath` decide, and performs
//! the verdict. No decision is made here. The maps are in [`maps`], the adapters
//! that make them `Tables` and packets `Packet` beside it.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
// For any other target there is nothing to build: the programs exist in the kernel only.
#![cfg(target_arch = "bpf")]

mod clock;
mod concern;
mod events;
mod fib;
mod frame;
mod maps;
mod next_hop;
mod pods;
mod route;
mod skb;
mod sockets;
mod tables;
mod traffic;
mod words;
mod xdp;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program from which this can be reached.
    loop {}
}
