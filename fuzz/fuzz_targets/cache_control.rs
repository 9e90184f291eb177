//! Runs `edgeway::testkit::fuzzing`'s target `cache_control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::testkit::fuzzing::target("cache_control")(data);
});
