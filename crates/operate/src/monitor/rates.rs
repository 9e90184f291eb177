//! Use and rates between two samples, as JSON.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::as_number;
use super::machine::{Process, Sample};

/// Processes that are listed: those that use the most CPU, and then the most memory.
const PROCESSES: usize = 5;

/// Returns the sections of a line: the state now, with use and rates since `before`.
pub(super) fn since(
    now: &Sample,
    before: &Sample,
) -> impl Iterator<Item = (String, Value)> + use<> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let sections = [
        ("cpu", cpu(now, before)),
        ("mem", memory(now)),
        ("disk", disks(now, before, seconds)),
        ("net", network(now, before, seconds)),
        ("procs", processes(now, before)),
    ];
    let sections = sections.into_iter();
    sections.map(|(name, value)| (name.to_owned(), value))
}

fn cpu(now: &Sample, before: &Sample) -> Value {
    let (cpu, then) = (now.cpu, before.cpu);
    let total = cpu.total.saturating_sub(then.total);
    let part = |now: u64, then: u64| share(now.saturating_sub(then), total);
    let idle = cpu.idle.saturating_sub(then.idle);
    json!({
        "busy": share(total.saturating_sub(idle), total),
        "waiting": part(cpu.waiting, then.waiting),
        "stolen": part(cpu.stolen, then.stolen),
        "cores": cpu.cores,
        "load": now.load.map(|load| rounded(f64::from(load))),
    })
}

fn memory(now: &Sample) -> Value {
    let memory = now.memory;
    json!({
        "used": share(memory.total.saturating_sub(memory.available), memory.total),
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "swap_total_bytes": memory.swap_total,
        "swap_used_bytes": memory.swap_total.saturating_sub(memory.swap_free),
    })
}

fn disks(now: &Sample, before: &Sample, seconds: f64) -> Value {
    let (mut read, mut written, mut busiest) = (0, 0, 0.0_f64);
    for (name, disk) in &now.disks {
        let then = before.disks.get(name).unwrap_or(disk);
        read += disk.read.saturating_sub(then.read);
        written += disk.written.saturating_sub(then.written);
        let busy = as_number(disk.busy_ms.saturating_sub(then.busy_ms)) / 1000.0 / seconds;
        busiest = busiest.max(busy.min(1.0));
    }
    let mounts = now.mounts.iter().map(|mount| {
        json!({
            "path": mount.path.to_string_lossy(),
            // As `df` does: without the blocks that only root may take.
            "used": share(mount.used, mount.used + mount.free),
            "total_bytes": mount.total,
            "free_bytes": mount.free,
            "inodes_used": share(mount.inodes.saturating_sub(mount.free_inodes), mount.inodes),
        })
    });
    json!({
        "mounts": mounts.collect::<Vec<_>>(),
        "read_bytes_per_second": rate(read, seconds),
        "write_bytes_per_second": rate(written, seconds),
        "busy": rounded(busiest),
    })
}

fn network(now: &Sample, before: &Sample, seconds: f64) -> Value {
    let (network, then) = (now.network, before.network);
    let rate = |now: u64, then: u64| rate(now.saturating_sub(then), seconds);
    json!({
        "connections": network.established,
        "time_wait": network.time_wait,
        "receive_bytes_per_second": rate(network.received, then.received),
        "send_bytes_per_second": rate(network.sent, then.sent),
        "errors_per_second": rate(network.errors, then.errors),
        "retransmits_per_second": rate(network.retransmitted, then.retransmitted),
    })
}

fn processes(now: &Sample, before: &Sample) -> Value {
    let elapsed = now.cpu.total.saturating_sub(before.cpu.total);
    // Ticks of one processor in the same time.
    let ticks = as_number(elapsed) / as_number(now.cpu.cores.max(1));
    let each = now.processes.iter().map(|(key, process)| {
        let then = before.processes.get(key).map_or(0, |then| then.ticks);
        (key.0, process, process.ticks.saturating_sub(then))
    });
    let mut busiest: Vec<(i32, &Process, u64)> = each.collect();
    busiest.sort_by_key(|(pid, process, used)| (Reverse((*used, process.memory)), *pid));
    let busiest = busiest.iter().take(PROCESSES).map(|(pid, process, used)| {
        json!({
            "pid": pid,
            "name": process.name,
            // 1.0 is one processor in full use.
            "cpu": rounded(as_number(*used) / ticks.max(1.0)),
            "memory_bytes": process.memory,
        })
    });
    let threads: u64 = now.processes.values().map(|process| process.threads).sum();
    json!({
        "total": now.processes.len(),
        "threads": threads,
        "running": now.running,
        "blocked": now.blocked,
        "busiest": busiest.collect::<Vec<_>>(),
    })
}

/// Returns a share of one, with three digits.
fn share(part: u64, all: u64) -> f64 {
    rounded(as_number(part) / as_number(all.max(1)))
}

fn rounded(share: f64) -> f64 {
    (share * 1000.0).round() / 1000.0
}

fn rate(count: u64, seconds: f64) -> f64 {
    (as_number(count) / seconds).round()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{
        super::machine::{Cpu, Disk, Memory, Network},
        *,
    };
    use edgeway_base::clock::Clock;

    fn sample(clock: &Clock) -> Sample {
        Sample {
            at: clock.now(),
            cpu: Cpu {
                total: 1000,
                idle: 900,
                waiting: 10,
                stolen: 0,
                cores: 2,
            },
            load: [0.5, 0.25, 0.1],
            memory: Memory {
                total: 4000,
                available: 1000,
                swap_total: 0,
                swap_free: 0,
            },
            mounts: Vec::new(),
            disks: BTreeMap::new(),
            network: Network::default(),
            running: 1,
            blocked: 0,
            processes: BTreeMap::new(),
        }
    }

    fn process(name: &str, ticks: u64) -> Process {
        Process {
            name: name.to_owned(),
            ticks,
            memory: 4096,
            threads: 2,
        }
    }

    #[test]
    fn use_and_rates_are_differences_of_two_samples() {
        let clock = Clock::test();
        let mut before = sample(&clock);
        before.processes.insert((7, 1), process("node", 100));
        before.processes.insert((8, 1), process("old", 5000));
        let disk = Disk::default();
        before.disks.insert("sda".into(), disk);
        clock.advance(Duration::from_secs(2));
        let mut now = sample(&clock);
        // 400 ticks in all, of which 100 idle: each of two processors had 200.
        now.cpu.total += 400;
        now.cpu.idle += 100;
        now.cpu.waiting += 20;
        now.processes.insert((7, 1), process("node", 250));
        // Another process under the number of one that ended.
        now.processes.insert((8, 9), process("new", 50));
        now.disks.insert(
            "sda".into(),
            Disk {
                read: 2_000,
                written: 8_000,
                busy_ms: 500,
            },
        );
        // A disk that was plugged in meanwhile has read nothing yet that counts.
        now.disks.insert("sdb".into(), Disk { read: 9, ..disk });
        now.network.received = 3_000;
        now.network.established = 4;
        let line: BTreeMap<String, Value> = since(&now, &before).collect();
        assert_eq!(
            (&line["cpu"]["busy"], &line["cpu"]["waiting"]),
            (&json!(0.75), &json!(0.05))
        );
        assert_eq!(line["mem"]["used"], 0.75);
        let disk = &line["disk"];
        assert_eq!(disk["read_bytes_per_second"], 1000.0);
        assert_eq!(disk["write_bytes_per_second"], 4000.0);
        assert_eq!(disk["busy"], 0.25);
        assert_eq!(line["net"]["receive_bytes_per_second"], 1500.0);
        assert_eq!(line["net"]["connections"], 4);
        let procs = &line["procs"];
        assert_eq!((&procs["total"], &procs["threads"]), (&json!(2), &json!(4)));
        assert_eq!(procs["busiest"][0]["name"], "node");
        assert_eq!(procs["busiest"][0]["cpu"], 0.75);
        assert_eq!(procs["busiest"][1]["cpu"], 0.25);
    }

    #[test]
    fn this_machine_can_be_measured() {
        let clock = Clock::test();
        let before = Sample::take(clock.now()).unwrap();
        clock.advance(Duration::from_secs(1));
        let now = Sample::take(clock.now()).unwrap();
        let line: BTreeMap<String, Value> = since(&now, &before).collect();
        let used = line["mem"]["used"].as_f64().unwrap();
        assert!(used > 0.0 && used < 1.0, "{used}");
        assert!(line["procs"]["total"].as_u64().unwrap() > 1);
    }
}
