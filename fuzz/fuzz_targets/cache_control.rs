//! Runs `edgeway::fuzzing`'s target `cache_control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("cache_control")(data);
});
