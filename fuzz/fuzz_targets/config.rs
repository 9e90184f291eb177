//! Runs `edgeway::fuzzing`'s target `config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("config")(data);
});
