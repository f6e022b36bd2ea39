//! Instruction sets that kernels are compiled for, chosen at run time.
//!
//! Every kernel adds in the same order whatever the set and uses fused multiplication and addition everywhere, so that
//! all sets give the same bits; what differs is speed.

use std::sync::atomic::{AtomicU8, Ordering};

/// What a kernel may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of this architecture has.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, VL and DQ.
    Avx512,
}

impl Isa {
    /// Name in checkpoints and in `KBUILD_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Sets that this processor has, the best last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            all.extend(avx2.then_some(Self::Avx2));
            all.extend((avx2 && avx512).then_some(Self::Avx512));
        }
        all
    }

    /// The set that this process uses: the best, or the one that the environment variable `KBUILD_ISA` names if the
    /// processor has it.
    pub fn chosen() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            0 => Self::choose(),
            1 => Self::Portable,
            2 => Self::Avx2,
            _ => Self::Avx512,
        }
    }

    #[cold]
    fn choose() -> Self {
        let available = Self::available();
        let wanted = std::env::var("KBUILD_ISA").ok();
        let named = (available.iter()).find(|isa| Some(isa.name()) == wanted.as_deref());
        let chosen = *named.or(available.last()).unwrap_or(&Self::Portable);
        chosen.use_from_now();
        chosen
    }

    /// Makes this the set of the process. One that the processor has not is refused.
    fn use_from_now(self) {
        assert!(
            Self::available().contains(&self),
            "{self:?} on another processor"
        );
        CHOSEN.store(self as u8 + 1, Ordering::Relaxed);
    }

    /// Runs work with another set; other threads may see it too, and get the same bits.
    #[cfg(test)]
    pub fn with<R>(self, work: impl FnOnce() -> R) -> R {
        let before = Self::chosen();
        self.use_from_now();
        let result = work();
        before.use_from_now();
        result
    }
}

/// 0 until the first question, then one more than the number of the set.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// Compiles functions once for every instruction set; which one runs is chosen at each call. No closures inside: they
/// would lose the features of the function around them.
macro_rules! kernels {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $type),*) $(-> $result)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $type),*) $(-> $result)? {
                body($($arg),*)
            }

            match $crate::model::cpu::isa::Isa::chosen() {
                // SAFETY: the processor was asked before the set was chosen.
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                $crate::model::cpu::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                $crate::model::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    )*};
}
pub(super) use kernels;
