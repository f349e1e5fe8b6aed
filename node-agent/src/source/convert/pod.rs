//! `v1` Pod.

use k8s_openapi::api::core::v1 as api;

use super::{Findings, Trim, labels, shared};
use crate::model::objects::{EndpointPort, Kind, Object, ObjectKey, Pod};

impl Trim for api::Pod {
    const BECOMES: Kind = Kind::Pod;
    const NAMESPACED: bool = true;

    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object> {
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        let mut ips: Vec<String> = status.pod_ips.into_iter().flatten().map(|pod_ip| pod_ip.ip).collect();
        let field = if ips.is_empty() { "status.podIP" } else { "status.podIPs" };
        if ips.is_empty() {
            ips.extend(status.pod_ip.filter(|ip| !ip.is_empty()));
        }
        let mut named_ports = Vec::new();
        for (index, container) in spec.containers.iter().enumerate() {
            add_named_ports(format_args!("spec.containers[{index}]"), container, findings, &mut named_ports);
        }
        for (index, container) in spec.init_containers.iter().flatten().enumerate() {
            // A sidecar: it runs beside the others.
            if container.restart_policy.as_deref() == Some("Always") {
                add_named_ports(format_args!("spec.initContainers[{index}]"), container, findings, &mut named_ports);
            }
        }
        Some(
            Pod {
                node: shared(spec.node_name.as_deref()),
                ips: findings.ips(field, &ips),
                host_network: spec.host_network.unwrap_or(false),
                finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
                labels: labels(&self.metadata),
                named_ports,
                key,
            }
            .into(),
        )
    }
}

fn add_named_ports(
    field: std::fmt::Arguments<'_>,
    container: &api::Container,
    findings: &mut Findings,
    named: &mut Vec<EndpointPort>,
) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let number = findings.port(format_args!("{field}.ports[{index}].containerPort"), port.container_port);
        let protocol = findings.protocol(format_args!("{field}.ports[{index}].protocol"), port.protocol.as_deref());
        if let (Some(protocol), Some(number)) = (protocol, number) {
            named.push(EndpointPort { name: name.into(), protocol, port: number });
        }
    }
}
