//! How a Service wants its backends selected.

use super::Algorithm;
use crate::model::objects::Service;

/// The annotation in which a Service says it.
const ANNOTATION: &str = "fairlead.io/load-balancer-algorithm";

impl Algorithm {
    /// All of them, by the names that annotation and flag have for them.
    pub const NAMES: [(&str, Self); 3] =
        [("random", Self::Random), ("maglev", Self::Maglev), ("least-connections", Self::LeastConnections)];

    /// The algorithm of a name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

/// What the Service's annotation says, else the default. A value that is none of
/// them is a problem, and random.
pub(super) fn of_service(service: &Service, default: Algorithm, problems: &mut Vec<String>) -> Algorithm {
    let Some((_, value)) = service.annotations.iter().find(|(name, _)| &**name == ANNOTATION) else { return default };
    Algorithm::of_name(value.trim()).unwrap_or_else(|| {
        let known = Algorithm::NAMES.map(|(name, _)| name).join(", ");
        problems.push(format!("annotation {ANNOTATION}: {value:?} is none of {known}; random is taken"));
        Algorithm::Random
    })
}
