//! Calling CNI plugins as a container runtime does: the conflist from the configuration directory,
//! the call in the environment, the configuration on stdin.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::Node;
use crate::{manifest::NAMESPACE, sandbox};

/// A CNI error, as the specification has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// `code`; 0 if there was no plugin to call.
    pub code: u64,
    /// `msg`, with `details`.
    pub message: String,
}

/// A call about to be made; whatever it says can be replaced by nonsense.
#[derive(Clone, Debug)]
pub struct CniCall<'a> {
    node: &'a Node,
    variables: BTreeMap<String, String>,
    capabilities: Value,
    previous: Value,
    config: Option<String>,
}

impl<'a> CniCall<'a> {
    /// A call of this command (ADD, DEL, CHECK, …) for the container with that id.
    pub fn new(node: &'a Node, command: &str, container: &str) -> Self {
        let call =
            Self { node, variables: BTreeMap::new(), capabilities: json!({}), previous: Value::Null, config: None };
        call.set("CNI_COMMAND", command).set("CNI_CONTAINERID", container).set("CNI_IFNAME", "eth0")
    }

    /// The network namespace.
    #[must_use]
    pub fn namespace(self, path: &Path) -> Self {
        self.set("CNI_NETNS", &path.display().to_string())
    }

    /// The Pod that the container is of.
    #[must_use]
    pub fn pod(self, name: &str) -> Self {
        self.pod_in(NAMESPACE, name)
    }

    /// For a Pod in a Kubernetes namespace.
    #[must_use]
    pub fn pod_in(self, namespace: &str, name: &str) -> Self {
        let container = self.variables["CNI_CONTAINERID"].clone();
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container}"
        );
        self.set("CNI_ARGS", &arguments)
    }

    /// Any variable of the environment.
    #[must_use]
    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.variables.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// `runtimeConfig` for one of the capabilities that the plugins may declare.
    #[must_use]
    pub fn capability(mut self, name: &str, value: Value) -> Self {
        self.capabilities[name] = value;
        self
    }

    /// The result of the container's ADD, which a runtime remembers.
    #[must_use]
    pub fn previous(mut self, result: &Value) -> Self {
        self.previous = result.clone();
        self
    }

    /// Any text in place of the first plugin's configuration.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Makes the call to every plugin of the node's conflist; gives the last one's result, or null
    /// if the command has none.
    #[track_caller]
    pub fn run(&self) -> Result<Value, CniError> {
        let list = conflist(self.node)?;
        let mut plugins: Vec<_> = list["plugins"].as_array().expect("a conflist has plugins").iter().collect();
        if self.variables["CNI_COMMAND"] == "DEL" {
            plugins.reverse();
        }
        let mut result = self.previous.clone();
        for plugin in plugins {
            let config = self.config.clone().unwrap_or_else(|| self.plugin_config(&list, plugin, &result));
            let kind = plugin["type"].as_str().expect("a plugin has a type");
            let answer = self.call(&self.node.cni_bin_dir().join(kind), &config)?;
            // Only ADD hands its result from plugin to plugin.
            if self.variables["CNI_COMMAND"] == "ADD" {
                result = answer;
            }
        }
        Ok(result)
    }

    fn plugin_config(&self, list: &Value, plugin: &Value, previous: &Value) -> String {
        let mut config = plugin.clone();
        // The newest that is offered, as a runtime of CNI 1.1 takes it; lists of before that offer one.
        let newest = list["cniVersions"].as_array().and_then(|versions| versions.last());
        config["cniVersion"] = newest.unwrap_or(&list["cniVersion"]).clone();
        config["name"] = list["name"].clone();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        for (name, declared) in plugin["capabilities"].as_object().into_iter().flatten() {
            if declared == &json!(true) && !self.capabilities[name].is_null() {
                config["runtimeConfig"][name] = self.capabilities[name].clone();
            }
        }
        config.to_string()
    }

    fn command(&self, plugin: &Path) -> Command {
        let mut command = self.node.namespace().command(plugin);
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("CNI_PATH", self.node.cni_bin_dir()).envs(&self.variables);
        command
    }

    #[track_caller]
    fn call(&self, plugin: &Path, config: &str) -> Result<Value, CniError> {
        let output = sandbox::output(&mut self.command(plugin), config);
        let stdout = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(if stdout.trim().is_empty() { Value::Null } else { parse(&stdout) });
        }
        let error = parse(&stdout);
        let text = |field: &str| error[field].as_str().unwrap_or_default();
        let code = error["code"].as_u64().unwrap_or_else(|| panic!("a CNI error has a code: {stdout:?}"));
        Err(CniError { code, message: format!("{} {}", text("msg"), text("details")) })
    }
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("the plugin printed {text:?}: {error}"))
}

/// The conflist that a runtime would take: the first by name.
fn conflist(node: &Node) -> Result<Value, CniError> {
    let directory = node.cni_conf_dir();
    let files = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let first = files.filter(|path| path.extension().is_some_and(|ending| ending == "conflist")).min();
    let text = first.and_then(|first| fs::read_to_string(first).ok());
    let message = format!("{} has no conflist: the node isn't ready", directory.display());
    text.map(|text| parse(&text)).ok_or(CniError { code: 0, message })
}
