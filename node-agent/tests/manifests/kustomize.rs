//! As much of kustomize as our own manifests use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize as _;
use serde_json::{Map, Value, json};

/// Where the project's manifests are.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// The documents of a file.
pub fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
    documents.map(|document| document.unwrap_or_else(|error| panic!("{}: {error}", path.display()))).collect()
}

/// What `kustomize build` would make of a directory, without labels and hashes in names.
///
/// # Panics
/// If the directory asks for something that this doesn't know.
pub fn build(directory: &Path) -> Vec<Value> {
    let file = directory.join("kustomization.yaml");
    let [Value::Object(kustomization)] = &documents(&file)[..] else { panic!("{} isn't one mapping", file.display()) };
    for key in kustomization.keys() {
        let known = ["apiVersion", "kind", "namespace", "labels", "resources", "patches", "configMapGenerator"];
        assert!(known.contains(&key.as_str()), "{}: {key}", file.display());
    }
    let list = |key: &str| kustomization.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut objects = Vec::new();
    for resource in list("resources") {
        let path = directory.join(resource.as_str().expect("a path"));
        objects.extend(if path.is_dir() { build(&path) } else { documents(&path) });
    }
    for generator in list("configMapGenerator") {
        let mut data = Map::new();
        for file in generator["files"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let text = fs::read_to_string(directory.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            data.insert(file.to_owned(), text.into());
        }
        let metadata = json!({ "name": generator["name"], "namespace": kustomization["namespace"] });
        let made = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
        match generator["behavior"].as_str() {
            None => objects.push(made),
            Some("replace") => find(&mut objects, &made).clone_from(&made),
            Some(other) => panic!("{}: {other}", file.display()),
        }
    }
    for patch in list("patches") {
        for patch in documents(&directory.join(patch["path"].as_str().expect("a path"))) {
            merge(find(&mut objects, &patch), &patch);
        }
    }
    objects
}

fn find<'a>(objects: &'a mut [Value], like: &Value) -> &'a mut Value {
    let identity = |object: &Value| (object["kind"].clone(), object["metadata"]["name"].clone());
    let found = objects.iter_mut().find(|object| identity(object) == identity(like));
    found.unwrap_or_else(|| panic!("there is no {:?}", identity(like)))
}

/// A strategic merge: entries of lists are the same if their names, or mount paths, are.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                match into.get_mut(key) {
                    Some(there) => merge(there, value),
                    None => drop(into.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(into), Value::Array(patch)) if patch.iter().all(Value::is_object) => {
            let identity = |entry: &Value| {
                ["mountPath", "name"].into_iter().find_map(|key| entry[key].as_str().map(str::to_owned))
            };
            for entry in patch {
                match into.iter_mut().find(|there| identity(there) == identity(entry)) {
                    Some(there) => merge(there, entry),
                    None => into.push(entry.clone()),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}
