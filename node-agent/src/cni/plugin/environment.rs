//! What the container runtime says in `CNI_` variables.

use std::path::PathBuf;

use super::error::{CniError, Code};
use crate::cni::attachment::{AttachmentId, PodName};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give a container an interface.
    Add,
    /// Take it away.
    Del,
    /// Is it as it was given?
    Check,
    /// Which versions are spoken?
    Version,
    /// Take away whatever the runtime doesn't know.
    Gc,
    /// Could an ADD succeed?
    Status,
}

/// For whom: the variables of ADD, DEL and CHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub id: AttachmentId,
    /// `CNI_NETNS`, which only DEL may lack.
    pub netns: Option<PathBuf>,
    /// From `CNI_ARGS`.
    pub pod: Option<PodName>,
}

/// Reads a variable; one that isn't UTF-8 counts as absent.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The longest interface name that Linux allows (`IFNAMSIZ` less the final zero).
const MAX_IFNAME: usize = 15;

impl Command {
    /// What `CNI_COMMAND` says.
    pub fn parse(variables: Variables<'_>) -> Result<Self, CniError> {
        match required(variables, "CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "VERSION" => Ok(Self::Version),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            other => Err(invalid(format!("CNI_COMMAND {other:?} is none of ADD, DEL, CHECK, VERSION, GC and STATUS"))),
        }
    }
}

/// Where plugins lie: `CNI_PATH`, in its order.
pub fn plugin_directories(variables: Variables<'_>) -> Vec<PathBuf> {
    let path = variables("CNI_PATH").unwrap_or_default();
    path.split(':').filter(|directory| !directory.is_empty()).map(PathBuf::from).collect()
}

impl Container {
    /// What the variables say.
    pub fn parse(command: Command, variables: Variables<'_>) -> Result<Self, CniError> {
        let container_id = required(variables, "CNI_CONTAINERID")?;
        if !is_identifier(&container_id) {
            return Err(invalid(format!(
                "CNI_CONTAINERID {container_id:?} must begin with a letter or digit and have only those, dots, dashes \
                 and underscores"
            )));
        }
        let ifname = required(variables, "CNI_IFNAME")?;
        if let Some(why) = wrong_with_ifname(&ifname) {
            return Err(invalid(format!("CNI_IFNAME {ifname:?} {why}")));
        }
        let netns = match variables("CNI_NETNS").filter(|path| !path.is_empty()) {
            None if command != Command::Del => return Err(invalid("CNI_NETNS is missing")),
            path => path.map(PathBuf::from),
        };
        let pod = parse_args(&variables("CNI_ARGS").unwrap_or_default())?;
        Ok(Self { id: AttachmentId { container_id, ifname }, netns, pod })
    }
}

/// Whether the specification allows it as a container's id or a network's name.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn wrong_with_ifname(name: &str) -> Option<&'static str> {
    match name {
        "." | ".." => Some("is not an interface name"),
        _ if name.len() > MAX_IFNAME => Some("is longer than 15 bytes"),
        _ if name.contains(|c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace()) => {
            Some("has a slash, a colon, a per cent sign or white space in it")
        }
        _ => None,
    }
}

/// `K8S_POD_NAMESPACE` and `K8S_POD_NAME` of `A=1;B=2`; other keys are others' business.
fn parse_args(args: &str) -> Result<Option<PodName>, CniError> {
    let (mut namespace, mut name) = (None, None);
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid(format!("CNI_ARGS: {pair:?} is not of the form KEY=VALUE")));
        };
        match key {
            "K8S_POD_NAMESPACE" => namespace = Some(value.to_owned()),
            "K8S_POD_NAME" => name = Some(value.to_owned()),
            _ => {}
        }
    }
    match (namespace.filter(|n| !n.is_empty()), name.filter(|n| !n.is_empty())) {
        (Some(namespace), Some(name)) => Ok(Some(PodName { namespace, name })),
        (None, None) => Ok(None),
        _ => Err(invalid("CNI_ARGS has only one of K8S_POD_NAMESPACE and K8S_POD_NAME")),
    }
}

fn required(variables: Variables<'_>, name: &str) -> Result<String, CniError> {
    variables(name).filter(|value| !value.is_empty()).ok_or_else(|| invalid(format!("{name} is missing")))
}

fn invalid(message: impl std::fmt::Display) -> CniError {
    CniError::new(Code::InvalidEnvironment, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "3f-2a_b.c"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID="),
    ];

    fn parse(changed: &str, value: Option<&str>) -> Result<(Command, Container), CniError> {
        let variables = |name: &str| {
            let good = GOOD.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
            if name == changed { value } else { good }.map(str::to_owned)
        };
        let command = Command::parse(&variables)?;
        Ok((command, Container::parse(command, &variables)?))
    }

    #[test]
    fn good_variables() {
        let (command, container) = parse("", None).unwrap();
        assert_eq!(command, Command::Add);
        assert_eq!(container.id.host_ifname().len(), 15);
        assert_eq!(container.pod.unwrap().key().to_string(), "default/web-1");
        assert_eq!(parse("CNI_ARGS", None).unwrap().1.pod, None);
        assert_eq!(parse("CNI_ARGS", Some("")).unwrap().1.pod, None);
        let del = |name: &str| (name == "CNI_CONTAINERID" || name == "CNI_IFNAME").then(|| "a".to_owned());
        assert_eq!(Container::parse(Command::Del, &del).unwrap().netns, None);
    }

    #[test]
    fn bad_variables_are_named() {
        for (variable, value) in [
            ("CNI_COMMAND", None),
            ("CNI_COMMAND", Some("add")),
            ("CNI_COMMAND", Some("FLY")),
            ("CNI_CONTAINERID", None),
            ("CNI_CONTAINERID", Some("")),
            ("CNI_CONTAINERID", Some("../etc")),
            ("CNI_CONTAINERID", Some("a b")),
            ("CNI_CONTAINERID", Some("-a")),
            ("CNI_IFNAME", None),
            ("CNI_IFNAME", Some("a/b")),
            ("CNI_IFNAME", Some("..")),
            ("CNI_IFNAME", Some(".")),
            ("CNI_IFNAME", Some("eth 0")),
            ("CNI_IFNAME", Some("eth:0")),
            ("CNI_IFNAME", Some("eth%d")),
            ("CNI_IFNAME", Some("sixteen-bytes-xx")),
            ("CNI_NETNS", None),
            ("CNI_ARGS", Some("K8S_POD_NAME")),
            ("CNI_ARGS", Some("K8S_POD_NAME=a")),
            ("CNI_ARGS", Some("K8S_POD_NAME=a;K8S_POD_NAMESPACE=")),
        ] {
            let error = parse(variable, value).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment, "{variable}={value:?}");
            assert!(error.message.contains(variable), "{variable}={value:?}: {error}");
        }
    }
}
