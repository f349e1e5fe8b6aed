//! XDP programs of a few instructions, written out by hand: what Fairlead's is
//! measured against, and what makes and counts its packets.
//!
//! Invariant: each is an object like one that a compiler leaves, with one program
//! in it. This module must not know where they are attached.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, programs::Xdp};
use etherparse::PacketBuilder;

/// The program's name in its object.
const NAME: &str = "prog";

const XDP_ABORTED: i32 = 0;
const XDP_DROP: i32 = 1;
const XDP_TX: i32 = 3;

/// Helpers by number, from `linux/bpf.h`.
const BPF_GET_PRANDOM_U32: i32 = 7;
const BPF_REDIRECT: i32 = 23;

/// Source ports that the generator uses, from the template's on.
pub const FLOWS: i32 = 256;

/// Where things are in a frame of the generator.
const SOURCE_PORT: i16 = 34;
const UDP_CHECKSUM: i16 = 40;

/// Sends every frame back.
pub fn bounce() -> Result<Ebpf> {
    load(&[mov(0, XDP_TX), EXIT])
}

/// Drops every frame; the interface counts it.
pub fn sink() -> Result<Ebpf> {
    load(&[mov(0, XDP_DROP), EXIT])
}

/// A UDP packet to `to`, which the generator sends with one source port after another.
#[derive(Clone, Debug)]
pub struct Template {
    /// The frame with the first source port.
    pub frame: Vec<u8>,
    port: u16,
    checksum: u16,
}

impl Template {
    /// From `from`, on the link to `mac`.
    ///
    /// # Errors
    /// Its checksum is one that the generator can't count down from.
    pub fn new(mac: [u8; 6], from: SocketAddrV4, to: SocketAddrV4) -> Result<Self> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac)
            .ipv4(from.ip().octets(), to.ip().octets(), 64)
            .udp(from.port(), to.port());
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; 18]).context("a packet of this size is possible")?;
        let at = UDP_CHECKSUM as usize;
        let checksum = u16::from_be_bytes([frame[at], frame[at + 1]]);
        ensure!(i32::from(checksum) > FLOWS, "take another source port than {}", from.port());
        Ok(Self { frame, port: from.port(), checksum })
    }
}

/// Writes a template over every frame, with a random one of its source ports, and
/// sends it by the interface.
///
/// # Errors
/// The kernel refuses it.
pub fn generator(template: &Template, ifindex: u32) -> Result<Ebpf> {
    let frame = &template.frame;
    let stores: Vec<_> = frame
        .chunks_exact(4)
        .enumerate()
        .map(|(i, word)| store_word(7, i as i16 * 4, i32::from_le_bytes([word[0], word[1], word[2], word[3]])))
        .collect();
    let behind = [
        // The port counts up from the template's, the checksum down.
        call(BPF_GET_PRANDOM_U32),
        and(0, FLOWS - 1),
        copy(1, 0),
        mov(2, i32::from(template.checksum)),
        sub(2, 1),
        add(0, i32::from(template.port)),
        to_be16(0),
        to_be16(2),
        store_half(7, SOURCE_PORT, 0),
        store_half(7, UDP_CHECKSUM, 2),
        mov(1, ifindex.cast_signed()),
        mov(2, 0),
        call(BPF_REDIRECT),
        EXIT,
    ];
    let before = [
        load_word(7, 1, 0),
        load_word(3, 1, 4),
        copy(2, 7),
        add(2, frame.len() as i32),
        jump_unless_above(2, 3, 2),
        mov(0, XDP_ABORTED),
        EXIT,
    ];
    load(&[&before[..], &stores, &behind].concat())
}

/// The program of an object of this module.
///
/// # Errors
/// The object has none.
pub fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(NAME).context("the object has one program")?;
    Ok(program.try_into()?)
}

fn load(code: &[[u8; 8]]) -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&object(&code.concat())).context("loading a program written by hand")?;
    program(&mut ebpf)?.load().context("the kernel refuses a program written by hand")?;
    Ok(ebpf)
}

const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// Opcode, registers (the destination in the low half), offset, immediate.
fn instruction(opcode: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
    [opcode, src << 4 | dst, o0, o1, i0, i1, i2, i3]
}

fn mov(dst: u8, value: i32) -> [u8; 8] {
    instruction(0xb7, dst, 0, 0, value)
}

fn copy(dst: u8, src: u8) -> [u8; 8] {
    instruction(0xbf, dst, src, 0, 0)
}

fn add(dst: u8, value: i32) -> [u8; 8] {
    instruction(0x07, dst, 0, 0, value)
}

fn sub(dst: u8, src: u8) -> [u8; 8] {
    instruction(0x1f, dst, src, 0, 0)
}

fn and(dst: u8, value: i32) -> [u8; 8] {
    instruction(0x57, dst, 0, 0, value)
}

fn to_be16(dst: u8) -> [u8; 8] {
    instruction(0xdc, dst, 0, 0, 16)
}

fn load_word(dst: u8, src: u8, offset: i16) -> [u8; 8] {
    instruction(0x61, dst, src, offset, 0)
}

fn store_word(dst: u8, offset: i16, value: i32) -> [u8; 8] {
    instruction(0x62, dst, 0, offset, value)
}

fn store_half(dst: u8, offset: i16, src: u8) -> [u8; 8] {
    instruction(0x6b, dst, src, offset, 0)
}

fn jump_unless_above(a: u8, b: u8, offset: i16) -> [u8; 8] {
    instruction(0xbd, a, b, offset, 0)
}

fn call(helper: i32) -> [u8; 8] {
    instruction(0x85, 0, 0, 0, helper)
}

/// An ELF object with the program in section `xdp`.
fn object(code: &[u8]) -> Vec<u8> {
    const HEADER: usize = 64;
    let names = format!("\0xdp\0license\0.symtab\0.strtab\0{NAME}\0");
    let name = |of: &str| names.find(&format!("\0{of}\0")).expect("it is among them") as u32 + 1;
    // The null symbol, and the program: global, a function, in section 1.
    let mut symbols = vec![0; 24];
    symbols.extend(name(NAME).to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend([0; 8]);
    symbols.extend((code.len() as u64).to_le_bytes());

    let mut body = Vec::new();
    let mut section = |name: u32, kind: u32, flags: u64, bytes: &[u8], link: [u32; 2], entry: u64| {
        body.resize(body.len().next_multiple_of(8), 0);
        let offset = (HEADER + body.len()) as u64;
        body.extend(bytes);
        let mut header = Vec::new();
        header.extend(name.to_le_bytes());
        header.extend(kind.to_le_bytes());
        header.extend([flags, 0, offset, bytes.len() as u64].map(u64::to_le_bytes).concat());
        header.extend(link.map(u32::to_le_bytes).concat());
        header.extend([8, entry].map(u64::to_le_bytes).concat());
        header
    };
    let sections = [
        vec![0; 64],
        section(name("xdp"), 1, 6, code, [0; 2], 0),
        section(name("license"), 1, 3, b"GPL\0", [0; 2], 0),
        section(name(".symtab"), 2, 0, &symbols, [4, 1], 24),
        section(name(".strtab"), 3, 0, names.as_bytes(), [0; 2], 0),
    ];
    body.resize(body.len().next_multiple_of(8), 0);

    // 64 bits, little-endian, relocatable, for BPF.
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xf7\0\x01\0\0\0".to_vec();
    elf.extend([0, 0, (HEADER + body.len()) as u64].map(u64::to_le_bytes).concat());
    elf.extend([0; 4]);
    elf.extend([HEADER as u16, 0, 0, 64, sections.len() as u16, 4].map(u16::to_le_bytes).concat());
    elf.extend(body);
    elf.extend(sections.concat());
    elf
}
