//! One card: memory, copies, launches. The safe face of the driver, as little of it as kbuild needs.
//!
//! Everything runs on one stream, in the order of the calls, which come from one thread at a time (scratch memory is
//! shared). A call that fails is remembered and ends the work: all later calls do nothing, and [`Gpu::sync`] reports the
//! first failure. A wrong address or size given to a kernel harms the memory of the card, not that of the process;
//! callers check lengths (`ops.rs`).

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUresult};

use super::blas::Blas;
use super::kernels::{HOPPER, Kernel, PTX, names};
use super::libraries::{self, Presence};
use crate::model::error::ModelError;

/// An address in the memory of a card.
pub type Address = u64;

/// What a card says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    pub capability: (i32, i32),
    pub memory_bytes: usize,
}

/// Why no kernel can run on any card here; `None`: one can.
pub fn obstacle() -> Option<ModelError> {
    let invalid = |message: &str, help: &str| Some(ModelError::invalid(message, help));
    match libraries::driver() {
        Presence::Absent => invalid("no NVIDIA driver (libcuda.so.1)", libraries::DRIVER.help),
        Presence::Old { missing, .. } => invalid(
            &format!(
                "the NVIDIA driver is too old: it lacks `{}`",
                missing.join("`, `")
            ),
            libraries::DRIVER.help,
        ),
        Presence::Found(_) => match cards() {
            Err(cause) => invalid(
                &format!("the NVIDIA driver does not start: {cause}"),
                DRIVER_FAILS,
            ),
            Ok(cards) if cards.is_empty() => invalid(
                "the NVIDIA driver shows no card",
                "see `CUDA_VISIBLE_DEVICES`, and `nvidia-smi`",
            ),
            Ok(cards) if cards[0].capability < (8, 0) => {
                let Card {
                    name,
                    capability: (major, minor),
                    ..
                } = &cards[0];
                let help = "kbuild's kernels need compute capability 8.0 (Ampere) or later";
                invalid(
                    &format!("{name} has compute capability {major}.{minor}"),
                    help,
                )
            }
            Ok(_) => None,
        },
    }
}

const DRIVER_FAILS: &str = "run `nvidia-smi`; after an update of the driver, restart the machine";

/// The version of CUDA that the driver supports, as `(13, 0)`.
pub fn version() -> Result<(i32, i32), String> {
    initialise()?;
    let mut version: c_int = 0;
    // SAFETY: the driver and its symbols were found; the pointer is to a local.
    #[allow(unsafe_code)]
    check(unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    Ok((version / 1000, version % 1000 / 10))
}

/// Every card that this process may use, in the order of the driver.
pub fn cards() -> Result<Vec<Card>, String> {
    initialise()?;
    let mut count: c_int = 0;
    // SAFETY: as in `version`.
    #[allow(unsafe_code)]
    check(unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    (0..count).map(card).collect()
}

fn initialise() -> Result<(), String> {
    if !libraries::driver().is_found() {
        return Err("it was not found".to_owned());
    }
    // SAFETY: the driver and its symbols were found. Calling it again does nothing.
    #[allow(unsafe_code)]
    check(unsafe { sys::cuInit(0) })
}

fn card(ordinal: c_int) -> Result<Card, String> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = handle(ordinal)?;
    let mut name = [0 as c_char; 256];
    let mut memory_bytes = 0;
    // SAFETY: the device is valid; the pointers are to locals, the length is that of `name`, which the driver ends
    // with a zero.
    #[allow(unsafe_code)]
    let name = unsafe {
        check(sys::cuDeviceGetName(
            name.as_mut_ptr(),
            name.len() as c_int,
            device,
        ))?;
        check(sys::cuDeviceTotalMem_v2(&raw mut memory_bytes, device))?;
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    let attribute = |which| {
        let mut value: c_int = 0;
        // SAFETY: as above.
        #[allow(unsafe_code)]
        check(unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) })?;
        Ok::<_, String>(value)
    };
    Ok(Card {
        name,
        capability: (attribute(MAJOR)?, attribute(MINOR)?),
        memory_bytes,
    })
}

fn handle(ordinal: c_int) -> Result<sys::CUdevice, String> {
    let mut device: sys::CUdevice = 0;
    // SAFETY: the driver is initialised; the pointer is to a local.
    #[allow(unsafe_code)]
    check(unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    Ok(device)
}

fn check(result: CUresult) -> Result<(), String> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut name: *const c_char = std::ptr::null();
    // SAFETY: the driver answers with a string that lives as long as the process, or leaves null.
    #[allow(unsafe_code)]
    let name = unsafe {
        let known = sys::cuGetErrorName(result, &raw mut name) == CUresult::CUDA_SUCCESS;
        (known && !name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    Err(name.unwrap_or_else(|| format!("CUDA error {}", result as u32)))
}

/// An opened card, shared by all that clone it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    functions: BTreeMap<&'static str, sys::CUfunction>,
    modules: Vec<sys::CUmodule>,
    hopper: bool,
    /// Memory that was given back, by size: taking it again neither waits for the card nor asks the driver.
    spare: Mutex<BTreeMap<usize, Vec<Address>>>,
    /// Memory that operations use for themselves, by purpose; it grows and lives as long as the card.
    scratch: Mutex<BTreeMap<&'static str, (Address, usize)>>,
    failure: Mutex<Option<String>>,
    blas: Option<Blas>,
}

// SAFETY: handles of the driver are plain names that any thread may use once the context is current there, which every
// call makes sure of; cuBLASLt is only entered under its own lock.
#[allow(unsafe_code)]
unsafe impl Send for Inner {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Inner {}

impl Gpu {
    /// Opens the first card that is visible.
    pub fn open() -> Result<Self, ModelError> {
        if let Some(obstacle) = obstacle() {
            return Err(obstacle);
        }
        Self::start().map_err(|cause| {
            ModelError::invalid(format!("the GPU does not start: {cause}"), DRIVER_FAILS)
        })
    }

    fn start() -> Result<Self, String> {
        let device = handle(0)?;
        let mut context: sys::CUcontext = std::ptr::null_mut();
        let mut stream: sys::CUstream = std::ptr::null_mut();
        // SAFETY: the device is valid, pointers are to locals.
        #[allow(unsafe_code)]
        unsafe {
            check(sys::cuDevicePrimaryCtxRetain(&raw mut context, device))?;
            check(sys::cuCtxSetCurrent(context))?;
            check(sys::cuStreamCreate(&raw mut stream, 0))?;
        }
        let hopper = card(0)?.capability == (9, 0);
        let mut functions = BTreeMap::new();
        let mut modules = Vec::new();
        // What a later text has takes the place of what stands in an earlier one.
        for text in [Some(PTX), hopper.then_some(HOPPER)].into_iter().flatten() {
            let module = module(text)?;
            modules.push(module);
            for name in names(text) {
                functions.insert(name, function(module, name)?);
            }
        }
        let blas = libraries::cublaslt()
            .is_found()
            .then(|| Blas::new(stream.cast()))
            .transpose()?;
        Ok(Self(Arc::new(Inner {
            device,
            context,
            stream,
            functions,
            modules,
            hopper,
            spare: Mutex::default(),
            scratch: Mutex::default(),
            failure: Mutex::default(),
            blas,
        })))
    }

    /// Whether the kernels for compute capability 9.0 are loaded.
    pub fn is_hopper(&self) -> bool {
        self.0.hopper
    }

    /// The matrix library, where there is one.
    pub fn blas(&self) -> Option<&Blas> {
        self.0.blas.as_ref()
    }

    /// Runs a call of the driver, unless one failed before; remembers a failure.
    fn attempt(&self, what: &str, call: impl FnOnce() -> Result<(), String>) {
        let mut failure = lock(&self.0.failure);
        if failure.is_some() {
            return;
        }
        // SAFETY: the context lives as long as `self`.
        #[allow(unsafe_code)]
        let bound = check(unsafe { sys::cuCtxSetCurrent(self.0.context) });
        if let Err(cause) = bound.and_then(|()| call()) {
            *failure = Some(format!("{what}: {cause}"));
        }
    }

    /// Remembers a failure that was found elsewhere.
    pub fn fail(&self, message: String) {
        lock(&self.0.failure).get_or_insert(message);
    }

    /// Waits for everything; the first failure since the card was opened.
    pub fn sync(&self) -> Result<(), ModelError> {
        // SAFETY: the stream lives as long as `self`.
        #[allow(unsafe_code)]
        self.attempt("waiting for the GPU", || {
            check(unsafe { sys::cuStreamSynchronize(self.0.stream) })
        });
        match lock(&self.0.failure).clone() {
            None => Ok(()),
            Some(message) if message.contains("OUT_OF_MEMORY") => Err(ModelError::invalid(
                format!("the GPU has too little memory ({message})"),
                "lower `micro_batch_tokens`, or `max_new_tokens` where it samples, or run with `device = \"cpu\"`",
            )),
            Some(message) => Err(ModelError::invalid(
                format!("the GPU failed: {message}"),
                "run `kbuild doctor`; `device = \"cpu\"` does without it",
            )),
        }
    }

    /// Bytes of memory that are free, and all there are.
    pub fn memory(&self) -> Result<(usize, usize), ModelError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: pointers are to locals.
        #[allow(unsafe_code)]
        self.attempt("asking for memory", || {
            check(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })
        });
        self.sync()?;
        Ok((free, total))
    }

    /// Memory of unknown content; no memory for 0 bytes.
    pub fn allocate(&self, bytes: usize) -> Memory {
        let bytes = rounded(bytes);
        Memory {
            gpu: self.clone(),
            address: self.take(bytes),
            bytes,
        }
    }

    fn take(&self, bytes: usize) -> Address {
        let spare = lock(&self.0.spare).get_mut(&bytes).and_then(Vec::pop);
        if let Some(address) = spare {
            return address;
        }
        let mut address = 0;
        if bytes > 0 {
            self.attempt(&format!("{bytes} bytes"), || {
                new_memory(&mut address, bytes).or_else(|_| {
                    self.release_spare();
                    new_memory(&mut address, bytes)
                })
            });
        }
        address
    }

    /// Work on one stream never overlaps, so memory may be taken again before what used it is done.
    fn give_back(&self, address: Address, bytes: usize) {
        if address != 0 {
            lock(&self.0.spare).entry(bytes).or_default().push(address);
        }
    }

    fn release_spare(&self) {
        for address in std::mem::take(&mut *lock(&self.0.spare))
            .into_values()
            .flatten()
        {
            // SAFETY: the address came from the driver and nobody holds it; freeing waits for what still uses it.
            #[allow(unsafe_code)]
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }

    /// At least so many bytes that live until the next call for the same purpose. Work on one stream never overlaps, so
    /// an operation may use them as its own.
    pub fn scratch(&self, purpose: &'static str, bytes: usize) -> Address {
        let known = lock(&self.0.scratch).get(purpose).copied();
        match known {
            Some((address, size)) if size >= bytes => address,
            _ => {
                if let Some((address, size)) = known {
                    self.give_back(address, size);
                }
                let bytes = rounded(bytes);
                let address = self.take(bytes);
                lock(&self.0.scratch).insert(purpose, (address, bytes));
                address
            }
        }
    }

    pub fn clear(&self, address: Address, bytes: usize) {
        if bytes > 0 {
            // SAFETY: the caller's view lies within one allocation of `bytes` or more.
            #[allow(unsafe_code)]
            self.attempt("clearing memory", || {
                check(unsafe { sys::cuMemsetD8Async(address, 0, bytes, self.0.stream) })
            });
        }
    }

    pub fn copy(&self, to: Address, from: Address, bytes: usize) {
        if bytes > 0 {
            // SAFETY: both views lie within allocations of `bytes` or more.
            #[allow(unsafe_code)]
            self.attempt("copying memory", || {
                check(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.0.stream) })
            });
        }
    }

    /// Copies values to the card.
    pub fn write<T: Plain>(&self, to: Address, values: &[T]) {
        if !values.is_empty() {
            let bytes = size_of_val(values);
            // SAFETY: the slice is readable for `bytes`; the driver has taken a copy of pageable memory when it returns.
            #[allow(unsafe_code)]
            self.attempt("copying to the GPU", || {
                check(unsafe {
                    sys::cuMemcpyHtoDAsync_v2(to, values.as_ptr().cast(), bytes, self.0.stream)
                })
            });
        }
    }

    /// Copies values from the card, once everything before is done. Zeros after a failure.
    pub fn read<T: Plain>(&self, from: Address, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        if count > 0 {
            let bytes = size_of_val(values.as_slice());
            // SAFETY: the vector is writable for `bytes`, any bits are a `T` (`Plain`), and it is not touched before the
            // stream was waited for.
            #[allow(unsafe_code)]
            self.attempt("copying from the GPU", || unsafe {
                check(sys::cuMemcpyDtoHAsync_v2(
                    values.as_mut_ptr().cast(),
                    from,
                    bytes,
                    self.0.stream,
                ))?;
                check(sys::cuStreamSynchronize(self.0.stream))
            });
        }
        values
    }

    /// Values in scratch memory.
    pub fn hand_over<T: Plain>(&self, purpose: &'static str, values: &[T]) -> Address {
        let address = self.scratch(purpose, size_of_val(values));
        self.write(address, values);
        address
    }

    /// Lets a kernel use so much dynamic shared memory.
    pub fn allow_shared(&self, kernel: &Kernel, bytes: u32) {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
        let function = self.0.functions[kernel.name];
        // SAFETY: the function belongs to the loaded module.
        #[allow(unsafe_code)]
        self.attempt(kernel.name, || {
            check(unsafe { sys::cuFuncSetAttribute(function, MOST, bytes as c_int) })
        });
    }

    /// Starts a kernel; a grid without blocks is nothing to do.
    pub fn launch(
        &self,
        kernel: &Kernel,
        grid: (usize, usize),
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) {
        let sizes: Vec<usize> = arguments.iter().map(|argument| argument.bytes).collect();
        assert_eq!(sizes, kernel.arguments, "arguments of {}", kernel.name);
        let limits = grid.0 <= i32::MAX as usize && grid.1 <= 65_535;
        assert!(limits, "{}: a grid of {grid:?}", kernel.name);
        if grid.0 == 0 || grid.1 == 0 {
            return;
        }
        let mut pointers: Vec<*mut c_void> = (arguments.iter())
            .map(|argument| (&raw const argument.words).cast_mut().cast())
            .collect();
        let function = self.0.functions[kernel.name];
        // SAFETY: the function belongs to the loaded module and takes arguments of these sizes (asserted; the table is
        // tested against the PTX); the driver copies them before it returns.
        #[allow(unsafe_code)]
        self.attempt(kernel.name, || {
            check(unsafe {
                sys::cuLaunchKernel(
                    function,
                    grid.0 as u32,
                    grid.1 as u32,
                    1,
                    threads,
                    1,
                    1,
                    shared,
                    self.0.stream,
                    pointers.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            })
        });
    }

    /// A call of the matrix library, in the order of the stream.
    pub fn with_blas(&self, what: &str, call: impl FnOnce() -> Result<(), String>) {
        self.attempt(what, call);
    }
}

/// Sizes in steps of an eighth, so that much the same sizes fit each other.
fn rounded(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(512);
    bytes.next_multiple_of(step)
}

fn new_memory(address: &mut Address, bytes: usize) -> Result<(), String> {
    // SAFETY: the context is current; the pointer is to a local of the caller.
    #[allow(unsafe_code)]
    check(unsafe { sys::cuMemAlloc_v2(address, bytes) })
}

/// Loads PTX, which the driver compiles for the card, or has compiled before.
fn module(text: &str) -> Result<sys::CUmodule, String> {
    let mut module: sys::CUmodule = std::ptr::null_mut();
    let text = CString::new(text).map_err(|_| "the kernels are no text".to_owned())?;
    // SAFETY: the context is current, the pointer is to a local, and the text ends with a zero.
    #[allow(unsafe_code)]
    check(unsafe { sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast()) })?;
    Ok(module)
}

fn function(module: sys::CUmodule, name: &str) -> Result<sys::CUfunction, String> {
    let mut function: sys::CUfunction = std::ptr::null_mut();
    let text = CString::new(name).map_err(|_| format!("kernel `{name}`"))?;
    // SAFETY: the module is loaded; pointers are to locals.
    #[allow(unsafe_code)]
    check(unsafe { sys::cuModuleGetFunction(&raw mut function, module, text.as_ptr()) })
        .map_err(|cause| format!("kernel `{name}`: {cause}"))?;
    Ok(function)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Inner {
    fn drop(&mut self) {
        let scratch = std::mem::take(&mut *lock(&self.scratch))
            .into_values()
            .map(|(address, _)| address);
        let spare = std::mem::take(&mut *lock(&self.spare))
            .into_values()
            .flatten();
        // SAFETY: nothing that uses the card is left; results are of no interest any more. Memory came from
        // `cuMemAlloc_v2` and nobody holds it. Functions go with the module they belong to.
        #[allow(unsafe_code)]
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            drop(self.blas.take());
            for address in scratch.chain(spare).filter(|address| *address != 0) {
                let _ = sys::cuMemFree_v2(address);
            }
            let _ = sys::cuStreamDestroy_v2(self.stream);
            for module in &self.modules {
                let _ = sys::cuModuleUnload(*module);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// An allocation; given back when it is dropped.
pub struct Memory {
    gpu: Gpu,
    pub address: Address,
    bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.gpu.give_back(self.address, self.bytes);
    }
}

/// Types of which every bit pattern is a value, without gaps.
pub trait Plain: Copy + Default + Send {}

impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for f32 {}
impl Plain for f64 {}

/// An argument of a kernel, as bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Argument {
    words: [u32; 10],
    bytes: usize,
}

impl Argument {
    /// A structure of 32-bit members.
    pub fn members<const N: usize>(members: [u32; N]) -> Self {
        let mut words = [0; 10];
        words[..N].copy_from_slice(&members);
        Self {
            words,
            bytes: 4 * N,
        }
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::members([value])
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::members([value.to_bits()])
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::members([value as u32, (value >> 32) as u32])
    }
}
