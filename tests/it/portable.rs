//! Calls that Linux alone has: in modules with a portable twin only (`--cfg edgeway_portable`).

use std::{fs, path::Path};

/// Modules with a twin. Only their parents choose between the two.
const CHOOSING: [&str; 2] = [
    "crates/base/src/system/mod.rs",
    "crates/operate/src/monitor/machine/mod.rs",
];

/// Names that do not exist on macOS.
const OF_LINUX: [&str; 15] = [
    "procfs::",
    "memfd_create",
    "fcntl_add_seals",
    "fallocate(",
    "fdatasync(",
    "fadvise(",
    "preadv2",
    "sendfile(",
    "openat2(",
    "OFlags::PATH",
    "SendFlags::MORE",
    "pipe_with",
    "pidfd_",
    "gettid(",
    "TCP_DEFER_ACCEPT,",
];

#[test]
fn only_modules_with_a_portable_twin_use_what_linux_alone_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let sources = glob::glob(&format!("{}/**/src/**/*.rs", root.display())).unwrap();
    for path in sources.flatten() {
        let name = path.strip_prefix(root).unwrap().to_string_lossy();
        let is_product = name.starts_with("src/") || name.starts_with("crates/");
        if !is_product || name.contains("/tests") || name.contains("/linux") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim().starts_with("//"));
        let code = lines.collect::<Vec<_>>().join("\n");
        let uses = OF_LINUX.iter().filter(|word| code.contains(**word));
        found.extend(uses.map(|word| format!("{name}: {word}")));
        if code.contains("edgeway_portable") && !CHOOSING.contains(&&*name) {
            found.push(format!("{name}: chooses"));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[cfg(edgeway_portable)]
#[test]
fn commands_that_need_linux_say_so() {
    for command in [
        &["upgrade"][..],
        &["monitor"],
        &["scale", "web", "2"],
        &["resume", "web"],
    ] {
        let ran = crate::cli::edgeway(command);
        assert_eq!(ran.status, 1, "{command:?}: {}", ran.stderr);
        let expected = format!("edgeway: `edgeway {}` needs Linux\n", command[0]);
        assert_eq!(ran.stderr, expected, "{command:?}");
    }
}
