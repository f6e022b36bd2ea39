//! Which CUDA libraries there are, and where: looked for before anything is called, since cudarc panics where a library
//! or a symbol is missing.
//!
//! cudarc opens libraries by name, so those of the system and of `LD_LIBRARY_PATH` need nothing. A toolkit in its own
//! folder, or in a Python environment (`nvidia/cu13/lib`), is opened here by its path first; the name then finds it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

/// A library that kbuild can use, and what it needs of it.
#[derive(Debug, Clone, Copy)]
pub struct Needed {
    /// Its name without `lib` and ending.
    pub name: &'static str,
    /// The file that a package of CUDA 13 or 12 installs.
    files: &'static [&'static str],
    pub symbols: &'static [&'static str],
    /// What it is for, and what brings it.
    pub purpose: &'static str,
    pub help: &'static str,
}

/// The driver of the card: memory, streams, kernels.
pub const DRIVER: Needed = Needed {
    name: "cuda",
    files: &[],
    symbols: &[
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDeviceTotalMem_v2",
        "cuDeviceGetAttribute",
        "cuDevicePrimaryCtxRetain",
        "cuDevicePrimaryCtxRelease_v2",
        "cuCtxSetCurrent",
        "cuMemGetInfo_v2",
        "cuMemAlloc_v2",
        "cuMemFree_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyDtoDAsync_v2",
        "cuMemsetD8Async",
        "cuModuleLoadData",
        "cuModuleUnload",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuLaunchKernel",
        "cuStreamCreate",
        "cuStreamDestroy_v2",
        "cuStreamSynchronize",
        "cuGetErrorName",
    ],
    purpose: "runs kernels",
    help: "install the NVIDIA driver (`apt install nvidia-driver-580-server`); in a container, start it with `--gpus all`",
};

/// Matrix products on tensor cores.
pub const CUBLASLT: Needed = Needed {
    name: "cublasLt",
    files: &["libcublasLt.so.13", "libcublasLt.so.12"],
    symbols: &[
        "cublasLtCreate",
        "cublasLtDestroy",
        "cublasLtMatmulDescCreate",
        "cublasLtMatmulDescSetAttribute",
        "cublasLtMatmulDescDestroy",
        "cublasLtMatrixLayoutCreate",
        "cublasLtMatrixLayoutDestroy",
        "cublasLtMatmulPreferenceCreate",
        "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulPreferenceDestroy",
        "cublasLtMatmulAlgoGetHeuristic",
        "cublasLtMatmul",
    ],
    purpose: "matrix products on tensor cores; without it they take kbuild's own kernel, many times slower",
    help: "`pip install nvidia-cublas` in an active environment, or install CUDA 13",
};

/// What the search for a library ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Where it was opened from: a path, or the name that the system resolved.
    Found(String),
    /// It is there but lacks symbols.
    Old {
        from: String,
        missing: Vec<&'static str>,
    },
    Absent,
}

impl Presence {
    pub fn is_found(&self) -> bool {
        matches!(self, Self::Found(_))
    }
}

/// The driver, looked for once.
pub fn driver() -> &'static Presence {
    static DRIVER_PRESENCE: OnceLock<Presence> = OnceLock::new();
    DRIVER_PRESENCE.get_or_init(|| look_for(&DRIVER))
}

/// cuBLASLt, looked for once.
pub fn cublaslt() -> &'static Presence {
    static CUBLASLT_PRESENCE: OnceLock<Presence> = OnceLock::new();
    CUBLASLT_PRESENCE.get_or_init(|| look_for(&CUBLASLT))
}

fn look_for(needed: &Needed) -> Presence {
    let by_name = || {
        let names = cudarc::get_lib_name_candidates(needed.name);
        names
            .into_iter()
            .find_map(|name| Some((open(&name)?, name)))
    };
    if let Some((library, name)) = by_name() {
        return judge(needed, &library, name);
    }
    let mut paths = folders()
        .into_iter()
        .flat_map(|folder| needed.files.iter().map(move |file| folder.join(file)))
        .filter(|path| path.is_file());
    let Some((preloaded, path)) = paths.find_map(|path| Some((open(&path)?, path))) else {
        return Presence::Absent;
    };
    // cudarc must find it by name from now on, until the process ends.
    std::mem::forget(preloaded);
    match by_name() {
        Some((library, _)) => judge(needed, &library, path.display().to_string()),
        None => Presence::Absent,
    }
}

fn open(name: impl AsRef<OsStr> + libloading::AsFilename) -> Option<Library> {
    // SAFETY: opening a library runs its initialisers. The names are those of NVIDIA's libraries, which are made to be
    // opened so; whoever can put another file under that name into the search path can run code here anyway.
    #[allow(unsafe_code)]
    unsafe {
        Library::new(name).ok()
    }
}

fn judge(needed: &Needed, library: &Library, from: String) -> Presence {
    let has = |symbol: &&&str| {
        // SAFETY: the symbol is only looked up, never called or read through this type.
        #[allow(unsafe_code)]
        unsafe {
            library.get::<*const ()>(symbol.as_bytes()).is_ok()
        }
    };
    let missing: Vec<&str> = (needed.symbols.iter())
        .filter(|symbol| !has(symbol))
        .copied()
        .collect();
    match missing.is_empty() {
        true => Presence::Found(from),
        false => Presence::Old { from, missing },
    }
}

/// Folders that a toolkit may lie in although the system does not know them.
fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];
    let mut roots: Vec<PathBuf> = toolkits.into_iter().filter_map(variable).collect();
    roots.push(PathBuf::from("/usr/local/cuda"));
    let mut folders: Vec<PathBuf> = (roots.iter())
        .flat_map(|root| ["lib64", "lib", "targets/x86_64-linux/lib"].map(|below| root.join(below)))
        .collect();
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(variable);
    let mut prefixes: Vec<PathBuf> = environments.chain(path_prefixes()).collect();
    prefixes.extend([PathBuf::from("/usr/local"), PathBuf::from("/usr")]);
    prefixes.extend(variable("HOME").map(|home| home.join(".local")));
    folders.extend(prefixes.iter().flat_map(|prefix| python_packages(prefix)));
    folders
}

/// `<prefix>` of every `<prefix>/bin` in `PATH`: an environment whose Python is used is one, active or not.
fn path_prefixes() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.join("python3").exists())
        .filter_map(|folder| Some(folder.parent()?.to_owned()))
        .collect()
}

/// `nvidia/*/lib` below the packages of every Python of a prefix: `cu13` of CUDA 13, a folder per library before.
fn python_packages(prefix: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let mut paths: Vec<PathBuf> = (std::fs::read_dir(folder).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        paths
    };
    let pythons = entries(&prefix.join("lib")).into_iter().filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("python3"))
    });
    pythons
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)))
        .flat_map(|packages| entries(&packages.join("nvidia")))
        .map(|package| package.join("lib"))
        .filter(|folder| folder.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pip_installed_toolkit_is_looked_into() {
        let prefix = tempfile::tempdir().unwrap();
        let below = "lib/python3.12/site-packages/nvidia/cu13/lib";
        std::fs::create_dir_all(prefix.path().join(below)).unwrap();
        std::fs::create_dir_all(prefix.path().join("lib/systemd/nvidia/cu13/lib")).unwrap();
        assert_eq!(python_packages(prefix.path()), [prefix.path().join(below)]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_without_the_symbols_is_named_with_what_it_lacks() {
        let needed = Needed {
            symbols: &["malloc", "cuNothingOfTheKind"],
            ..DRIVER
        };
        let library = open("libc.so.6").expect("every Linux has a libc");
        let missing = vec!["cuNothingOfTheKind"];
        let from = "libc".to_owned();
        assert_eq!(
            judge(&needed, &library, from.clone()),
            Presence::Old { from, missing }
        );
    }
}
