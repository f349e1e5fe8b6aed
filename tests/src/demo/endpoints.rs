//! What the EndpointSlice controller does in a cluster: from a Service's selector and the Pods that
//! it selects, the Service's EndpointSlices.
//!
//! It must not know how the slices get to the agent.

use serde_json::Value;

use super::samples::{container_ports, name, transport};
use crate::manifest::{Endpoint, EndpointSlice};

/// A Service's EndpointSlices, one for each family, over the selected ones of these running Pods.
/// A port that no selected Pod has is left out.
pub fn slices(service: &Value, running: &[(&Value, Endpoint)]) -> [Value; 2] {
    let selected: Vec<_> = running.iter().filter(|(pod, _)| selects(service, pod)).collect();
    let ports = service["spec"]["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let number = selected.iter().find_map(|(pod, _)| target(port, pod))?;
        Some((name_of_port(port), transport(port).manifest_name(), number))
    });
    let slice = EndpointSlice {
        ports: ports.collect(),
        endpoints: selected.iter().map(|(_, endpoint)| endpoint.clone()).collect(),
    };
    slice.manifests(name(service), name(service))
}

/// Whether a Service's selector is met by a Pod's labels. One without a selector selects nothing.
pub fn selects(service: &Value, pod: &Value) -> bool {
    let selector = service["spec"]["selector"].as_object();
    selector.is_some_and(|labels| labels.iter().all(|(key, value)| &pod["metadata"]["labels"][key] == value))
}

fn name_of_port(port: &Value) -> String {
    port["name"].as_str().unwrap_or_default().to_owned()
}

/// The number of a Service's `targetPort` in a Pod, which gives it by number or by name.
fn target(port: &Value, pod: &Value) -> Option<u16> {
    let target = &port["targetPort"];
    match target.as_str() {
        Some(wanted) => container_ports(pod)
            .find(|(name, protocol, _)| *name == wanted && *protocol == transport(port))
            .map(|(_, _, number)| number),
        None => target.as_u64().or_else(|| port["port"].as_u64())?.try_into().ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selected_pods_and_their_ports() {
        let pod = |app: &str, port: u16| {
            json!({
                "metadata": { "labels": { "app": app, "more": "yes" } },
                "spec": { "containers": [{ "ports": [{ "name": "http", "protocol": "TCP", "containerPort": port }] }] },
            })
        };
        let service = json!({
            "metadata": { "name": "web" },
            "spec": {
                "selector": { "app": "web" },
                "ports": [
                    { "name": "a", "protocol": "TCP", "port": 80, "targetPort": "http" },
                    { "name": "b", "protocol": "TCP", "port": 81, "targetPort": 9000 },
                    { "name": "c", "protocol": "UDP", "port": 82, "targetPort": "http" },
                ],
            },
        });
        let (web, other) = (pod("web", 8080), pod("other", 8081));
        let endpoint = |address: &str| Endpoint::new(&[address.parse().unwrap()]);
        let [v4, v6] = slices(&service, &[(&other, endpoint("10.0.0.1")), (&web, endpoint("10.0.0.2"))]);
        let ports: Vec<_> = v4["ports"].as_array().unwrap().iter().map(|p| (&p["name"], &p["port"])).collect();
        assert_eq!(ports, [(&json!("a"), &json!(8080)), (&json!("b"), &json!(9000))]);
        assert_eq!(v4["endpoints"].as_array().unwrap().len(), 1);
        assert_eq!(v4["endpoints"][0]["addresses"], json!(["10.0.0.2"]));
        assert_eq!(v6["endpoints"], json!([]));
    }
}
