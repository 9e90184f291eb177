//! Runs `edgeway::testkit::fuzzing`'s target `path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::testkit::fuzzing::target("path")(data);
});
