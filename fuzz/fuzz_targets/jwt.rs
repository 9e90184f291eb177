//! Runs `edgeway::testkit::fuzzing`'s target `jwt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::testkit::fuzzing::target("jwt")(data);
});
