//! Runs `edgeway::fuzzing`'s target `jwt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("jwt")(data);
});
