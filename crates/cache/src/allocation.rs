//! Sizes of allocations, by which everything in memory is counted.

/// Returns the bytes that the allocator takes for an allocation of `len` bytes. jemalloc has four
/// sizes between two powers of two, and multiples of 16 up to 128. For other allocators this is an
/// estimate.
pub(crate) const fn allocated(len: usize) -> usize {
    if len == 0 {
        return 0;
    }
    if len <= 128 {
        return len.next_multiple_of(16);
    }
    len.next_multiple_of(1 << ((len - 1).ilog2() - 2))
}

/// Returns the largest allocator size that is no more than `len`, which is above 128.
pub(crate) const fn size_below(len: usize) -> usize {
    let step = 1 << (len.ilog2() - 2);
    len / step * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_allocator() {
        for (len, size) in [
            (0, 0),
            (1, 16),
            (16, 16),
            (17, 32),
            (129, 160),
            (160, 160),
            (161, 192),
            (256, 256),
            (257, 320),
            (1025, 1280),
            (65_536, 65_536),
            (65_537, 81_920),
            (400_000, 458_752),
        ] {
            assert_eq!(allocated(len), size, "{len}");
        }
        assert_eq!(size_below(137_856), 131_072);
        assert_eq!(size_below(65_536), 65_536);
        assert_eq!(size_below(458_751), 393_216);
    }
}
