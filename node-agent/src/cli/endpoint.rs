//! `fairlead endpoint`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use owo_colors::OwoColorize;

use super::{
    arguments::Format,
    ask::{AskError, EndpointArguments},
    print_json,
    table::Table,
    terminal,
};
use crate::api::{
    protocol::{Inspection, Response},
    services::{EndpointList, EndpointQuery, EndpointUse},
};

/// Shows endpoints, a line for each.
pub fn run(arguments: &EndpointArguments) -> Result<ExitCode, AskError> {
    let query = EndpointQuery {
        namespace: arguments.namespace.clone(),
        services: arguments.services.clone(),
        node: arguments.node.clone(),
        address: arguments.address,
    };
    let Response::Endpoints(list) = arguments.ask.ask(Inspection::Endpoints(query))? else {
        return Err(AskError::other_answer());
    };
    let printed = match arguments.ask.output {
        Format::Json => print_json(&list),
        Format::Table => {
            let mut out = terminal();
            lines(&mut out, &list).and_then(|()| out.flush())
        }
    };
    list.warnings.iter().for_each(|warning| anstream::eprintln!("{} {warning}", "warning:".yellow()));
    AskError::unless_enough(printed.map_err(Into::into)).map(|()| ExitCode::SUCCESS)
}

fn lines(out: &mut impl Write, list: &EndpointList) -> io::Result<()> {
    if list.endpoints.is_empty() {
        return writeln!(out, "no endpoints");
    }
    let mut table = Table::new(["ENDPOINT", "PROTOCOL", "NAME", "NODE", "STATE", "SERVICES", "FLOWS", "CONNECTIONS"]);
    for endpoint in &list.endpoints {
        let state = match &*endpoint.state {
            "ready" => endpoint.state.green().to_string(),
            _ => endpoint.state.yellow().to_string(),
        };
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let services: Vec<_> = endpoint.services.iter().map(service).collect();
        table.row([
            endpoint.address.to_string(),
            endpoint.protocol.clone(),
            or_dash(endpoint.name.as_deref().unwrap_or_default()),
            or_dash(&endpoint.node),
            state,
            services.join(","),
            endpoint.flows.to_string(),
            endpoint.connections.to_string(),
        ]);
    }
    table.write_head(out)?;
    table.write_rows(out)
}

/// `shop/web:80`, and what is remarkable about it.
fn service(of: &EndpointUse) -> String {
    let name = format!("{}:{}", of.service, of.port);
    match (of.backend, of.cluster || of.local) {
        (Some(_), true) => name,
        (Some(_), false) => format!("{name} (not chosen)"),
        (None, true) => format!("{name} ({})", "not in force".red()),
        (None, false) => format!("{name} (not used)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::services::EndpointReport;

    #[test]
    fn a_line_for_each() {
        let of = |service: &str, cluster, backend| EndpointUse {
            service: service.into(),
            port: 80,
            cluster,
            local: false,
            backend,
        };
        let endpoint = EndpointReport {
            address: "[fd00::5]:8080".parse().unwrap(),
            protocol: "TCP".into(),
            name: Some("shop/web-0".into()),
            node: "node-a".into(),
            state: "ready".into(),
            services: vec![of("shop/web", true, Some(3)), of("shop/all", true, None), of("shop/old", false, None)],
            flows: 7,
            connections: 0,
        };
        let list = EndpointList { endpoints: vec![endpoint], warnings: vec![] };
        let mut out = Vec::new();
        lines(&mut out, &list).unwrap();
        let plain = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        let expected = "\
ENDPOINT PROTOCOL NAME NODE STATE SERVICES FLOWS CONNECTIONS \
[fd00::5]:8080 TCP shop/web-0 node-a ready \
shop/web:80,shop/all:80 (not in force),shop/old:80 (not used) 7 0";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&plain), expected);
    }
}
