//! Packets per second through a NodePort, as fast as the kernel can make them.
//!
//! A program in the kernel sends frames without socket buffers into the uplink's
//! veth, and another one counts and drops what comes back out of it, translated and
//! addressed to a backend on the link. All of it runs on one core, for each variant.

use std::{
    net::{SocketAddr, SocketAddrV4},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions, Xdp, xdp::XdpMode},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    bench::{
        Context,
        arena::Arena,
        bed::Bed,
        figure::{Section, Target},
        routed_node::{NODE, OUTSIDE, UPLINK, UPLINK_PORT},
        variant::Variant,
        workload::{ELSEWHERE, PORT},
        xdp_code::{self, Template},
    },
    sandbox::{Namespace, output},
};

/// The number of Services: a look-up costs the same at any.
const SERVICES: usize = 10;
/// The MAC address of the backend, which no host has.
const BACKEND_MAC: &str = "02:00:00:00:00:63";
/// Frames that the generator makes at a time.
const BATCH: u32 = 64;
/// Frames of one call.
const FRAMES: u32 = 100_000;
/// The first source port.
const SOURCE_PORT: u16 = 40_000;
/// How long XDP may take to come to the uplink once it can send.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let (rounds, seconds) = (context.settings.rounds, context.settings.seconds);
    let variants = context.settings.variants.clone();
    let arena = context.arena_outside(SERVICES)?;
    let lines: Vec<(Variant, Line)> = variants
        .iter()
        .filter_map(|variant| arena.bed(*variant))
        .map(|bed| Ok((bed.variant, Line::new(arena, bed).with_context(|| bed.variant.name())?)))
        .collect::<Result<_>>()?;
    let [rates] = arena.take_turns(rounds, |bed| {
        let (_, line) = lines.iter().find(|(variant, _)| *variant == bed.variant).context("every bed has a line")?;
        Ok([line.run(seconds)?])
    })?;
    let mut section = Section::new("nodeport-packets", "Packets through a NodePort", "/s");
    section.series = rates;
    section.compare("fairlead", "iptables", Target::AtLeast(2.0));
    section.compare("fairlead", "nftables", Target::Above(1.0));
    section.notes.push(format!(
        "UDP packets of 60 bytes in {} flows to a backend on the node's link, made by a program in the kernel \
         (BPF_F_TEST_XDP_LIVE_FRAMES) and counted by another one where they come back, all on one core. The veth's \
         ends poll. Fairlead: --xdp=auto, which is native then. Direct: forwarded without translation.",
        xdp_code::FLOWS
    ));
    Ok(vec![section])
}

/// A bed's uplink with a generator and a sink on its other end.
struct Line {
    outside: Namespace,
    generator: Ebpf,
    frame: Vec<u8>,
    // Holds its program on the interface.
    _sink: Ebpf,
}

impl Line {
    fn new(arena: &Arena, bed: &Bed) -> Result<Self> {
        let node = &bed.node;
        let outside = Namespace::at(&bed.pods[0].netns);
        node.ip(&format!("neigh replace {ELSEWHERE} lladdr {BACKEND_MAC} dev {UPLINK} nud permanent"));
        for interface in ["all", UPLINK] {
            // They go back where they came from, of which a router tells the sender.
            node.sysctl(&format!("net.ipv4.conf.{interface}.send_redirects"), "0");
        }
        let mut polls = node.command("ethtool");
        ensure!(output(polls.args(["-K", UPLINK, "gro", "on"]), "").status.success(), "ethtool can't switch GRO on");

        let SocketAddr::V4(node_port) = arena.workload().elsewhere_node_port(NODE) else { bail!("it has no IPv4") };
        let to = if bed.variant == Variant::Direct { SocketAddrV4::new(ELSEWHERE, PORT) } else { node_port };
        let template = Template::new(mac(node)?, SocketAddrV4::new(OUTSIDE, SOURCE_PORT), to)?;
        let index = index(&outside, UPLINK_PORT)?;
        let (sink, generator) = outside.within(|| -> Result<_> {
            let mut sink = xdp_code::sink()?;
            let program: &mut Xdp = xdp_code::program(&mut sink)?;
            program.attach_to_if_index(index, XdpMode::Driver).context("attaching the sink")?;
            Ok((sink, xdp_code::generator(&template, index)?))
        })??;
        if bed.variant == Variant::Fairlead {
            wait_for_xdp(node)?;
        }
        Ok(Self { outside, generator, frame: template.frame, _sink: sink })
    }

    /// Packets per second that came back.
    fn run(&self, seconds: f64) -> Result<f64> {
        self.outside.within(|| {
            let mut core = CpuSet::new();
            core.set(0)?;
            sched_setaffinity(Pid::from_raw(0), &core).context("can't pin to a core")?;
            let program: &Xdp = self.generator.program("prog").context("it is there")?.try_into()?;
            let send = || {
                let options = TestRunOptions {
                    data_in: Some(&self.frame),
                    repeat: FRAMES,
                    attrs: aya::TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::new()
                };
                program.test_run(options).context("BPF_PROG_TEST_RUN with live frames")
            };
            // The flows begin.
            send()?;
            let (before, begun) = (received(&self.outside)?, Instant::now());
            while begun.elapsed().as_secs_f64() < seconds {
                send()?;
            }
            let elapsed = begun.elapsed().as_secs_f64();
            let came_back = received(&self.outside)? - before;
            ensure!(came_back > 0, "no packet came back");
            Ok(came_back as f64 / elapsed)
        })?
    }
}

/// Frames that came out of the uplink.
fn received(outside: &Namespace) -> Result<u64> {
    let shown = outside.show(&format!("-json -stats link show dev {UPLINK_PORT}"));
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    shown[0]["stats64"]["rx"]["packets"].as_u64().context("ip shows no statistics")
}

fn index(namespace: &Namespace, interface: &str) -> Result<u32> {
    let shown: serde_json::Value = serde_json::from_str(&namespace.show(&format!("-json link show dev {interface}")))?;
    Ok(u32::try_from(shown[0]["ifindex"].as_u64().context("ip shows no index")?)?)
}

fn mac(node: &Namespace) -> Result<[u8; 6]> {
    let shown: serde_json::Value = serde_json::from_str(&node.show(&format!("-json link show dev {UPLINK}")))?;
    let text = shown[0]["address"].as_str().context("ip shows no address")?;
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no MAC address"))
}

fn wait_for_xdp(node: &Namespace) -> Result<()> {
    let since = Instant::now();
    while !node.show(&format!("link show dev {UPLINK}")).contains("xdp") {
        ensure!(since.elapsed() < PATIENCE, "XDP didn't come to the uplink");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
