//! Runs `edgeway::testkit::fuzzing`'s target `stored_entry`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::testkit::fuzzing::target("stored_entry")(data);
});
