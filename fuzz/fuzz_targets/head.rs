//! Runs `edgeway::fuzzing`'s target `head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("head")(data);
});
