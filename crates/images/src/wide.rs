//! Work on many samples at once, compiled a second time for processors with wider registers.

/// Loop over samples. What it calls has to be inlined to be compiled for wider registers too.
pub(crate) trait Work {
    fn work(self);
}

/// Does the work, with AVX2 where the processor has it.
#[inline]
pub(crate) fn run(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { with_avx2(work) };
        return;
    }
    work.work();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2(work: impl Work) {
    work.work();
}
