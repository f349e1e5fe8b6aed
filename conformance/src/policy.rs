//! The cases of NetworkPolicy: namespaces and pods, what happens to them, and who reaches whom then.
//!
//! A pod is called `namespace/name`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

/// The file of cases.
///
/// # Panics
/// If it can't be read.
#[track_caller]
pub fn cases() -> Value {
    super::read("netpol-cases.yaml", |yaml| yaml)
}

/// A text that must be there.
///
/// # Panics
/// If it isn't.
#[track_caller]
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key}: {value}"))
}

/// A pod's namespace and name.
///
/// # Panics
/// If it is no pod's.
#[track_caller]
pub fn pair(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or_else(|| panic!("{name}"))
}

/// An action's verb, and what it is about.
///
/// # Panics
/// If it has none.
#[track_caller]
pub fn verb(action: &Value) -> (&str, &Value) {
    let action = action.as_object().and_then(|action| action.iter().next());
    let (verb, what) = action.expect("an action has a verb");
    (verb, what)
}

/// A value with pods' addresses in the place of `${ip:x/b}` and networks in that of `${net:x/b/24}`.
///
/// # Panics
/// If it names something else.
#[track_caller]
pub fn fill_in(value: &Value, address: impl Fn(&str) -> IpAddr) -> Value {
    let mut yaml = value.to_string();
    while let Some(start) = yaml.find("${") {
        let end = start + yaml[start..].find('}').expect("what begins ends");
        let filled = match yaml[start + 2..end].split_once(':') {
            Some(("ip", pod)) => address(pod).to_string(),
            Some(("net", rest)) => {
                let (pod, bits) = rest.rsplit_once('/').expect("a network has a length");
                let network = IpNetwork::new(address(pod), bits.parse().expect("a number")).expect("a network");
                format!("{}/{bits}", network.network())
            }
            other => panic!("{other:?}"),
        };
        yaml.replace_range(start..=end, &filled);
    }
    serde_json::from_str(&yaml).expect("JSON as before")
}

/// Whether a probe says that one pod reaches another.
///
/// # Panics
/// If it says nothing that is known.
#[track_caller]
pub fn is_allowed(probe: &Value, from: &str, to: &str) -> bool {
    let mut verdict = text(probe, "default");
    for except in probe["except"].as_array().expect("exceptions are listed") {
        let (word, ends) = verb(except);
        let is_end = |at: usize, pod| matches(ends[at].as_str().expect("a pattern"), pod);
        if is_end(0, from) && is_end(1, to) {
            verdict = word;
        }
    }
    verdict == "allow"
}

fn matches(pattern: &str, pod: &str) -> bool {
    let (namespace, name) = pair(pod);
    match pattern.split_once('/') {
        None => pattern == "*",
        Some((of, which)) => (of == "*" || of == namespace) && (which == "*" || which == name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_exception_that_fits_holds() {
        let probe = json!({"default": "allow", "except": [{"deny": ["*", "x/*"]}, {"allow": ["y/a", "x/b"]}]});
        for (from, to, expected) in
            [("y/a", "z/a", true), ("y/b", "x/b", false), ("y/a", "x/b", true), ("x/a", "x/a", false)]
        {
            assert_eq!(is_allowed(&probe, from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn addresses_are_filled_in() {
        let address = |pod: &str| if pod == "x/b" { "10.1.2.3" } else { "fd00::12:3" }.parse().unwrap();
        let value = json!(["${ip:x/b}", "a ${net:x/b/24} b", "${net:x/c/112}"]);
        assert_eq!(fill_in(&value, address), json!(["10.1.2.3", "a 10.1.2.0/24 b", "fd00::12:0/112"]));
    }
}
