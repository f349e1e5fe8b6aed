//! `fairlead flow`.
//!
//! The table is read and printed page by page, so that neither the agent nor this process
//! ever holds all of a large one.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use datapath::abi::protocol;
use owo_colors::OwoColorize;
use serde::ser::{SerializeSeq, Serializer as _};

use super::{
    arguments::Format,
    ask::{AskError, FlowArguments, FlowProtocol},
    table::Table,
    terminal,
};
use crate::api::{
    flows::{EndReport, FlowPage, FlowQuery, FlowReport, MAX_PAGE},
    protocol::{Inspection, Response},
};

/// Shows tracked flows, a line for each.
pub fn run(arguments: &FlowArguments) -> Result<ExitCode, AskError> {
    let printed = match arguments.ask.output {
        Format::Json => print_array(arguments),
        Format::Table => print_lines(arguments, &mut terminal()),
    };
    AskError::unless_enough(printed).map(|()| ExitCode::SUCCESS)
}

/// The flows that are asked for, page by page, until `show` has been given as many as are
/// wanted; whether there may be more.
fn each_page(
    arguments: &FlowArguments,
    mut show: impl FnMut(&[FlowReport]) -> Result<(), AskError>,
) -> Result<bool, AskError> {
    let mut left = if arguments.limit == 0 { u64::MAX } else { arguments.limit };
    let mut after = None;
    loop {
        let query = FlowQuery {
            namespace: arguments.namespace.clone(),
            pod: arguments.pod.clone(),
            service: arguments.service.clone(),
            address: arguments.address,
            port: arguments.port,
            protocol: arguments.protocol.map(number),
            after,
            limit: u32::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE),
        };
        let Response::Flows(FlowPage { flows, next }) = arguments.ask.ask(Inspection::Flows(query))? else {
            return Err(AskError::other_answer());
        };
        let wanted = flows.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        show(&flows[..wanted])?;
        left -= wanted as u64;
        if next.is_none() || left == 0 {
            return Ok(next.is_some() || flows.len() > wanted);
        }
        after = next;
    }
}

const fn number(protocol: FlowProtocol) -> u8 {
    match protocol {
        FlowProtocol::Tcp => protocol::TCP,
        FlowProtocol::Udp => protocol::UDP,
        FlowProtocol::Sctp => protocol::SCTP,
        FlowProtocol::Icmp => protocol::ICMP,
    }
}

fn print_array(arguments: &FlowArguments) -> Result<(), AskError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut serializer = serde_json::Serializer::pretty(&mut out);
    let mut array = serializer.serialize_seq(None).map_err(io::Error::from)?;
    let each = |flow: &FlowReport| Ok(array.serialize_element(flow).map_err(io::Error::from)?);
    let mut each = each;
    let more = each_page(arguments, |flows| flows.iter().try_for_each(&mut each))?;
    array.end().map_err(io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    tell_of_more(arguments, more);
    Ok(())
}

fn print_lines(arguments: &FlowArguments, out: &mut impl Write) -> Result<(), AskError> {
    let mut table =
        Table::new(["PROTOCOL", "CLIENT", "DIALLED", "SERVICE", "BACKEND", "MASQUERADED AS", "STATE", "IDLE"]);
    let mut any = false;
    let more = each_page(arguments, |flows| {
        flows.iter().for_each(|flow| table.row(row(flow)));
        if !flows.is_empty() && !std::mem::replace(&mut any, true) {
            table.write_head(out)?;
        }
        table.write_rows(out)?;
        Ok(out.flush()?)
    })?;
    if !any {
        writeln!(out, "no flows")?;
        out.flush()?;
    }
    tell_of_more(arguments, more);
    Ok(())
}

fn tell_of_more(arguments: &FlowArguments, more: bool) {
    if more {
        anstream::eprintln!("there may be more than {}: --limit says how many to show", arguments.limit);
    }
}

fn row(flow: &FlowReport) -> [String; 8] {
    let state = match &*flow.state {
        "closing" => flow.state.yellow().to_string(),
        _ => flow.state.clone(),
    };
    let outside = if flow.external { " (outside)" } else { "" };
    [
        flow.protocol.clone(),
        format!("{}{outside}", end(&flow.client)),
        end(&flow.dialled),
        flow.service.clone().unwrap_or_else(|| "-".into()),
        end(&flow.backend),
        flow.masquerade.as_ref().map_or_else(|| "-".into(), SocketAddr::to_string),
        state,
        format!("{}s", flow.idle_seconds),
    ]
}

/// `10.244.0.5:40000`, or `shop/web-0:40000`.
fn end(end: &EndReport) -> String {
    match &end.name {
        Some(name) => format!("{name}:{}", end.port),
        None => SocketAddr::new(end.address, end.port).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_before_addresses() {
        let end = |address: &str, port, name: Option<&str>| EndReport {
            address: address.parse().unwrap(),
            port,
            name: name.map(str::to_owned),
        };
        let flow = FlowReport {
            protocol: "UDP".into(),
            client: end("192.0.2.7", 40_000, None),
            dialled: end("10.0.0.1", 30_053, Some("node/a")),
            service: Some("kube-system/dns".into()),
            backend: end("fd00::5", 53, None),
            masquerade: Some("10.0.0.1:61000".parse().unwrap()),
            state: "active".into(),
            idle_seconds: 3,
            external: true,
        };
        let expected = [
            "UDP",
            "192.0.2.7:40000 (outside)",
            "node/a:30053",
            "kube-system/dns",
            "[fd00::5]:53",
            "10.0.0.1:61000",
            "active",
            "3s",
        ];
        assert_eq!(row(&flow), expected);
    }
}
