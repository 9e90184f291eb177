//! Checks of the configuration: its problems, its listeners, certificates, admin listener and
//! memory.

use std::{
    fs, io,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
};

use chrono::Utc;
use edgeway_base::{listening, out::counted, private_file::if_there};
use edgeway_cli::foreground;
use edgeway_config::model::File;
use edgeway_gateway::{AdminSocket, Gateway, ListenAddress};

use super::{super::check::Checked, Findings};

/// Days before its end at which a certificate should have been renewed.
const RENEWED_BEFORE: i64 = 14;
const DAY: i64 = 24 * 60 * 60;

/// Reports the problems of the file. Returns false if it cannot be served.
pub(super) fn check(findings: &mut Findings, path: &Path, checked: &Checked) -> bool {
    const CHECK: &str = "configuration";
    let path = path.display();
    let (errors, warnings) = checked.problems();
    let remedy = format!("run `edgeway check -c {path}`, which shows each with its place");
    let first = checked.first_problem().unwrap_or_default();
    let count = |count, what| format!("{path}: {}; the first: {first}", counted(count, what));
    if errors > 0 || checked.gateway.is_none() {
        findings.error(CHECK, count(errors, "error"), remedy);
        findings.skipped(
            "surroundings",
            "listeners, certificates, backends and Redis of this file are not checked",
        );
        return false;
    }
    if warnings > 0 {
        findings.warning(CHECK, count(warnings, "warning"), remedy);
    } else {
        findings.ok(CHECK, format!("{path}: no problem"));
    }
    true
}

/// `running`: the process id of the running gateway.
pub(super) fn look(findings: &mut Findings, file: &File, gateway: &Gateway, running: Option<u32>) {
    for listener in &gateway.listeners {
        self::listener(findings, &listener.address, running);
        if let Some(tls) = &listener.tls {
            for (name, not_after) in tls.certificates.ends_of_validity() {
                certificate(findings, &name, not_after - Utc::now().timestamp());
            }
        }
    }
    admin(findings, gateway);
    memory(findings, file);
}

fn listener(findings: &mut Findings, address: &ListenAddress, running: Option<u32>) {
    const CHECK: &str = "listener";
    let address = match address {
        ListenAddress::Tcp(address) => *address,
        ListenAddress::All(port) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
        ListenAddress::Unix { .. } => return,
    };
    let port = address.port();
    match TcpListener::bind(address) {
        Ok(_) if running.is_some() && port != 0 => findings.warning(
            CHECK,
            format!("{address}: nothing listens there, although a gateway is running"),
            "run `edgeway reload` if the running gateway should serve this file",
        ),
        Ok(_) => findings.ok(CHECK, format!("{address}: free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match other(port, running) {
            None => findings.ok(CHECK, format!("{address}: in use by the gateway, as expected")),
            Some(other) if running.is_none() && other.starts_with("`edgeway`") => findings.warning(
                CHECK,
                format!("{address}: {other} listens there, and cannot be reached at `admin`"),
                "if it serves this file, nothing is wrong here; otherwise stop it, or write another address",
            ),
            Some(other) => findings.error(
                CHECK,
                format!("{address}: {other} listens there"),
                format!("find it with `ss -ltnp 'sport = :{port}'` and stop it, or write another address"),
            ),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => findings.warning(
            CHECK,
            format!("{address}: this user may not open a port below 1024"),
            "the systemd unit may; without it, run `setcap cap_net_bind_service=+ep` on the program",
        ),
        Err(error) => findings.error(
            CHECK,
            format!("{address}: {error}"),
            "write an address of this machine",
        ),
    }
}

/// Returns the program that listens on a port, unless it is the running gateway. It is named if this
/// user may see it.
fn other(port: u16, running: Option<u32>) -> Option<String> {
    let holders = listening::processes(&[port]).remove(&port);
    let holders = holders.unwrap_or_default();
    // The process id of a container is that of another program here, or of none.
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm"));
    let is_here = |pid| name(pid).is_ok_and(|name| name.trim_end() == "edgeway");
    let is_holder = |pid: u32| holders.iter().any(|own| own.pid.unsigned_abs() == pid);
    let is_own = |pid| holders.is_empty() || is_holder(pid) || !is_here(pid);
    if running.is_some_and(is_own) {
        return None;
    }
    let holder = foreground::holder(port);
    Some(holder.unwrap_or_else(|| "another program".to_owned()))
}

fn certificate(findings: &mut Findings, name: &str, seconds_left: i64) {
    const CHECK: &str = "certificate";
    let days = seconds_left / DAY;
    if seconds_left <= 0 {
        findings.error(
            CHECK,
            format!("`{name}` has expired"),
            "renew it; the gateway reads a changed file by itself",
        );
    } else if days < RENEWED_BEFORE {
        findings.warning(
            CHECK,
            format!("`{name}` expires in {}", counted(days, "day")),
            "look why it was not renewed; the gateway reads a changed file by itself",
        );
    } else {
        findings.ok(CHECK, format!("`{name}` is valid for {days} days"));
    }
}

fn admin(findings: &mut Findings, gateway: &Gateway) {
    const CHECK: &str = "admin listener";
    let admin = &gateway.admin;
    match admin.address {
        // Without a token such an address is an error of the configuration.
        Some(address) if !address.ip().is_loopback() => findings.warning(
            CHECK,
            format!(
                "{address} can be reached from outside; the token crosses the network in clear text"
            ),
            "let only the networks of operators and Prometheus reach it, or write `address: off`",
        ),
        Some(address) if admin.token.is_none() => findings.ok(
            CHECK,
            format!("{address} without a token: /metrics, /healthz and /readyz only"),
        ),
        Some(address) => findings.ok(CHECK, format!("{address} with a token")),
        None if admin.socket == AdminSocket::Off => findings.warning(
            CHECK,
            "neither an address nor a socket: no command reaches the gateway",
            "leave out `admin: { socket: off }`",
        ),
        None => findings.ok(CHECK, "on its socket only"),
    }
}

/// The store of responses fits into the memory of the machine or the container.
fn memory(findings: &mut Findings, file: &File) {
    const CHECK: &str = "memory";
    let Some(cache) = &file.cache else {
        return;
    };
    let wanted = cache.value.memory.value.0;
    let available = match memory_limit(Path::new("/")) {
        Ok(available) => available,
        Err(why) => {
            findings.skipped(CHECK, why);
            return;
        }
    };
    let (wanted_mib, available_mib) = (wanted >> 20, available >> 20);
    let message = format!("cache: {wanted_mib} MiB of {available_mib} MiB");
    if wanted > available / 2 {
        findings.warning(
            CHECK,
            message,
            "leave at least half for connections, apps and the kernel: write a smaller `cache: { memory }`",
        );
    } else {
        findings.ok(CHECK, message);
    }
}

/// Returns the bytes of memory of the container or, without a limit, of the machine.
fn memory_limit(root: &Path) -> Result<u64, String> {
    let read = |name: &str| {
        let read = if_there(fs::read_to_string(root.join(name)));
        read.map_err(|error| format!("cannot read /{name}: {error}"))
    };
    let info = read("proc/meminfo")?.unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.split_whitespace().next()?.parse::<u64>().ok());
    let machine = kib.ok_or("/proc/meminfo has no `MemTotal`")? << 10;
    // `max` is no limit, and the file is in containers only.
    let group = read("sys/fs/cgroup/memory.max")?.unwrap_or_else(|| "max".to_owned());
    match group.trim() {
        "max" => Ok(machine),
        limit => match limit.parse::<u64>() {
            Ok(limit) => Ok(limit.min(machine)),
            Err(error) => Err(format!("/sys/fs/cgroup/memory.max is `{limit}`: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_certificate_is_judged_by_the_days_left() {
        let mut findings = Findings::default();
        for seconds in [-1, 3 * DAY, 60 * DAY] {
            certificate(&mut findings, "shop.test", seconds);
        }
        let levels: Vec<_> = findings.0.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Error, Level::Warning, Level::Ok]);
    }

    #[test]
    fn memory_is_that_of_the_container_or_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let limit = || memory_limit(folder.path());
        assert!(limit().unwrap_err().contains("MemTotal"));
        fs::create_dir_all(folder.path().join("proc")).unwrap();
        fs::create_dir_all(folder.path().join("sys/fs/cgroup")).unwrap();
        fs::write(folder.path().join("proc/meminfo"), "MemTotal:  2048 kB\n").unwrap();
        assert_eq!(limit(), Ok(2 << 20));
        let group = folder.path().join("sys/fs/cgroup/memory.max");
        for (text, expected) in [("max\n", 2 << 20), ("1048576\n", 1 << 20)] {
            fs::write(&group, text).unwrap();
            assert_eq!(limit(), Ok(expected));
        }
        fs::write(&group, "much").unwrap();
        assert!(limit().unwrap_err().contains("`much`"));
    }

    #[test]
    fn a_port_in_use_is_an_error_unless_a_gateway_runs() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ListenAddress::Tcp(other.local_addr().unwrap());
        let mut findings = Findings::default();
        let own = Some(std::process::id());
        for running in [None, own] {
            listener(&mut findings, &address, running);
        }
        let name = format!("(process {}) listens there", std::process::id());
        assert!(
            findings.0[0].message.contains(&name),
            "{}",
            findings.0[0].message
        );
        // A port that is let go may be taken by another test at once, or still be open in a program
        // that one starts: nobody has this one.
        let free = SocketAddr::from(([127, 77, 1, 3], other.local_addr().unwrap().port()));
        let free = ListenAddress::Tcp(free);
        for running in [None, own] {
            listener(&mut findings, &free, running);
        }
        let levels: Vec<_> = findings.0.iter().map(|finding| finding.level).collect();
        let expected = [Level::Error, Level::Ok, Level::Ok, Level::Warning];
        assert_eq!(levels, expected);
    }
}
