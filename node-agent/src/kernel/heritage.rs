//! What other versions left: their tables become ours, or their entries do.
//!
//! ```text
//! claim     tables of the same layout are pinned among ours
//! carry     before ours are read: the others' entries; before and after programs are replaced: news
//! hold      no connection begins on either side for as long as that takes
//! ```
//!
//! Invariant: nothing is changed in another version's tables but that they are told to hold, so that
//! whichever version is started next finds all it needs. This module must not know what is
//! carried how.

use std::{
    collections::BTreeMap,
    io,
    mem::offset_of,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use datapath::abi::{LAYOUT, NodeConfig, TableLayout};
use tracing::{debug, info, warn};

use super::{
    bpffs::{Bpffs, BpffsError},
    clock,
    raw_map::RawMap,
};
use crate::upgrade::{self, Keep, Kept, Pass, Shape, Way, Why};

const NODE_CONFIG: &str = "NODE_CONFIG";

/// Why another version's tables can't be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HeritageError {
    /// The directories can't be read or changed.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A table can't be read, written or pinned.
    #[error("cannot {verb} {path}, which another version left: {source}")]
    Table {
        /// What was tried.
        verb: &'static str,
        /// Its pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> HeritageError {
    move |source| HeritageError::Table { verb, path: path.to_owned(), source }
}

/// Tables of other versions whose entries become ours.
#[derive(Debug, Default)]
pub struct Heritage {
    carried: Vec<Carried>,
    /// The others' NODE_CONFIG, and ours.
    configs: Vec<RawMap>,
    /// Monotonic seconds when the tables were last looked through; `None`: never.
    looked: Option<u32>,
}

#[derive(Debug)]
struct Carried {
    kept: &'static Kept,
    path: PathBuf,
    from: RawMap,
    to: Option<RawMap>,
    /// Its programs are attached; else some of them may have been for a moment.
    in_force: bool,
}

impl Heritage {
    /// Claims what other versions left, before any table of ours is made; `None`: nothing is there.
    pub fn claim(bpffs: &Bpffs) -> Result<Option<Self>, HeritageError> {
        let ours = bpffs.maps();
        let in_force = bpffs.in_force().filter(|maps| *maps != ours);
        if in_force.is_some() {
            bpffs.begin_anew()?;
        }
        bpffs.make_maps(&upgrade::describe(LAYOUT))?;
        let foreign = bpffs.foreign_maps()?;
        if foreign.is_empty() {
            return Ok(None);
        }
        let mut heritage = Self::default();
        let mut left = Vec::new();
        match &in_force {
            Some(maps) => {
                for (kept, way) in upgrade::plan(LAYOUT, &heritage.look_into(maps)?) {
                    heritage.take(kept, &way, maps, &ours)?;
                    if matches!(way, Way::Anew(_)) {
                        left.push(kept.name);
                    }
                }
                info!(from = %maps.display(), carried = heritage.carried.len(), "taking over from another version");
            }
            None if ours.join(NODE_CONFIG).exists() => info!("another version had begun to take over from this one"),
            None => {
                warn!("the version that ran before doesn't say what its tables mean: flows and affinity begin anew")
            }
        }
        for maps in foreign.iter().filter(|maps| Some(*maps) != in_force.as_ref()) {
            heritage.add_remnants(maps, &left)?;
        }
        Ok(Some(heritage))
    }

    /// The layouts of a version's tables, of which those of the node's configuration may be told to hold.
    fn look_into(&mut self, maps: &Path) -> Result<BTreeMap<String, Shape>, HeritageError> {
        let shapes = shapes(maps)?;
        let meaning = LAYOUT.iter().find(|layout| layout.name == NODE_CONFIG).map(|layout| layout.meaning);
        if shapes.get(NODE_CONFIG).is_some_and(|shape| shape.meaning == meaning) {
            self.configs.extend(open(&maps.join(NODE_CONFIG))?);
        }
        Ok(shapes)
    }

    fn take(&mut self, kept: &'static Kept, way: &Way, maps: &Path, ours: &Path) -> Result<(), HeritageError> {
        let path = maps.join(kept.name);
        match way {
            Way::Shared => {
                let map = open(&path)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT));
                let pinned = map.and_then(|map| map.pin(&ours.join(kept.name)));
                pinned.map_err(failed("share", &path))?;
            }
            Way::Carried => {
                if let Some(from) = open(&path)? {
                    self.carried.push(Carried { kept, path, from, to: None, in_force: true });
                }
            }
            Way::Anew(Why::Rebuilt) => debug!(table = kept.name, "written anew from objects"),
            Way::Anew(why) => warn!(table = kept.name, "another version's entries are left: {why}"),
        }
        Ok(())
    }

    /// What a version has noted that was interrupted while it took over, or that another took over from.
    fn add_remnants(&mut self, maps: &Path, left: &[&str]) -> Result<(), HeritageError> {
        for (kept, way) in upgrade::plan(LAYOUT, &self.look_into(maps)?) {
            let is_news = matches!(kept.keep, Keep::Latest(_) | Keep::Standing | Keep::Bits(_));
            if !is_news || matches!(way, Way::Anew(_)) || left.contains(&kept.name) {
                continue;
            }
            let path = maps.join(kept.name);
            if let Some(from) = open(&path)? {
                self.carried.push(Carried { kept, path, from, to: None, in_force: false });
            }
        }
        Ok(())
    }

    /// Carries all there is into our tables, which are there by now.
    pub fn carry_all(&mut self, ours: &Path) -> Result<(), HeritageError> {
        for carried in &mut self.carried {
            carried.to = open(&ours.join(carried.kept.name))?;
        }
        // A table that both versions use, or the same one by way of a third.
        self.carried.retain(|carried| carried.to.as_ref().is_some_and(|to| to.id() != carried.from.id()));
        self.configs.extend(open(&ours.join(NODE_CONFIG))?);
        self.look_through(false)
    }

    /// Carries what has changed since. `in_force`: our programs have taken the others' places.
    pub fn carry_news(&mut self, in_force: bool) -> Result<(), HeritageError> {
        self.look_through(in_force)
    }

    fn look_through(&mut self, in_force: bool) -> Result<(), HeritageError> {
        let (began, now) = (Instant::now(), clock::seconds());
        let mut written = 0;
        for carried in &self.carried {
            // Packets of the second in which it was looked may have come after.
            let pass = match self.looked {
                None if carried.in_force => Pass::First,
                looked => Pass::Again { since: looked.map_or(0, |at| at.saturating_sub(1)), in_force },
            };
            if !upgrade::has_news(carried.kept.keep, pass) {
                continue;
            }
            written += carried.carry(pass).map_err(failed("carry entries of", &carried.path))?;
        }
        self.looked = Some(now);
        debug!(tables = self.carried.len(), written, in_force, took = ?began.elapsed(), "carried");
        Ok(())
    }

    /// Lets no connection begin for so long, in others' tables and in ours; `Duration::ZERO` lets them again.
    pub fn hold(&self, how_long: Duration) -> Result<(), HeritageError> {
        const AT: usize = offset_of!(NodeConfig, held_until);
        // Where all that a connection is known by is shared, nothing can be missed.
        let flows =
            |name: &str| Kept::of("FLOWS").is_some_and(|flows| flows.name == name || flows.needs.contains(&name));
        if !self.carried.iter().any(|carried| flows(carried.kept.name)) {
            return Ok(());
        }
        let until = if how_long.is_zero() { 0 } else { clock::nanos() + how_long.as_nanos() as u64 };
        let mut value = Vec::new();
        for config in &self.configs {
            let held = config.get(&0_u32.to_ne_bytes(), &mut value).and_then(|_| match value.get_mut(AT..AT + 8) {
                Some(field) => {
                    field.copy_from_slice(&until.to_ne_bytes());
                    config.set(&0_u32.to_ne_bytes(), &value)
                }
                // That version doesn't know of it.
                None => Ok(()),
            });
            held.map_err(failed("hold connections by", Path::new(NODE_CONFIG)))?;
        }
        Ok(())
    }
}

impl Carried {
    /// Carries what there is; how many entries were written.
    fn carry(&self, pass: Pass) -> io::Result<u64> {
        let Some(to) = &self.to else { return Ok(0) };
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        let (mut written, mut refused) = (0, 0);
        self.from.each(|key, value| {
            upgrade::fit(value, to.entry_len(), &mut theirs);
            // In an array what is zero is as good as not there.
            let is_there = !to.is_array() || theirs.iter().any(|byte| *byte != 0);
            if !is_there || !upgrade::is_news(self.kept.keep, pass, &theirs) {
                return Ok(());
            }
            let known = to.get(key, &mut ours)?;
            if !upgrade::merge(self.kept.keep, pass, &mut theirs, known.then_some(&ours)) {
                return Ok(());
            }
            match to.set(key, &theirs) {
                Ok(()) => written += 1,
                // No room in a smaller table, or an array's end.
                Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => refused += 1,
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        if refused > 0 {
            warn!(table = self.kept.name, entries = refused, "left: this version's table is smaller");
        }
        Ok(written)
    }
}

fn open(path: &Path) -> Result<Option<RawMap>, HeritageError> {
    RawMap::open(path).map_err(failed("open", path))
}

/// The layouts of the tables that are pinned in `maps`.
fn shapes(maps: &Path) -> Result<BTreeMap<String, Shape>, HeritageError> {
    let meanings = Bpffs::meanings(maps).map(|text| upgrade::meanings(&text)).unwrap_or_default();
    let mut shapes = BTreeMap::new();
    for TableLayout { name, .. } in LAYOUT {
        if let Some(map) = open(&maps.join(name))? {
            let shape = Shape {
                key: map.key_len() as u32,
                value: map.value_len() as u32,
                entries: map.entries(),
                meaning: meanings.get(*name).copied(),
            };
            shapes.insert((*name).to_owned(), shape);
        }
    }
    Ok(shapes)
}
