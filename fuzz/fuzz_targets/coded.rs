//! Runs `edgeway::fuzzing`'s target `coded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("coded")(data);
});
