//! The CNI plugin and its configuration, put where container runtimes look.
//!
//! What is here is ours if the configuration has our name and names our run
//! directory. Files are made under another name and renamed, so a runtime sees
//! a whole one or none. This module must not know when a node is ready.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::paths::Paths;

const CONFLIST: &str = "10-fairlead.conflist";
const BINARY: &str = "fairlead";

/// A file could not be put in its place or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {source}")]
pub struct InstallError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError { verb, path: path.to_owned(), source }
}

/// Puts the plugin, then its configuration, which is the runtime's sign that the node is ready.
pub fn install(paths: &Paths) -> Result<(), InstallError> {
    let binary = paths.cni_bin_dir.join(BINARY);
    install_binary(&binary).map_err(failed("put the CNI plugin at", &binary))?;
    let conflist = paths.cni_conf_dir.join(CONFLIST);
    install_conflist(&conflist, &paths.run_dir).map_err(failed("write", &conflist))
}

/// Removes both, if the configuration is that of this run directory. Says what was removed.
pub fn uninstall(paths: &Paths) -> Result<Vec<PathBuf>, InstallError> {
    let conflist = paths.cni_conf_dir.join(CONFLIST);
    let is_ours = match fs::read(&conflist) {
        Ok(text) => {
            serde_json::from_slice(&text).is_ok_and(|value: Value| run_dir_of(&value) == paths.run_dir.to_str())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed("read", &conflist)(error)),
    };
    if !is_ours {
        return Ok(Vec::new());
    }
    let mut removed = Vec::new();
    // The configuration last: it is what tells that the binary is ours.
    for path in [paths.cni_bin_dir.join(BINARY), conflist] {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", &path)(error)),
        }
    }
    Ok(removed)
}

fn conflist(run_dir: &Path) -> Value {
    json!({
        // What runtimes of before CNI 1.1 read alone, such as containerd 1.7: they can
        // use no other version, and don't find the pods that they made with one.
        "cniVersion": "1.0.0",
        // What later ones take their best from.
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "fairlead",
        "plugins": [{ "type": BINARY, "runDir": run_dir, "capabilities": { "portMappings": true } }],
    })
}

fn run_dir_of(conflist: &Value) -> Option<&str> {
    conflist.pointer("/plugins/0/runDir")?.as_str()
}

fn install_conflist(path: &Path, run_dir: &Path) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(&conflist(run_dir)).map_err(io::Error::other)?;
    text.push(b'\n');
    if fs::read(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    replace(path, 0o644, |file| file.write_all(&text))
}

fn install_binary(path: &Path) -> io::Result<()> {
    // Not by path: an upgrade may have put another file there since we started.
    let mut own = File::open("/proc/self/exe")?;
    if let Ok(mut present) = File::open(path)
        && is_same(&mut own, &mut present)?
    {
        return Ok(());
    }
    let mut own = File::open("/proc/self/exe")?;
    replace(path, 0o755, |file| io::copy(&mut own, file).map(drop))
}

fn is_same(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (meta_a, meta_b) = (a.metadata()?, b.metadata()?);
    if (meta_a.dev(), meta_a.ino()) == (meta_b.dev(), meta_b.ino()) {
        return Ok(true);
    }
    if meta_a.len() != meta_b.len() {
        return Ok(false);
    }
    let (mut chunk_a, mut chunk_b) = ([0; 16 << 10], [0; 16 << 10]);
    loop {
        let read = a.read(&mut chunk_a)?;
        b.read_exact(&mut chunk_b[..read])?;
        if chunk_a[..read] != chunk_b[..read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let new = dir.join(format!(".{}.new", path.file_name().unwrap_or_default().display()));
    let written = File::create(&new).and_then(|mut file| {
        write(&mut file)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&new, path));
    if renamed.is_err() {
        // Whatever is wrong with the file, half of one is worth nothing.
        let _ = fs::remove_file(&new);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &Path) -> Paths {
        Paths {
            run_dir: dir.join("run"),
            bpffs: dir.join("bpffs"),
            cgroup: None,
            cni_conf_dir: dir.join("conf"),
            cni_bin_dir: dir.join("bin"),
        }
    }

    #[test]
    fn installs_twice_and_removes_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let ours = paths(dir.path());
        install(&ours).unwrap();
        let inode = fs::metadata(ours.cni_bin_dir.join(BINARY)).unwrap().ino();
        install(&ours).unwrap();
        assert_eq!(fs::metadata(ours.cni_bin_dir.join(BINARY)).unwrap().ino(), inode, "an equal binary stays");
        assert_eq!(fs::read_dir(&ours.cni_bin_dir).unwrap().count(), 1, "nothing else is left behind");

        let other = Paths { run_dir: "/elsewhere".into(), ..ours.clone() };
        assert!(uninstall(&other).unwrap().is_empty());
        assert_eq!(uninstall(&ours).unwrap().len(), 2);
        assert!(uninstall(&ours).unwrap().is_empty());
    }

    #[test]
    fn another_binary_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let binary = paths.cni_bin_dir.join(BINARY);
        fs::create_dir_all(&paths.cni_bin_dir).unwrap();
        fs::write(&binary, "old").unwrap();
        install(&paths).unwrap();
        assert_eq!(fs::metadata(&binary).unwrap().len(), fs::metadata("/proc/self/exe").unwrap().len());
        assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_place_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        fs::write(&paths.cni_bin_dir, "a file").unwrap();
        let error = install(&paths).unwrap_err().to_string();
        assert!(error.contains(paths.cni_bin_dir.to_str().unwrap()), "{error}");
    }
}
