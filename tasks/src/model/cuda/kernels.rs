//! The kernels by name: what Rust calls, and the PTX text that holds them.
//!
//! The texts are made from `kernels/*.cu` by `kernels/build-ptx` and committed, so that a build needs cargo alone. Tests
//! compare the digests in their first lines with the sources, and the table below with their entries.

use super::blas::Element;

/// For cards of compute capability 8.0 and above.
pub const PTX: &str = include_str!("kernels/kernels.ptx");

/// Some of them again, for compute capability 9.0 alone (H100, H200): with instructions that no later card has either.
pub const HOPPER: &str = include_str!("kernels/hopper.ptx");

/// The kernels of a text.
pub fn names(text: &'static str) -> impl Iterator<Item = &'static str> {
    let entries = text.split(".visible .entry ").skip(1);
    entries.filter_map(|entry| entry.split('(').next())
}

/// A kernel, and the sizes of its arguments in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    pub name: &'static str,
    pub arguments: &'static [usize],
}

/// A kernel for each type of numbers that activations can have.
#[derive(Debug, PartialEq, Eq)]
pub struct Pair {
    f32: Kernel,
    bf16: Kernel,
}

impl Pair {
    pub fn of(&self, element: Element) -> &Kernel {
        match element {
            Element::F32 => &self.f32,
            Element::Bf16 => &self.bf16,
        }
    }
}

/// The size of an address.
const P: usize = 8;
/// The sizes of structures: `Heads`, `Product`, `Sampling`, `AdamW` in CUDA C.
const HEADS: usize = 12;
const PRODUCT: usize = 28;
const SAMPLING: usize = 16;
const ADAMW_STEP: usize = 36;

macro_rules! kernels {
    ($($name:ident = $entry:literal [$($size:expr),*];)*) => {
        $(pub const $name: Kernel = Kernel { name: $entry, arguments: &[$($size),*] };)*
        #[cfg(test)]
        pub const SINGLE: &[&Kernel] = &[$(&$name),*];
    };
}

macro_rules! pairs {
    ($($name:ident = $entry:literal [$($size:expr),*];)*) => {
        $(pub const $name: Pair = Pair {
            f32: Kernel { name: concat!($entry, "_f32"), arguments: &[$($size),*] },
            bf16: Kernel { name: concat!($entry, "_bf16"), arguments: &[$($size),*] },
        };)*
        #[cfg(test)]
        pub const PAIRS: &[&Pair] = &[$(&$name),*];
    };
}

pairs! {
    GATHER_ROWS = "gather_rows" [P, P, P, 4];
    EMBED = "embed" [P, P, P, 4];
    SCATTER_ROWS = "scatter_rows" [P, P, P, P, 4];
    EMBED_BACKWARD = "embed_backward" [P, P, P, P, 4];
    EMBEDDING_PIECES = "embedding_pieces" [P, P, P, P, 4];
    RMSNORM_FORWARD = "rmsnorm_forward" [P, P, P, P, 4, 4, 4];
    RMSNORM_BACKWARD = "rmsnorm_backward" [P, P, P, P, P, P, 4, 4, 4];
    ROPE = "rope" [P, P, P, P, 4, 4, 4, 4, 4];
    SWIGLU_FORWARD = "swiglu_forward" [P, P, 4];
    SWIGLU_BACKWARD = "swiglu_backward" [P, P, P, 4];
    ATTENTION_FORWARD = "attention_forward" [P, P, P, P, HEADS];
    ATTENTION_DELTA = "attention_delta" [P, P, P, 4, 4, 4];
    ATTENTION_BACKWARD_QUERIES = "attention_backward_queries" [P, P, P, P, P, P, HEADS];
    ATTENTION_BACKWARD_KEYS = "attention_backward_keys" [P, P, P, P, P, P, HEADS];
    APPEND = "append" [P, P, P, HEADS];
    ATTENTION_IN_CACHE = "attention_in_cache" [P, P, P, P, HEADS];
    CROSS_ENTROPY = "cross_entropy" [P, P, P, P, 4, 4, 4, 4];
    DISTILLATION = "distillation" [P, P, P, P, 4, 4, 4, 4, 4];
    MATMUL = "matmul" [P, P, P, P, PRODUCT];
}

kernels! {
    EMBEDDING_SUMS = "embedding_sums" [P, P, P, 4];
    ADD_COLUMNS = "add_columns" [P, P, 4, 4];
    ADD_STATS = "add_stats" [P, P, 4];
    TO_BF16 = "to_bf16" [P, P, 8];
    FROM_BF16 = "from_bf16" [P, P, 8];
    MATMUL_BF16_F32 = "matmul_bf16_f32" [P, P, P, P, PRODUCT];
    FLASH_FORWARD_64 = "flash_forward_64" [P, P, P, P, HEADS];
    FLASH_FORWARD_128 = "flash_forward_128" [P, P, P, P, HEADS];
    FLASH_BACKWARD_QUERIES_64 = "flash_backward_queries_64" [P, P, P, P, P, P, HEADS];
    FLASH_BACKWARD_QUERIES_128 = "flash_backward_queries_128" [P, P, P, P, P, P, HEADS];
    FLASH_BACKWARD_KEYS_64 = "flash_backward_keys_64" [P, P, P, P, P, P, HEADS];
    FLASH_BACKWARD_KEYS_128 = "flash_backward_keys_128" [P, P, P, P, P, P, HEADS];
    SQUARES = "squares" [P, P, 8, 4];
    SUM_PARTS = "sum_parts" [P, P, 4];
    ADAMW = "adamw" [P, P, P, P, P, 8, ADAMW_STEP];
    SAMPLE = "sample" [P, P, P, P, P, 4, SAMPLING];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use sha2::{Digest, Sha256};

    use super::*;

    /// Entries of a PTX text with the sizes of their parameters.
    fn entries(text: &'static str) -> BTreeMap<&'static str, Vec<usize>> {
        let entry = |text: &'static str| {
            let (name, rest) = text.split_once('(').expect("an entry has parameters");
            let (parameters, _) = rest.split_once(')').expect("parameters end");
            (name, parameters.split(',').map(size_of_parameter).collect())
        };
        text.split(".visible .entry ").skip(1).map(entry).collect()
    }

    /// Of `.param .u64 name` or `.param .align 4 .b8 name[12]`.
    fn size_of_parameter(parameter: &str) -> usize {
        if let Some((_, array)) = parameter.split_once('[') {
            let digits = array.trim_end().trim_end_matches(']');
            return digits.parse().expect("the length of an array");
        }
        let words: Vec<&str> = parameter.split_whitespace().collect();
        match words[1] {
            ".u64" | ".b64" | ".f64" => 8,
            ".u32" | ".b32" | ".f32" => 4,
            other => panic!("a parameter of type {other}"),
        }
    }

    #[test]
    fn every_kernel_that_rust_names_stands_in_the_ptx_with_its_arguments() {
        let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let pairs = PAIRS.iter().flat_map(|pair| [&pair.f32, &pair.bf16]);
        for kernel in SINGLE.iter().copied().chain(pairs) {
            named.insert(kernel.name, kernel.arguments.to_vec());
        }
        assert_eq!(named, entries(PTX));
        for (name, arguments) in entries(HOPPER) {
            assert_eq!(named[name], arguments, "{name}");
        }
    }

    #[test]
    fn the_ptx_was_made_from_these_sources() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/cuda/kernels");
        let mut names: Vec<String> = (std::fs::read_dir(&folder).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".cu") || name.ends_with(".cuh"))
            .collect();
        names.sort();
        let mut total = Sha256::new();
        for name in &names {
            let content = std::fs::read(folder.join(name)).unwrap();
            for field in [name.as_bytes(), content.as_slice()] {
                total.update((field.len() as u64).to_le_bytes());
                total.update(field);
            }
        }
        let digest: String = total
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let expected = format!("// sources sha256 {digest}");
        for text in [PTX, HOPPER] {
            let first = text.lines().next();
            assert_eq!(first, Some(expected.as_str()), "run kernels/build-ptx");
        }
    }

    #[test]
    fn the_ptx_runs_on_cards_and_drivers_of_some_age() {
        assert!(PTX.contains("\n.target sm_80\n"));
        assert!(HOPPER.contains("\n.target sm_90a\n"));
        for text in [PTX, HOPPER] {
            let version = text.contains("\n.version 8.7\n");
            assert!(version, "CUDA 12.8: drivers from 570 on");
        }
    }

    #[test]
    fn no_float_is_added_atomically() {
        let instructions = PTX.lines().chain(HOPPER.lines()).map(str::trim_start);
        let atomics: Vec<&str> = instructions
            .filter(|line| line.starts_with("atom.") || line.starts_with("red."))
            .collect();
        assert!(
            atomics.iter().all(|line| line.contains(".min.u32")),
            "{atomics:?}"
        );
    }
}
