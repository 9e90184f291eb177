//! Runs `edgeway::fuzzing`'s target `host`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("host")(data);
});
