//! MAC addresses, written as everyone writes them: `0a:fa:1e:ad:00:01`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// Text that isn't a MAC address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address, such as 0a:fa:1e:ad:00:01")]
pub struct NotAMac(String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let not_a_mac = || NotAMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && !p.contains('+')).ok_or_else(not_a_mac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| not_a_mac())?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(not_a_mac()) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac = Mac([0x0a, 0xfa, 0x1e, 0xad, 0, 1]);
        assert_eq!(mac.to_string(), "0a:fa:1e:ad:00:01");
        assert_eq!("0A:fa:1e:ad:00:01".parse(), Ok(mac));
        for bad in [
            "",
            "0a",
            "0a:fa:1e:ad:00",
            "0a:fa:1e:ad:00:01:02",
            "0a:fa:1e:ad:0:1",
            "0a:fa:1e:ad:00:zz",
            "+a:fa:1e:ad:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
