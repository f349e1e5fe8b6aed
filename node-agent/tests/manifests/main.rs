//! The manifests to install Fairlead with: the API's own types take them, and what they say of the
//! agent is what the agent knows.

mod kustomize;

use std::{collections::BTreeSet, ffi::OsString, fs};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use node_agent::{
    agent::flags::Flags,
    cli::arguments::{self, Command},
    model::objects::Kind,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const INSTALLATIONS: [&str; 3] = ["overlays/full", "overlays/kube-proxy-only", "cleanup"];

fn build(directory: &str) -> Vec<Value> {
    kustomize::build(&kustomize::root().join(directory))
}

/// Reads an object as its type, which must know every field of it.
fn strict<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{object}: {error}"));
    let mut read = serde_json::to_value(&typed).expect("the API's types can be written");
    // The types leave these to their names.
    for field in ["kind", "apiVersion"] {
        read[field] = object[field].clone();
    }
    assert_covered(&read, object, "");
    typed
}

fn assert_covered(read: &Value, written: &Value, path: &str) {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            for (key, value) in written {
                let path = format!("{path}.{key}");
                // What is empty may be left out.
                let empty = value.as_object().is_some_and(|map| map.is_empty());
                let read = read.get(key);
                assert!(empty || read.is_some(), "the API knows no {path}");
                read.into_iter().for_each(|read| assert_covered(read, value, &path));
            }
        }
        (Value::Array(read), Value::Array(written)) => {
            assert_eq!(read.len(), written.len(), "{path}");
            read.iter().zip(written).for_each(|(read, written)| assert_covered(read, written, path));
        }
        _ => assert_eq!(read, written, "{path}"),
    }
}

fn of_kind<T: DeserializeOwned + Serialize>(objects: &[Value], kind: &str) -> Vec<T> {
    objects.iter().filter(|object| object["kind"] == kind).map(strict).collect()
}

fn command(words: impl IntoIterator<Item = String>) -> Command {
    let words = ["fairlead".to_owned()].into_iter().chain(words).map(OsString::from);
    arguments::parse(words).unwrap_or_else(|error| panic!("{error}")).command
}

#[test]
fn the_api_knows_every_field() {
    for installation in INSTALLATIONS {
        for object in build(installation) {
            match object["kind"].as_str().unwrap_or_default() {
                "DaemonSet" => drop(strict::<DaemonSet>(&object)),
                "ConfigMap" => drop(strict::<ConfigMap>(&object)),
                "ServiceAccount" => drop(strict::<ServiceAccount>(&object)),
                "ClusterRole" => drop(strict::<ClusterRole>(&object)),
                "ClusterRoleBinding" => drop(strict::<ClusterRoleBinding>(&object)),
                other => panic!("{installation} has a {other:?}"),
            }
        }
    }
}

#[test]
fn what_is_mounted_is_there_and_all_that_is_there_is_mounted() {
    for installation in INSTALLATIONS {
        let objects = build(installation);
        for set in of_kind::<DaemonSet>(&objects, "DaemonSet") {
            let pod = set.spec.template.spec.unwrap();
            let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|volume| volume.name.clone()).collect();
            let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
            let mounts = containers.flat_map(|container| container.volume_mounts.iter().flatten());
            let mounted: BTreeSet<_> = mounts.map(|mount| mount.name.clone()).collect();
            assert_eq!(volumes, mounted, "{installation}");
            for map in pod.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref()) {
                let maps = of_kind::<ConfigMap>(&objects, "ConfigMap");
                assert!(maps.iter().any(|there| there.metadata.name.as_deref() == Some(&map.name)), "{map:?}");
            }
        }
    }
}

/// What the agent of an installation is told.
fn flags(installation: &str) -> Flags {
    let objects = build(installation);
    let [set] = &of_kind::<DaemonSet>(&objects, "DaemonSet")[..] else { panic!("{installation}") };
    let pod = set.spec.template.spec.as_ref().unwrap();
    let config = of_kind::<ConfigMap>(&objects, "ConfigMap");
    let config = config.iter().find(|map| map.metadata.name.as_deref() == Some("fairlead-config")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in config.data.iter().flatten() {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let place = directory.path().display().to_string();
    let words = pod.containers[0].args.iter().flatten().map(|word| word.replace("/etc/fairlead", &place));
    match command(words) {
        Command::Agent(flags) => *flags,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_agent_knows_its_flags() {
    let (full, proxy) = (flags("overlays/full"), flags("overlays/kube-proxy-only"));
    assert!(full.cni && !proxy.cni);
    for flags in [full, proxy] {
        // A container's own view of the cgroups begins at itself.
        assert_eq!(flags.paths.cgroup.as_deref(), Some("/host/sys/fs/cgroup".as_ref()));
        assert_eq!(flags.metrics_bind_address.0.unwrap().port(), 10249);
    }
    let objects = build("cleanup");
    let set = &of_kind::<DaemonSet>(&objects, "DaemonSet")[0];
    let pod = set.spec.template.spec.as_ref().unwrap();
    let words = pod.init_containers.as_ref().unwrap()[0].args.clone().unwrap();
    assert!(matches!(command(words), Command::Cleanup(_)));
}

#[test]
fn what_cleanup_needs_is_mounted_where_the_agent_had_it() {
    let mounts = |installation: &str| -> BTreeSet<(String, String)> {
        let set = of_kind::<DaemonSet>(&build(installation), "DaemonSet").remove(0);
        let pod = set.spec.template.spec.unwrap();
        let hosts = |name: &str| {
            let volume = pod.volumes.iter().flatten().find(|volume| volume.name == name)?;
            Some(volume.host_path.as_ref()?.path.clone())
        };
        let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
        let mounts = containers.flat_map(|container| container.volume_mounts.iter().flatten());
        mounts.filter_map(|mount| Some((mount.mount_path.clone(), hosts(&mount.name)?))).collect()
    };
    let mut agents = mounts("overlays/full");
    // What hangs on cgroups is found by its pins.
    agents.retain(|(path, _)| path != "/host/sys/fs/cgroup");
    assert_eq!(mounts("cleanup"), agents);
}

#[test]
fn every_kind_that_is_watched_may_be_and_nothing_else() {
    let plural = |kind: Kind| match kind.to_string().to_lowercase() {
        name if name.ends_with('y') => format!("{}ies", name.trim_end_matches('y')),
        name => format!("{name}s"),
    };
    let wanted: BTreeSet<_> = Kind::ALL.into_iter().map(plural).collect();
    for installation in ["overlays/full", "overlays/kube-proxy-only"] {
        let objects = build(installation);
        let mut allowed = BTreeSet::new();
        for rule in of_kind::<ClusterRole>(&objects, "ClusterRole").into_iter().flat_map(|role| role.rules.unwrap()) {
            assert_eq!(rule.verbs, ["list", "watch"], "{rule:?}");
            allowed.extend(rule.resources.into_iter().flatten());
        }
        assert_eq!(allowed, wanted, "{installation}");
        let binding = &of_kind::<ClusterRoleBinding>(&objects, "ClusterRoleBinding")[0];
        let account = &of_kind::<ServiceAccount>(&objects, "ServiceAccount")[0];
        let subject = &binding.subjects.as_ref().unwrap()[0];
        assert_eq!(Some(&subject.name), account.metadata.name.as_ref());
        assert_eq!(subject.namespace, account.metadata.namespace);
        let set = &of_kind::<DaemonSet>(&objects, "DaemonSet")[0];
        let pod = set.spec.template.spec.as_ref().unwrap();
        assert_eq!(pod.service_account_name.as_ref(), account.metadata.name.as_ref());
    }
}

#[test]
fn no_container_is_privileged() {
    for installation in INSTALLATIONS {
        for set in of_kind::<DaemonSet>(&build(installation), "DaemonSet") {
            let pod = set.spec.template.spec.unwrap();
            assert!(pod.host_network.unwrap() && pod.priority_class_name.as_deref() == Some("system-node-critical"));
            assert!(pod.tolerations.unwrap().iter().any(|all| all.operator.as_deref() == Some("Exists")));
            for container in pod.containers.into_iter().chain(pod.init_containers.into_iter().flatten()) {
                let security = container.security_context.unwrap();
                assert_ne!(security.privileged, Some(true));
                assert_eq!(security.read_only_root_filesystem, Some(true));
                let capabilities = security.capabilities.unwrap();
                assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
                if container.image.unwrap().starts_with("fairlead:") {
                    assert_eq!(capabilities.add.unwrap(), ["BPF", "NET_ADMIN", "PERFMON"]);
                }
            }
        }
    }
}
