//! `cargo xtask bench`: Fairlead against its baselines, in one run.
//!
//! A [`case::Case`] measures and gives [`figure::Section`]s; an [`arena::Arena`]
//! holds the variants that a case compares; [`report`] shows what came out.
//! Invariant: a figure and its baseline come from the same run, by turns, on
//! the same cores, with the same load generator. A new benchmark is a new case.

pub mod arena;
pub mod bed;
pub mod case;
pub mod figure;
pub mod histogram;
pub mod kube_proxy;
pub mod load;
pub mod metrics;
pub mod report;
pub mod routed_node;
pub mod routed_pair;
pub mod stages;
pub mod variant;
pub mod workload;
pub mod xdp_code;

use std::{
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
};

use anyhow::{Result, bail, ensure};
use arena::Arena;
use case::{CASES, Case};
use clap::Parser;
use figure::Section;
use variant::{Cores, Side, Variant};

/// The `bench` binary's command line.
#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measure Fairlead against direct routing and kube-proxy's rules")]
pub struct Bench {
    /// The cases to run, by name or family (`latency`); all of them if none is given.
    cases: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// How often each variant is measured.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Few and short rounds: whether everything works, not how fast.
    #[arg(long)]
    quick: bool,
    /// A missed target fails the run.
    #[arg(long)]
    strict: bool,
    /// The variants to compare.
    #[arg(long, value_delimiter = ',', default_value = "direct,iptables,nftables,fairlead")]
    variants: Vec<Variant>,
    /// Where client and server of the connection and latency cases run.
    #[arg(long, default_value = "shared")]
    cores: Cores,
    /// Generate kube-proxy's rules though it is on PATH: at 10,000 Services it needs minutes in iptables mode.
    #[arg(long)]
    generated_rules: bool,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

/// What every case is told.
pub struct Settings {
    /// How often each variant is measured.
    pub rounds: usize,
    /// How long one measurement takes, in seconds.
    pub seconds: f64,
    /// The variants to compare.
    pub variants: Vec<Variant>,
    /// Where client and server run.
    pub cores: Cores,
    /// Whether kube-proxy's rules are generated though it is on PATH.
    pub generated_rules: bool,
    /// The `load` binary.
    pub load: PathBuf,
}

impl Settings {
    /// Says on stderr what is going on.
    pub fn progress(&self, line: &str) {
        eprintln!("  {line}");
    }
}

/// What cases share: the settings, and the arena that is up.
pub struct Context {
    /// What every case is told.
    pub settings: Settings,
    arena: Option<Arena>,
}

impl Context {
    /// All variants with so many Services, brought up unless they are.
    ///
    /// # Errors
    /// Whatever a variant needs and the machine hasn't.
    pub fn arena(&mut self, services: usize) -> Result<&Arena> {
        let variants = self.settings.variants.clone();
        self.arena_with(&variants, services, Side::Pod)
    }

    /// The same with clients outside.
    ///
    /// # Errors
    /// Whatever a variant needs and the machine hasn't.
    pub fn arena_outside(&mut self, services: usize) -> Result<&Arena> {
        let variants = self.settings.variants.clone();
        self.arena_with(&variants, services, Side::Outside)
    }

    /// These variants, and perhaps more, with so many Services and clients on this
    /// side, brought up unless they are.
    ///
    /// # Errors
    /// Whatever a variant needs and the machine hasn't.
    pub fn arena_with(&mut self, variants: &[Variant], services: usize, side: Side) -> Result<&Arena> {
        let fits = |arena: &&Arena| {
            arena.services() == services
                && arena.side() == side
                && variants.iter().all(|variant| arena.bed(*variant).is_some())
        };
        if self.arena.as_ref().filter(fits).is_none() {
            // The old nodes go first: they would take memory and attention from the new.
            self.arena = None;
            self.arena = Some(Arena::new(&self.settings, variants, services, side)?);
        }
        Ok(self.arena.as_ref().expect("just brought up"))
    }
}

/// Runs a case. The harness panics where it can't go on; here that is the end of
/// one case, and of the arena that it ran in.
fn attempt(case: &Case, context: &mut Context) -> Result<Vec<Section>> {
    panic::catch_unwind(AssertUnwindSafe(|| (case.run)(context))).unwrap_or_else(|panic| {
        context.arena = None;
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        bail!("{}", text.unwrap_or("it panicked"))
    })
}

/// Runs the cases that the command line names and reports; false: the exit code must say so.
///
/// # Errors
/// No such case, or a report that can't be written. What a case fails with is in the report.
pub fn run(bench: &Bench) -> Result<bool> {
    if bench.list {
        for case in CASES {
            println!("{:20} {}", case.name, case.about);
        }
        return Ok(true);
    }
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| bench.cases.is_empty() || bench.cases.iter().any(|name| case.is(name))).collect();
    for name in &bench.cases {
        ensure!(cases.iter().any(|case| case.is(name)), "there is no case {name}; --list names them");
    }
    let mut context = Context {
        settings: Settings {
            rounds: if bench.quick { bench.rounds.min(3) } else { bench.rounds },
            seconds: if bench.quick { bench.seconds.min(0.3) } else { bench.seconds },
            variants: bench.variants.clone(),
            cores: bench.cores,
            generated_rules: bench.generated_rules,
            load: std::env::current_exe()?.with_file_name("load"),
        },
        arena: None,
    };
    // A panic is a case's failure, and is told as such.
    panic::set_hook(Box::new(|_| {}));
    let run = report::Run::of(&context.settings);
    let mut sections = Vec::new();
    for case in cases {
        eprintln!("{}: {}", case.name, case.about);
        match attempt(case, &mut context) {
            Ok(found) => {
                for section in &found {
                    print!("{}", report::terminal::section(section));
                }
                sections.extend(found);
            }
            Err(error) => {
                eprintln!("  {} could not run: {error:#}", case.name);
                sections.push(Section { error: format!("{error:#}"), ..Section::new(case.name, case.about, "") });
            }
        }
    }
    drop(context);
    report::write(&bench.output, &run, &sections)?;
    print!("{}", report::terminal::summary(&sections));
    if let Some(warning) = run.warning() {
        println!("{warning}");
    }
    println!("The report is at {}.", bench.output.join("report.md").display());
    let ran = sections.iter().all(|section| section.error.is_empty());
    let met = sections.iter().flat_map(|section| &section.checks).all(figure::Check::met);
    Ok(ran && (met || !bench.strict))
}
