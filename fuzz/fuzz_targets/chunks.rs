//! Runs `edgeway::fuzzing`'s target `chunks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("chunks")(data);
});
