//! Runs `edgeway::testkit::fuzzing`'s target `coded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::testkit::fuzzing::target("coded")(data);
});
