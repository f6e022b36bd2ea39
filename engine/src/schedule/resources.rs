//! Resources with identities: which CPU slots, GPUs and named pools are free.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::graph::{Device, RunSettings};

/// Resources that an attempt holds until it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// CPU slots: the threads that the attempt may use.
    pub cpu: u32,
    /// Identities of the GPUs (`CUDA_VISIBLE_DEVICES`).
    pub gpus: Vec<u32>,
    /// Slots of named pools.
    pub pools: BTreeMap<String, u32>,
}

/// What an attempt needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `None`: a fair share, at least one.
    pub cpu: Option<u32>,
    pub gpus: u32,
    pub pools: BTreeMap<String, u32>,
}

/// The resources of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU slots, one a thread.
    pub cpu: u32,
    /// Device ids.
    pub gpus: Vec<u32>,
    /// Slots of named pools.
    pub pools: BTreeMap<String, u32>,
}

/// What is free, and what there is in all.
#[derive(Debug)]
pub struct Pool {
    all: Resources,
    free: Resources,
}

impl Pool {
    pub fn new(mut all: Resources) -> Self {
        all.cpu = all.cpu.max(1);
        all.gpus.sort_unstable();
        all.gpus.dedup();
        Self {
            free: all.clone(),
            all,
        }
    }

    /// What an attempt of a task needs. A task that asks for more CPU slots than there are gets all of them.
    pub fn request(&self, run: &RunSettings) -> Request {
        let mut pools = run.slots.clone();
        let gpus = pools.remove("gpu");
        let wants_gpu = u32::from(run.device == Device::Gpu);
        // `auto` uses a GPU where there is one: a machine without any serves the task with its CPU.
        let gpus = match (run.device, gpus) {
            (Device::Cpu, _) => 0,
            (Device::Auto, Some(_)) if self.all.gpus.is_empty() => 0,
            (_, Some(gpus)) => gpus.max(wants_gpu),
            (_, None) => wants_gpu,
        };
        let cpu = pools.remove("cpu").or(run.threads);
        let cpu = cpu.map(|slots| slots.clamp(1, self.all.cpu));
        Request { cpu, gpus, pools }
    }

    /// The resource of which the machine has not enough, whatever runs.
    pub fn lacks(&self, request: &Request) -> Option<String> {
        if request.gpus as usize > self.all.gpus.len() {
            return Some("gpu".to_owned());
        }
        let has = |name: &String| self.all.pools.get(name).copied().unwrap_or(0);
        let mut pools = request.pools.iter();
        let lacking = pools.find(|(name, slots)| **slots > has(name));
        lacking.map(|(name, _)| name.clone())
    }

    /// Takes what is asked for, if all of it is free. Who asks for no number of CPU slots gets an equal share of the
    /// free ones among `claimants`, itself included.
    pub fn take(&mut self, request: &Request, claimants: usize) -> Option<Grant> {
        let share = self.free.cpu as usize / claimants.max(1);
        let share = u32::try_from(share).unwrap_or(u32::MAX).max(1);
        let cpu = request.cpu.unwrap_or(share);
        let free = |name: &String| self.free.pools.get(name).copied().unwrap_or(0);
        let fits = cpu <= self.free.cpu
            && request.gpus as usize <= self.free.gpus.len()
            && request
                .pools
                .iter()
                .all(|(name, slots)| *slots <= free(name));
        if !fits {
            return None;
        }
        self.free.cpu -= cpu;
        for (name, slots) in &request.pools {
            if let Some(free) = self.free.pools.get_mut(name) {
                *free -= slots;
            }
        }
        Some(Grant {
            cpu,
            gpus: self.free.gpus.drain(..request.gpus as usize).collect(),
            pools: request.pools.clone(),
        })
    }

    pub fn give_back(&mut self, grant: &Grant) {
        self.free.cpu += grant.cpu;
        self.free.gpus.extend(&grant.gpus);
        self.free.gpus.sort_unstable();
        for (name, slots) in &grant.pools {
            *self.free.pools.entry(name.clone()).or_default() += slots;
        }
    }

    /// True when no attempt can start: each needs a CPU slot.
    pub fn is_exhausted(&self) -> bool {
        self.free.cpu == 0
    }
}
