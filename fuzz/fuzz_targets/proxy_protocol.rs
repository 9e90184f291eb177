//! Runs `edgeway::testkit::fuzzing`'s target `proxy_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::testkit::fuzzing::target("proxy_protocol")(data);
});
