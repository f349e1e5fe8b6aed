//! A file's text becomes objects. Pure: no file is read here.

use serde::Deserialize;
use serde_json::Value;

use super::strict::Strict;
use crate::{
    model::objects::{Kind, Object, ObjectKey},
    source::convert::{Trimmed, kind_of, trim_kind},
};

/// An object that stands in a file.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Its kind.
    pub(super) kind: Kind,
    /// Its namespace and name.
    pub(super) key: ObjectKey,
    /// The object, unless it can't be used or is nothing to us.
    pub(super) object: Option<Object>,
    /// What is wrong with it, "" if nothing.
    pub(super) message: String,
}

/// What stands in a file that could be parsed.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Objects of our kinds, in order.
    pub(super) manifests: Vec<Manifest>,
    /// What is neither an object of any kind nor nothing.
    pub(super) oddities: Vec<String>,
}

/// How a file's text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `*.yaml`, `*.yml`: any number of documents.
    Yaml,
    /// `*.json`: any number of values.
    Json,
}

impl Format {
    /// By the ending; `None`: no manifest.
    pub(super) fn of(name: &std::path::Path) -> Option<Self> {
        match name.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Reads all objects of our kinds. An error, with the line, if the text as a whole
/// can't be parsed.
pub(super) fn parse(format: Format, bytes: &[u8]) -> Result<Contents, String> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        format!("not UTF-8 at line {line}")
    })?;
    let mut contents = Contents::default();
    let mut number = 0;
    let mut document = |value: Value| {
        number += 1;
        contents.add(value, &format!("document {number}"), None);
    };
    match format {
        Format::Yaml => {
            for yaml in serde_norway::Deserializer::from_str(text) {
                let Strict(value) = Strict::deserialize(yaml).map_err(|error| error.to_string())?;
                document(value);
            }
        }
        Format::Json => {
            for value in serde_json::Deserializer::from_str(text).into_iter::<Strict>() {
                let Strict(value) = value.map_err(|error| error.to_string())?;
                document(value);
            }
        }
    }
    Ok(contents)
}

impl Contents {
    /// Adds a document, or each item of a list. `implied` is the apiVersion and kind
    /// of a typed list's items, which needn't say it themselves.
    fn add(&mut self, mut value: Value, place: &str, implied: Option<(&str, &str)>) {
        if value.is_null() {
            return;
        }
        if !value.is_object() {
            self.oddities.push(format!("{place} is not an object"));
            return;
        }
        let said = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let api_version = said("apiVersion").or(implied.map(|(version, _)| version.to_owned()));
        let kind = said("kind").or(implied.map(|(_, kind)| kind.to_owned()));
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            self.oddities.push(format!("{place} has no apiVersion and kind"));
            return;
        };
        if let Some(item_kind) = kind.strip_suffix("List")
            && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
        {
            let implied = (!item_kind.is_empty()).then_some((api_version.as_str(), item_kind));
            for (index, item) in items.into_iter().enumerate() {
                self.add(item, &format!("{place}, items[{index}]"), implied);
            }
        } else if let Some(kind) = kind_of(&api_version, &kind) {
            let Trimmed { key, object, message, .. } = trim_kind(kind, value);
            self.manifests.push(Manifest { kind, key, object, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file gives: each object as `Kind key` or `!Kind key: message`, each oddity, or the error.
    fn summary(format: Format, text: &str) -> Vec<String> {
        match parse(format, text.as_bytes()) {
            Err(error) => vec![format!("error: {error}")],
            Ok(Contents { manifests, oddities }) => manifests
                .into_iter()
                .map(|manifest| {
                    assert_eq!(
                        manifest.object.as_ref().map(Object::key),
                        manifest.object.as_ref().map(|_| &manifest.key)
                    );
                    match manifest.object {
                        Some(_) if manifest.message.is_empty() => format!("{} {}", manifest.kind, manifest.key),
                        _ => format!("!{} {}: {}", manifest.kind, manifest.key, manifest.message),
                    }
                })
                .chain(oddities)
                .collect(),
        }
    }

    #[test]
    fn files() {
        for (text, expected) in [
            ("", vec![]),
            ("# nothing\n---\n---\n", vec![]),
            ("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}", vec!["Service shop/web"]),
            ("{apiVersion: v1, kind: Service, metadata: {name: web}}", vec!["Service default/web"]),
            ("{apiVersion: v1, kind: Node, metadata: {name: n1, namespace: shop}}", vec!["Node n1"]),
            (
                "---\n{apiVersion: v1, kind: Service, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {containers: []}}\n...\n",
                vec!["Service default/a", "Pod default/b"],
            ),
            ("{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}", vec![]),
            ("{apiVersion: v2, kind: Service, metadata: {name: web}}", vec![]),
            (
                "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n- apiVersion: v1\n  kind: List\n  items:\n  - {apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: c}}\n",
                vec!["Service default/a", "ServiceCIDR c"],
            ),
            (
                "{apiVersion: discovery.k8s.io/v1, kind: EndpointSliceList, items: [{metadata: {name: a}, addressType: IPv4}]}",
                vec!["EndpointSlice default/a"],
            ),
            ("hello", vec!["document 1 is not an object"]),
            ("---\n---\n{kind: Service, metadata: {name: a}}", vec!["document 2 has no apiVersion and kind"]),
            (
                "{apiVersion: v1, kind: List, items: [{metadata: {name: a}}]}",
                vec!["document 1, items[0] has no apiVersion and kind"],
            ),
            (
                "{apiVersion: v1, kind: Service, metadata: {}}",
                vec!["!Service default/: metadata.name: is missing, the object is left out"],
            ),
            (
                "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: eighty}]}}\n---\n{apiVersion: v1, kind: Service, metadata: {name: b}}",
                vec![
                    "!Service default/a: spec.ports[0].port: invalid type: string \"eighty\", expected i32, the object is left out",
                    "Service default/b",
                ],
            ),
            (
                "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 0}]}}",
                vec!["!Service default/a: spec.ports[0].port: 0 is not between 1 and 65535, left out"],
            ),
            ("apiVersion: v1\nkind: Service\nkind: Pod\n", vec!["error: duplicate key \"kind\" at line 3 column 1"]),
            (
                "a: b\n---\napiVersion: v1\nkind: [Service\nmetadata: {}\n",
                vec![
                    "error: did not find expected ',' or ']' at line 5 column 9, while parsing a flow sequence at line 4 column 7",
                ],
            ),
            ("a: !secret b", vec!["error: a: invalid type: enum, expected a value without a tag at line 1 column 4"]),
            ("a: .nan", vec!["error: a: a number that isn't finite at line 1 column 4"]),
        ] {
            assert_eq!(summary(Format::Yaml, text), expected, "{text}");
        }
    }

    #[test]
    fn json_files() {
        for (text, expected) in [
            ("", vec![]),
            (
                "{\"apiVersion\":\"v1\",\n\t\"kind\":\"Service\",\"metadata\":{\"name\":\"a\\u0062\"}}",
                vec!["Service default/ab"],
            ),
            ("{\"a\":1,\"a\":2}", vec!["error: duplicate key \"a\" at line 1 column 10"]),
            ("{\n\"a\":", vec!["error: EOF while parsing a value at line 2 column 4"]),
        ] {
            assert_eq!(summary(Format::Json, text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_text_names_the_line() {
        assert_eq!(parse(Format::Yaml, b"a: b\nc: \xff").unwrap_err(), "not UTF-8 at line 2");
    }

    #[test]
    fn endings() {
        for (name, expected) in [
            ("web.yaml", Some(Format::Yaml)),
            ("web.yml", Some(Format::Yaml)),
            ("web.json", Some(Format::Json)),
            ("web.YAML", None),
            ("web.yaml.bak", None),
            ("web.yaml~", None),
            ("yaml", None),
        ] {
            assert_eq!(Format::of(name.as_ref()), expected, "{name}");
        }
    }
}
