//! Runs `edgeway::fuzzing`'s target `proxy_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edgeway::fuzzing::target("proxy_protocol")(data);
});
