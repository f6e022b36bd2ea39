//! What this machine is: its resources, and the numeric environment that results are made in.

use std::collections::BTreeMap;

use crate::graph::{Device, RunSettings};
use crate::schedule::{Grant, Resources};

/// The resources of this machine. GPUs are those that its driver shows.
pub fn resources() -> Resources {
    let cpu = std::thread::available_parallelism().map_or(1, usize::from);
    Resources {
        cpu: u32::try_from(cpu).unwrap_or(u32::MAX),
        gpus: gpus(),
        pools: BTreeMap::new(),
    }
}

/// Minor numbers of `/dev/nvidia<N>`, cut down to what `CUDA_VISIBLE_DEVICES` allows.
fn gpus() -> Vec<u32> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut devices: Vec<u32> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("nvidia")?.parse().ok()
        })
        .collect();
    devices.sort_unstable();
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return visible
            .split(',')
            .filter_map(|device| device.trim().parse().ok())
            .collect();
    }
    devices
}

/// The device that an attempt uses: `gpu` or `cpu`.
pub fn device(run: &RunSettings, grant: &Grant) -> &'static str {
    match run.device {
        Device::Cpu => "cpu",
        Device::Gpu => "gpu",
        Device::Auto if grant.gpus.is_empty() => "cpu",
        Device::Auto => "gpu",
    }
}

/// Architecture and the instruction sets that numeric kernels choose between at run time.
pub fn instruction_set() -> String {
    let mut words = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ];
        words.extend(
            features
                .iter()
                .filter(|(_, has)| *has)
                .map(|(name, _)| *name),
        );
    }
    words.join("+")
}

/// The numeric environment of an attempt, as its receipt records it.
pub fn environment(device: &str) -> BTreeMap<String, String> {
    [
        ("device", device.to_owned()),
        ("instruction_set", instruction_set()),
        ("kernels", env!("CARGO_PKG_VERSION").to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The numeric environment in one word, as a checkpoint holds it.
pub fn environment_word(environment: &BTreeMap<String, String>) -> String {
    let words: Vec<&str> = environment.values().map(String::as_str).collect();
    words.join("/")
}
