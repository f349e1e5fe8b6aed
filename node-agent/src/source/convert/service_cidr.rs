//! `networking.k8s.io/v1` ServiceCIDR.

use k8s_openapi::api::networking::v1 as api;

use super::{Findings, Trim};
use crate::model::objects::{Kind, Object, ObjectKey, ServiceCidr};

impl Trim for api::ServiceCIDR {
    const BECOMES: Kind = Kind::ServiceCidr;
    const NAMESPACED: bool = false;

    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object> {
        let cidrs = self.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
        Some(ServiceCidr { cidrs: findings.cidrs("spec.cidrs", &cidrs), key }.into())
    }
}
