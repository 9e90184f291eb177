//! Runs `edgeway::fuzzing`'s target `path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("path")(data);
});
