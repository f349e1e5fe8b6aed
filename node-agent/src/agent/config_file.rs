//! The file that `--config` names: a YAML mapping of flags to values.
//!
//! Each entry that neither flag nor environment gives is handed to the flags'
//! own parser as `--key=value`, so a file can say exactly what flags can.
//! This module must not know any flag by name.

use std::{ffi::OsString, fs, io, path::PathBuf};

use clap::{ArgMatches, Command, parser::ValueSource};
use serde_norway::Value;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It can't be read.
    #[error("cannot read the file of --config, {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no YAML mapping.
    #[error("{path}: {source}; it must be a mapping of flags to values, such as `cni: false`")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_norway::Error,
    },
    /// It has a key that is no flag.
    #[error("{path}: unknown key {key}; keys are the flags of `fairlead agent --help`, without the dashes")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// It has a value that can't be a flag's.
    #[error("{path}: {key} must be a string, number, boolean or list of these")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// What the file adds to the arguments that `matches` came from. `command` is the one whose flags the file may give.
pub fn arguments(command: &Command, matches: &ArgMatches, path: PathBuf) -> Result<Vec<OsString>, ConfigFileError> {
    let text = fs::read_to_string(&path).map_err(|source| ConfigFileError::Read { path: path.clone(), source })?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mapping: serde_norway::Mapping =
        serde_norway::from_str(&text).map_err(|source| ConfigFileError::Syntax { path: path.clone(), source })?;
    let mut arguments = Vec::new();
    for (key, value) in mapping {
        let key = scalar(&key).unwrap_or_default();
        let is_named = |arg: &&clap::Arg| {
            arg.get_long() == Some(&key) || arg.get_all_aliases().unwrap_or_default().contains(&key.as_str())
        };
        let flag =
            command.get_arguments().find(is_named).filter(|arg| arg.get_id() != "config" && arg.get_id() != "help");
        let Some(flag) = flag else { return Err(ConfigFileError::UnknownKey { path, key }) };
        let given = matches.value_source(flag.get_id().as_str());
        if matches!(given, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let value = match &value {
            Value::Null => continue,
            Value::Sequence(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
            value => scalar(value),
        };
        let Some(value) = value else { return Err(ConfigFileError::Value { path, key }) };
        arguments.push(format!("--{key}={value}").into());
    }
    Ok(arguments)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}
