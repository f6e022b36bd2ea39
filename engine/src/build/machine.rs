//! What this machine is: its resources, and the numeric environment that results are made in.

use std::collections::BTreeMap;

use crate::graph::{Device, RunSettings};
use crate::schedule::{Grant, Resources};

/// The resources of this machine. GPUs are those that this process may use, by position.
pub fn resources() -> Resources {
    let cpu = std::thread::available_parallelism().map_or(1, usize::from);
    Resources {
        cpu: u32::try_from(cpu).unwrap_or(u32::MAX),
        gpus: (0..).take(cards().len()).collect(),
        pools: BTreeMap::new(),
    }
}

/// The cards that this process may use, as `CUDA_VISIBLE_DEVICES` names them: by number, by UUID, or as a part of a card.
/// Where it is not set, CUDA counts those that the driver shows from 0.
fn cards() -> Vec<String> {
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        let names = visible.split(',').map(str::trim);
        // CUDA reads up to the first name that is none.
        return names
            .take_while(|name| !name.is_empty() && !name.starts_with('-'))
            .map(str::to_owned)
            .collect();
    }
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_card = |entry: &std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap_or_default();
        (name.strip_prefix("nvidia")).is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let count = entries.filter(is_card).count();
    (0..count).map(|card| card.to_string()).collect()
}

/// `CUDA_VISIBLE_DEVICES` of an attempt that was granted these cards, by their position among all.
pub fn visible_cards(granted: &[u32]) -> String {
    let cards = cards();
    let names = granted.iter().filter_map(|at| cards.get(*at as usize));
    names.map(String::as_str).collect::<Vec<_>>().join(",")
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
