//! Runs `edgeway::testkit::fuzzing`'s target `head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::testkit::fuzzing::target("head")(data);
});
