//! `v1` Node.

use k8s_openapi::api::core::v1 as api;

use super::{Findings, Trim, label, shared};
use crate::model::objects::{Kind, Node, Object, ObjectKey};

const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Set by the cluster autoscaler on a node that it is about to remove.
const TAINT_DELETING: &str = "ToBeDeletedByClusterAutoscaler";

impl Trim for api::Node {
    const BECOMES: Kind = Kind::Node;
    const NAMESPACED: bool = false;

    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object> {
        let spec = self.spec.unwrap_or_default();
        let pod_cidrs = match &spec.pod_cidrs {
            Some(cidrs) if !cidrs.is_empty() => findings.cidrs("spec.podCIDRs", cidrs),
            _ => findings.cidrs("spec.podCIDR", spec.pod_cidr.iter().filter(|cidr| !cidr.is_empty())),
        };
        let all = self.status.and_then(|status| status.addresses).unwrap_or_default();
        let mut addresses = Vec::new();
        for wanted in ["InternalIP", "ExternalIP"] {
            for (index, address) in all.iter().enumerate().filter(|(_, address)| address.type_ == wanted) {
                if let Some(ip) = findings.ip(format_args!("status.addresses[{index}].address"), &address.address)
                    && !addresses.contains(&ip)
                {
                    addresses.push(ip);
                }
            }
        }
        Some(
            Node {
                created: self.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
                pod_cidrs,
                addresses,
                zone: shared(label(&self.metadata, LABEL_ZONE)),
                deleting: self.metadata.deletion_timestamp.is_some()
                    || spec.taints.iter().flatten().any(|taint| taint.key == TAINT_DELETING),
                key,
            }
            .into(),
        )
    }
}
