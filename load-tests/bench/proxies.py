"""The origin and the proxies: how each is started, and the response headers it must send."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import urllib.request
from random import Random

from .fleet import ORIGIN_CPU, PROXY_CPU, Fleet, MeasurementError, free_ports
from .workloads import NAME, Workload, request

HERE = pathlib.Path(__file__).resolve().parent.parent

# Headers that Edgeway adds to each response over plain HTTP; nginx must add them too.
FRONT_HEADERS = (
    "x-request-id", "content-security-policy", "cross-origin-opener-policy",
    "cross-origin-resource-policy", "origin-agent-cluster", "referrer-policy",
    "x-content-type-options", "x-dns-prefetch-control", "x-download-options",
    "x-frame-options", "x-permitted-cross-domain-policies", "x-xss-protection",
)


@dataclasses.dataclass
class Settings:
    """Command line options of the proxies."""

    edgeway: pathlib.Path
    bare: pathlib.Path
    config: pathlib.Path
    fleet: Fleet

    @property
    def cert(self) -> pathlib.Path:
        return self.fleet.folder / "site.pem"

    @property
    def key(self) -> pathlib.Path:
        return self.fleet.folder / "site.key"

    def make_certificate(self) -> None:
        """Creates the certificate of all proxies: P-256, as most sites have."""
        output(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", f"/CN={NAME}",
                "-addext", f"subjectAltName=DNS:{NAME}",
                # The origin has it too, and a proxy may refuse one of a CA there.
                "-addext", "basicConstraints=critical,CA:FALSE",
                "-out", str(self.cert), "-keyout", str(self.key)])
        # nginx, started by root, reads it as another user would.
        need_file(self.key)


def nginx_conf(settings: Settings, template: str, name: str, **values: str) -> pathlib.Path:
    """Writes an nginx configuration with its folder and ports filled in."""
    folder = settings.fleet.folder / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    text = (HERE / template).read_text()
    for key, value in {"FOLDER": str(folder), **values}.items():
        text = text.replace(f"@{key}@", value)
    conf = folder / "nginx.conf"
    conf.write_text(text)
    return conf


class Origin:
    """nginx that responds from memory, on the CPU of the load generator."""

    def __init__(self, settings: Settings) -> None:
        self.port, self.tls_port = free_ports(2)
        conf = nginx_conf(settings, "origin.nginx.conf", "origin", PORT=str(self.port),
                          TLSPORT=str(self.tls_port), CERT=str(settings.cert),
                          KEY=str(settings.key),
                          FILES=str(settings.fleet.folder / "files"),
                          B1K="a" * 1024, B2K="b" * 2048, B64K="$b2k" * 32)
        # Without an ending, so that neither proxy compresses them.
        files = settings.fleet.folder / "files"
        files.mkdir(exist_ok=True)
        (files / "f1k").write_bytes(b"a" * 1024)
        (files / "f1m").write_bytes(b"b" * 1048576)
        (files / "j32k").write_bytes(listing(32768))
        process = settings.fleet.start(
            ["nginx", "-c", str(conf), "-p", str(conf.parent)], ORIGIN_CPU, log="origin")
        settings.fleet.wait_for(process, self.port, "origin", 10)


def listing(size: int) -> bytes:
    """Returns the beginning of a list of products, as JSON; the same each time."""
    random = Random(7)
    words = "river stone cloud paper orange window garden silver music bridge forest".split()
    products = ""
    while len(products) < size:
        products += json.dumps({
            "id": random.randrange(10**6), "name": " ".join(random.choices(words, k=3)).title(),
            "price": random.randrange(100, 100000) / 100, "stock": random.random() < 0.8,
            "image": f"/images/{random.getrandbits(64):016x}.webp",
            "tags": random.sample(words, 3)}, separators=(",", ":")) + ","
    return products[:size].encode()


class Proxy:
    """A proxy to measure. `start` may be called again after `stop`."""

    name = ""
    stop_signal = signal.SIGTERM
    headers: tuple[str, ...] = ()

    def __init__(self, settings: Settings, origin: Origin) -> None:
        self.settings = settings
        self.fleet = settings.fleet
        self.origin = origin
        self.port, self.tls_port = free_ports(2)
        self.process: subprocess.Popen | None = None

    def port_for(self, workload: Workload) -> int:
        return self.tls_port if workload.tls else self.port

    def command(self, alone: bool) -> list[str]:
        """Returns the command line; `alone` means one process, for the instruction counter."""
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        return {}

    def version(self) -> str:
        raise NotImplementedError

    def start(self, under: list[str] | None = None) -> None:
        self.process = self.fleet.start(
            [*(under or []), *self.command(alone=under is not None)],
            PROXY_CPU, self.env(), log=self.name)
        for port in (self.port, self.tls_port):
            self.fleet.wait_for(self.process, port, self.name, 120 if under else 15)

    def stop(self) -> None:
        if self.process:
            self.fleet.stop(self.process, self.stop_signal)
            self.process = None

    def verify(self, workload: Workload) -> None:
        """Sends one request, and raises an error if the response lacks a header."""
        head = request(self.port_for(workload), workload, 1, self.settings.cert)
        head = head.decode("latin-1").lower()
        names = {line.partition(":")[0] for line in head.split("\r\n")[1:]}
        missing = [name for name in self.headers if name not in names]
        if missing:
            raise MeasurementError(f"{self.name} does not send {', '.join(missing)}")


class Edgeway(Proxy):
    name = "edgeway"
    headers = FRONT_HEADERS

    def __init__(self, settings: Settings, origin: Origin) -> None:
        super().__init__(settings, origin)
        need(settings.edgeway, "cargo build --release --features jemalloc")
        (self.admin,) = free_ports(1)

    def command(self, alone: bool) -> list[str]:
        return [str(self.settings.edgeway.resolve()), "run",
                "-c", str(self.settings.config.resolve()), "--threads", "1"]

    def env(self) -> dict[str, str]:
        return {
            "BENCH_LISTEN": f"127.0.0.1:{self.port}",
            "BENCH_TLS_LISTEN": f"127.0.0.1:{self.tls_port}",
            "BENCH_CERT": str(self.settings.cert),
            "BENCH_KEY": str(self.settings.key),
            "BENCH_ORIGIN": f"127.0.0.1:{self.origin.port}",
            "BENCH_SECURE_ORIGIN": f"127.0.0.1:{self.origin.tls_port}",
            "BENCH_ADMIN": f"127.0.0.1:{self.admin}",
            "BENCH_FILES": str(self.fleet.folder / "files"),
            "BENCH_LOG": str(self.fleet.folder / "edgeway-access.log"),
        }

    def verify(self, workload: Workload) -> None:
        """Checks also that exactly the plugin hooks of the workload have run."""
        before = self.calls()
        super().verify(workload)
        ran = self.calls() - before
        if ran != workload.hooks:
            raise MeasurementError(
                f"{self.name} ran {ran} plugin hooks instead of {workload.hooks}")

    def calls(self) -> int:
        """Returns the number of plugin hooks that have run without a failure."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        count = {"edgeway_plugin_calls_total": 1, "edgeway_plugin_failures_total": -1}
        return sum(count.get(line.partition("{")[0], 0) * int(float(line.rpartition(" ")[2]))
                   for line in lines if not line.startswith("#"))

    def version(self) -> str:
        return output([str(self.settings.edgeway.resolve()), "--version"])


class TracedEdgeway(Edgeway):
    """Edgeway that exports one trace in a hundred, the default, to a collector that is gone."""

    name = "edgeway-traced"

    def command(self, alone: bool) -> list[str]:
        config = self.settings.config.resolve()
        text = config.read_text().replace("file: plugins/", f"file: {config.parent}/plugins/")
        (collector,) = free_ports(1)
        traced = self.fleet.folder / "traced.yaml"
        traced.write_text(f"{text}\ntracing: {{ endpoint: \"http://127.0.0.1:{collector}\" }}\n")
        return [str(self.settings.edgeway.resolve()), "run", "-c", str(traced), "--threads", "1"]


class Bare(Proxy):
    name = "bare"
    # SIGTERM would wait for Pingora's grace period of minutes.
    stop_signal = signal.SIGINT

    def __init__(self, settings: Settings, origin: Origin) -> None:
        super().__init__(settings, origin)
        need(settings.bare, "cargo build --release --features jemalloc --example bare")

    def command(self, alone: bool) -> list[str]:
        return [str(self.settings.bare.resolve()), f"127.0.0.1:{self.port}",
                f"127.0.0.1:{self.origin.port}", f"127.0.0.1:{self.tls_port}",
                str(self.settings.cert), str(self.settings.key)]

    def version(self) -> str:
        return "examples/bare.rs"


class Nginx(Proxy):
    """nginx with the features of Edgeway: request ids, headers, access log."""

    name = "nginx"
    headers = FRONT_HEADERS
    template = "front.nginx.conf"

    def command(self, alone: bool) -> list[str]:
        conf = nginx_conf(self.settings, self.template, self.name, PORT=str(self.port),
                          ORIGIN=f"127.0.0.1:{self.origin.port}",
                          SECUREORIGIN=f"127.0.0.1:{self.origin.tls_port}",
                          TLSPORT=str(self.tls_port),
                          CERT=str(self.settings.cert), KEY=str(self.settings.key),
                          FILES=str(self.fleet.folder / "files"),
                          MASTER="off" if alone else "on")
        return ["nginx", "-c", str(conf), "-p", str(conf.parent)]

    def version(self) -> str:
        return output(["nginx", "-v"])


class PlainNginx(Nginx):
    """nginx that only proxies, as bare Pingora does."""

    name = "nginx-plain"
    headers = ()
    template = "plain.nginx.conf"


class HAProxy(Proxy):
    """HAProxy with the same features as `nginx`. It has no files."""

    name = "haproxy"
    headers = FRONT_HEADERS

    def command(self, alone: bool) -> list[str]:
        folder = self.fleet.folder
        pem = folder / "site-and-key.pem"
        pem.write_text(self.settings.cert.read_text() + self.settings.key.read_text())
        text = (HERE / "front.haproxy.cfg").read_text()
        values = {"PORT": self.port, "TLSPORT": self.tls_port, "PEM": pem,
                  "CERT": self.settings.cert, "ORIGIN": self.origin.port,
                  "SECUREORIGIN": self.origin.tls_port}
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        config = folder / "haproxy.cfg"
        config.write_text(text)
        return ["haproxy", "-db", "-f", str(config)]

    def version(self) -> str:
        return output(["haproxy", "-v"]).splitlines()[0]


PROXIES = {kind.name: kind
           for kind in (Edgeway, TracedEdgeway, Bare, Nginx, PlainNginx, HAProxy)}


def need(binary: pathlib.Path, command: str) -> None:
    if not os.access(binary, os.X_OK):
        raise MeasurementError(f"no program at {binary}: build it with `{command}`")


def need_file(path: pathlib.Path) -> None:
    if not path.exists():
        raise MeasurementError(f"cannot create {path.name}: check that openssl is installed")


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr).strip()
