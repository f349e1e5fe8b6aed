//! The agent's stages in this process, over tables of their own in the kernel:
//! objects in, tables written, nothing attached.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use node_agent::{
    agent::services::Services,
    compile::Algorithm,
    kernel::{bpffs::Bpffs, heritage::Heritage, programs::Programs, service_tables::KernelServiceTables},
    model::{Model, change::ChangeBatch},
    source::{self, Message, SourceSpec},
};

use crate::sandbox::Sandbox;

/// The name of the node that is compiled for.
pub const NODE: &str = "node-a";

/// The agent's way from a change to the tables.
pub struct Stages {
    /// What the cluster says.
    pub model: Model,
    services: Services,
    _sandbox: Sandbox,
}

impl Stages {
    /// Empty tables, and a model that knows nothing.
    ///
    /// # Errors
    /// The kernel refuses the programs or tables.
    pub fn new() -> Result<Self> {
        let sandbox = Sandbox::new();
        let bpffs = Bpffs::prepare(&sandbox.directory().join("bpf"))?;
        Heritage::claim(&bpffs)?;
        // The programs bring the tables with them.
        Programs::open(&bpffs, &[])?;
        let services = Services::adopt(KernelServiceTables::open(&bpffs.maps())?, NODE, Algorithm::Random)?;
        Ok(Self { model: Model::new(NODE), services, _sandbox: sandbox })
    }

    /// Puts changes in force and says how long it took.
    ///
    /// # Errors
    /// A table refused.
    pub fn put_in_force(&mut self, batches: Vec<ChangeBatch>) -> Result<Duration> {
        let begun = Instant::now();
        for batch in batches {
            self.model.apply(batch);
        }
        let dirty = self.model.take_dirty();
        self.services.compile(&self.model, &dirty.services);
        let outcome = self.services.apply();
        let took = begun.elapsed();
        ensure!(outcome.failed == 0, "{} writes failed: {:?}", outcome.failed, outcome.error);
        Ok(took)
    }

    /// Frees what was replaced, as the agent does in idle moments.
    ///
    /// # Errors
    /// The kernel can't tell when readers are gone.
    pub fn reclaim(&mut self) -> Result<()> {
        Ok(self.services.reclaim()?)
    }
}

/// All that the directory source says of the manifests below `directory`.
///
/// # Errors
/// The directory can't be read.
pub fn read_objects(directory: &Path) -> Result<Vec<ChangeBatch>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut source = source::start(&SourceSpec::Directory(directory.to_owned())).await?;
        source.control.rescan(0);
        let mut batches = Vec::new();
        loop {
            match source.messages.recv().await.context("the source ended")? {
                Message::Batch(batch) => batches.push(batch),
                Message::Rescanned(_) => return Ok(batches),
            }
        }
    })
}
