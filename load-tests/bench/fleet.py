"""Processes started for a measurement: their CPUs, their CPU time, and their termination."""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ORIGIN_CPU = 0
PROXY_CPU = 1
PR_SET_PDEATHSIG = 1
TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)


class MeasurementError(Exception):
    """An error that stops the measurement; the message is for the user."""


class Fleet:
    """Starts processes on their CPUs, and stops all of them at the end, also after an error."""

    def __init__(self) -> None:
        if not {ORIGIN_CPU, PROXY_CPU} <= os.sched_getaffinity(0):
            raise MeasurementError(
                "CPUs 0 and 1 are required: one for the proxy, one for everything else")
        self._started: list[subprocess.Popen] = []

    def __enter__(self) -> "Fleet":
        # Readable by others: Debian's nginx, started by root, runs its workers as another user.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="edgeway-compare-"))
        self.folder.chmod(0o755)
        return self

    def __exit__(self, *_) -> None:
        for process in list(self._started):
            self.stop(process, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, command: list[str], cpu: int | set[int], env: dict[str, str] | None = None,
              log: str = "output") -> subprocess.Popen:
        """Starts a process on one CPU, or on any of a set."""
        cpus = {cpu} if isinstance(cpu, int) else cpu

        def prepare() -> None:
            # Ends with this process, even if that is killed before it can clean up.
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.sched_setaffinity(0, cpus)

        with open(self.folder / f"{log}.log", "ab") as sink:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=self.folder,
                env={**os.environ, **(env or {})}, start_new_session=True, preexec_fn=prepare)
        self._started.append(process)
        return process

    def stop(self, process: subprocess.Popen, sign: signal.Signals, wait: float = 20.0) -> None:
        """Stops a process; kills its process group if it does not end in time."""
        if process.poll() is None:
            process.send_signal(sign)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        if process in self._started:
            self._started.remove(process)

    def tail(self, log: str) -> str:
        path = self.folder / f"{log}.log"
        return path.read_text(errors="replace")[-1500:] if path.exists() else ""

    def wait_for(self, process: subprocess.Popen, port: int, name: str, seconds: float) -> None:
        """Waits until a process listens on its port."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise MeasurementError(
                    f"{name} exited with status {process.returncode}:\n{self.tail(name)}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise MeasurementError(f"{name} did not listen within {seconds:.0f} s:\n{self.tail(name)}")


def free_ports(count: int) -> list[int]:
    """Returns different loopback ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def tree(pid: int) -> list[int]:
    """Returns the ids of a process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(entry)[1])
            except (OSError, IndexError, ValueError):
                continue  # The process has ended.
    found = [pid]
    for each in found:
        found.extend(child for child, parent in parents.items() if parent == each)
    return found


def cpu_time(pids: list[int]) -> tuple[dict[str, int], int]:
    """Returns CPU time in nanoseconds: by thread from the scheduler, and in total from ticks.

    Only the total includes threads that have ended, so both are needed.
    """
    threads: dict[str, int] = {}
    ticks = 0
    for pid in pids:
        process = pathlib.Path(f"/proc/{pid}")
        try:
            fields = _stat(process)
            ticks += int(fields[11]) + int(fields[12])
            for task in (process / "task").iterdir():
                schedstat = task / "schedstat"
                if schedstat.exists():
                    threads[f"{pid}/{task.name}"] = int(schedstat.read_text().split()[0])
        except OSError:
            continue
    return threads, ticks * 1_000_000_000 // TICKS


def cpu_between(before: tuple[dict[str, int], int], after: tuple[dict[str, int], int]) -> int:
    """Returns the CPU time in nanoseconds between two results of `cpu_time`."""
    threads_before, ticks_before = before
    threads_after, ticks_after = after
    if not threads_after or threads_before.keys() - threads_after.keys():
        return ticks_after - ticks_before
    return sum(threads_after.values()) - sum(threads_before.values())


def busy(cpu: int) -> int:
    """Returns the nanoseconds since boot in which a CPU was not idle."""
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        fields = line.split()
        if fields[0] == f"cpu{cpu}":
            user, nice, system, _idle, _wait, irq, soft = (int(field) for field in fields[1:8])
            return (user + nice + system + irq + soft) * 1_000_000_000 // TICKS
    return 0


def _stat(process: pathlib.Path) -> list[str]:
    """Returns the fields of /proc/PID/stat after the name, which can contain spaces."""
    return (process / "stat").read_text().rpartition(")")[2].split()
