//! Runs `edgeway::fuzzing`'s target `forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("forwarded")(data);
});
