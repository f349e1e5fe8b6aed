//! The versions of the CNI specification, and what differs between them.

use std::fmt;

/// A version of the specification that the plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.1.0, also meant by a configuration that names none.
    V010,
    /// 0.2.0: the VERSION command.
    V020,
    /// 0.3.0: results with interfaces and a list of addresses.
    V030,
    /// 0.3.1.
    V031,
    /// 0.4.0: the CHECK command.
    V040,
    /// 1.0.0: addresses no longer say their family.
    V100,
    /// 1.1.0: the GC and STATUS commands, the MTU in results.
    V110,
}

impl CniVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 7] = [Self::V010, Self::V020, Self::V030, Self::V031, Self::V040, Self::V100, Self::V110];

    /// The newest.
    pub const LATEST: Self = Self::V110;

    /// As configurations write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V010 => "0.1.0",
            Self::V020 => "0.2.0",
            Self::V030 => "0.3.0",
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    /// The version that a configuration names; none or an empty one is 0.1.0.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("") => Some(Self::V010),
            Some(text) => Self::ALL.into_iter().find(|v| v.as_str() == text),
        }
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_read_as_it_is_written() {
        for version in CniVersion::ALL {
            assert_eq!(CniVersion::parse(Some(version.as_str())), Some(version));
        }
        assert_eq!(CniVersion::parse(None), Some(CniVersion::V010));
        for unknown in ["1.1", "1.2.0", "v1.0.0", "2", " 1.0.0"] {
            assert_eq!(CniVersion::parse(Some(unknown)), None, "{unknown}");
        }
    }
}
