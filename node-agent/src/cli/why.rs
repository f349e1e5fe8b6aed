//! `fairlead why`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use owo_colors::OwoColorize;

use super::{
    arguments::Format,
    ask::{AskError, WhyArguments},
    print_json,
};
use crate::api::{
    protocol::{Inspection, Response},
    why::{WhyQuery, WhyReport},
};

/// Says what becomes of a connection; succeeds if there is an answer, whatever it is.
pub fn run(arguments: &WhyArguments) -> Result<ExitCode, AskError> {
    let query = WhyQuery {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        protocol: arguments.protocol,
        namespace: arguments.namespace.clone(),
    };
    let Response::Why(report) = arguments.ask.ask(Inspection::Why(Box::new(query)))? else {
        return Err(AskError::other_answer());
    };
    let printed = match arguments.ask.output {
        Format::Json => print_json(&report),
        Format::Table => story(&mut anstream::stdout().lock(), &report),
    };
    AskError::unless_enough(printed.map_err(Into::into)).map(|()| ExitCode::SUCCESS)
}

fn story(out: &mut impl Write, report: &WhyReport) -> io::Result<()> {
    let WhyReport { from, to, protocol, .. } = report;
    writeln!(out, "{}", format_args!("{protocol} from {from} to {to}").bold())?;
    for step in &report.steps {
        writeln!(out, "  {:<14}{}", step.step, step.text)?;
        if step.step == "backend" && report.candidates.len() > 1 {
            for candidate in &report.candidates {
                let name = candidate.name.as_deref().unwrap_or("-");
                writeln!(out, "  {:<16}{}  {name}", "", candidate.address)?;
            }
        }
    }
    let summary = match report.outcome.arrives() {
        true => report.summary.green().to_string(),
        false => report.summary.red().to_string(),
    };
    writeln!(out, "  {:<14}{summary}", "outcome")?;
    for warning in &report.warnings {
        writeln!(out, "  {:<14}{}", "warning", warning.yellow())?;
    }
    Ok(())
}
