//! `v1` Namespace.

use k8s_openapi::api::core::v1 as api;

use super::{Findings, Trim, labels};
use crate::model::objects::{Kind, Namespace, Object, ObjectKey};

impl Trim for api::Namespace {
    const BECOMES: Kind = Kind::Namespace;
    const NAMESPACED: bool = false;

    fn trim(self, key: ObjectKey, _findings: &mut Findings) -> Option<Object> {
        // A manifest need not have the label that the API server sees to.
        Some(Namespace::new(key.name, labels(&self.metadata)).into())
    }
}
