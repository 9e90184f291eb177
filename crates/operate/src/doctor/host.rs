//! Checks of the machine: limits of the process and settings of the kernel.

use std::{fs, path::Path};

use edgeway_status::Snapshot;
use rustix::process::{Resource, getrlimit};

use super::Findings;

/// Open files that a gateway with ten thousand clients needs: two for each.
const MIN_FILES: u64 = 20_000;
/// Connections that wait for `accept`; the gateway asks for more, and the kernel caps them here.
const MIN_BACKLOG: u64 = 1024;
/// Local ports for connections to backends; the default of Linux has 28,232.
const MIN_PORTS: u64 = 20_000;
const SYSCTL: &str = "/proc/sys/net";

pub(super) fn check(findings: &mut Findings, running: Option<&Snapshot>) {
    let of_gateway = running.and_then(|snapshot| snapshot.process.max_descriptors);
    // It raises its own limit to the maximum, which counts where none runs.
    let of_user = getrlimit(Resource::Nofile).maximum;
    open_files(findings, of_gateway.or(of_user));
    backlog(findings, Path::new(SYSCTL));
    local_ports(findings, Path::new(SYSCTL));
}

fn open_files(findings: &mut Findings, maximum: Option<u64>) {
    const CHECK: &str = "open files";
    match maximum {
        Some(maximum) if maximum < MIN_FILES => findings.warning(
            CHECK,
            format!(
                "at most {maximum} for the gateway: each client and each backend connection takes one"
            ),
            "write `LimitNOFILE=1048576` into the unit, or raise `ulimit -Hn`",
        ),
        Some(maximum) => findings.ok(CHECK, format!("at most {maximum}")),
        None => findings.ok(CHECK, "no limit"),
    }
}

fn backlog(findings: &mut Findings, folder: &Path) {
    const CHECK: &str = "backlog";
    match number(&folder.join("core/somaxconn")) {
        Some(most) if most < MIN_BACKLOG => findings.warning(
            CHECK,
            format!("net.core.somaxconn is {most}: a burst of clients beyond it is not accepted"),
            "run `sysctl -w net.core.somaxconn=4096`, and write it into /etc/sysctl.d/",
        ),
        Some(most) => findings.ok(CHECK, format!("net.core.somaxconn is {most}")),
        None => findings.skipped(CHECK, "net.core.somaxconn cannot be read here"),
    }
}

fn local_ports(findings: &mut Findings, folder: &Path) {
    const CHECK: &str = "local ports";
    let text = fs::read_to_string(folder.join("ipv4/ip_local_port_range"));
    let text = text.unwrap_or_default();
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        findings.skipped(CHECK, "net.ipv4.ip_local_port_range cannot be read here");
        return;
    };
    let count = (last + 1).saturating_sub(first);
    if count < MIN_PORTS {
        findings.warning(
            CHECK,
            format!("{first} to {last} are {count} ports: connections to one backend can use them up"),
            "run `sysctl -w net.ipv4.ip_local_port_range='10240 65535'`, and write it into /etc/sysctl.d/",
        );
    } else {
        findings.ok(CHECK, format!("{first} to {last}"));
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn levels(somaxconn: &str, range: &str) -> Vec<Level> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("core/somaxconn", somaxconn),
            ("ipv4/ip_local_port_range", range),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut findings = Findings::default();
        backlog(&mut findings, folder.path());
        local_ports(&mut findings, folder.path());
        findings.0.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn small_settings_of_the_kernel_are_warnings() {
        assert_eq!(levels("4096\n", "32768\t60999\n"), [Level::Ok; 2]);
        assert_eq!(levels("128\n", "60000\t60999\n"), [Level::Warning; 2]);
        assert_eq!(levels("", "1"), [Level::Skipped; 2]);
    }

    #[test]
    fn few_open_files_are_a_warning() {
        let mut findings = Findings::default();
        for maximum in [Some(1024), Some(1 << 20), None] {
            open_files(&mut findings, maximum);
        }
        let levels: Vec<_> = findings.0.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Warning, Level::Ok, Level::Ok]);
    }
}
