"""The measuring half of scripts/bench: runs each client in turn, in one network namespace whose
loopback device carries two addresses (Transmission ignores peers on 127.0.0.1), and prints
medians and ratios. CPU is what the kernel accounted to the processes."""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

SWELL = os.environ["SWELL"]
LOAD = os.path.join(os.path.dirname(SWELL), "examples", "load")
NS = f"swbench{os.getpid()}"
A, B = "10.79.0.1", "10.79.0.2"
TICK = os.sysconf("SC_CLK_TCK")


def run(*args, **kw):
    return subprocess.run(args, check=True, capture_output=True, text=True, **kw).stdout


class Proc:
    """A process in the namespace, its output in a file."""

    def __init__(self, name, args, env=None):
        self.name = name
        self.log = open(os.path.join(ROOT, f"{name}.log"), "a")
        self.p = subprocess.Popen(
            ["ip", "netns", "exec", NS, *args], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, env={**os.environ, **(env or {})})

    def cpu(self):
        """CPU seconds so far (user and system), children that ended included."""
        try:
            with open(f"/proc/{self.p.pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            return sum(map(int, fields[11:15])) / TICK
        except FileNotFoundError:
            return 0.0

    def rss(self):
        with open(f"/proc/{self.p.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))

    def peak(self):
        with open(f"/proc/{self.p.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))

    def wait(self, bound=600):
        """Waits for its end; wall seconds are the caller's. Returns its CPU seconds."""
        pid, status, usage = wait4(self.p.pid, bound)
        self.p.returncode = os.waitstatus_to_exitcode(status)
        if self.p.returncode != 0:
            tail = open(self.log.name).read()[-2000:]
            sys.exit(f"{self.name} failed with {self.p.returncode}:\n{tail}")
        return usage.ru_utime + usage.ru_stime

    def stop(self):
        if self.p.returncode is None and self.p.poll() is None:
            self.p.terminate()
            try:
                self.p.wait(5)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()


def wait4(pid, bound):
    end = time.monotonic() + bound
    while True:
        got, status, usage = os.wait4(pid, os.WNOHANG)
        if got:
            return got, status, usage
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            sys.exit(f"process {pid} did not end within {bound} s")
        time.sleep(0.002)


def until(what, ask, bound=120):
    end = time.monotonic() + bound
    while time.monotonic() < end:
        try:
            if ask():
                return
        except (OSError, subprocess.CalledProcessError, ValueError):
            pass
        time.sleep(0.02)
    sys.exit(f"waited {bound} s in vain: {what}")


def in_ns(*args, **kw):
    return run("ip", "netns", "exec", NS, *args, **kw)


def answers(url):
    until(url, lambda: in_ns("curl", "-fsS", "-o", "/dev/null", "--max-time", "2", url) is not None)


def noise(path, size):
    with open(path, "wb") as f:
        left = size
        while left:
            chunk = os.urandom(min(left, 1 << 24))
            f.write(chunk)
            left -= len(chunk)


def median(values):
    return statistics.median(values)


# One to one ------------------------------------------------------------------------------

class Ours:
    name = "groundswell"

    @staticmethod
    def seed(torrent, directory, tag):
        return Proc(f"seed-{tag}", [SWELL, "--log", "warn", "leech", torrent, "--output", directory,
                                    "--seed", "--listen", f"{A}:7001"])

    @staticmethod
    def leech(torrent, directory, tag):
        p = Proc(f"leech-{tag}", [SWELL, "--log", "warn", "leech", torrent, "--output", directory,
                                  "--listen", f"{B}:7002"])
        return p, lambda: p.wait()


class Aria2:
    name = "aria2"
    common = ["aria2c", "--no-conf", "--enable-dht=false", "--bt-enable-lpd=false",
              "--file-allocation=none", "--summary-interval=0", "--console-log-level=error",
              "--quiet=true"]

    @classmethod
    def seed(cls, torrent, directory, tag):
        return Proc(f"seed-{tag}", [*cls.common, "--interface", A, "--listen-port=7001", "--check-integrity=true",
                                    "--seed-ratio=0.0", "--dir", directory, torrent])

    @classmethod
    def leech(cls, torrent, directory, tag):
        p = Proc(f"leech-{tag}", [*cls.common, "--interface", B, "--listen-port=7002", "--seed-time=0",
                                  "--dir", directory, torrent])
        return p, lambda: p.wait()


class Rqbit:
    name = "rqbit"

    @staticmethod
    def args(port, directory, torrent, *more):
        return ["rqbit", "-v", "error", "--disable-dht", "--disable-dht-persistence", "--disable-upnp-port-forward",
                "--listen-port", str(port), "--http-api-listen-addr", f"127.0.0.1:{port + 100}",
                "download", "--overwrite", "-o", directory, *more, torrent]

    @classmethod
    def seed(cls, torrent, directory, tag):
        return Proc(f"seed-{tag}", cls.args(7001, directory, torrent))

    @classmethod
    def leech(cls, torrent, directory, tag):
        p = Proc(f"leech-{tag}", cls.args(7002, directory, torrent, "--exit-on-finish"))
        return p, lambda: p.wait()


class Libtorrent:
    name = "libtorrent"

    @staticmethod
    def args(role, torrent, directory, listen):
        client = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libtorrent-client.py")
        return ["/usr/bin/python3", client, role, torrent, directory, listen, "tcp"]

    @classmethod
    def seed(cls, torrent, directory, tag):
        return Proc(f"seed-{tag}", cls.args("seed", torrent, directory, f"{A}:7001"))

    @classmethod
    def leech(cls, torrent, directory, tag):
        p = Proc(f"leech-{tag}", cls.args("leech", torrent, directory, f"{B}:7002"))
        return p, lambda: p.wait()


class Transmission:
    name = "transmission"

    @staticmethod
    def start(tag, address, port, rpc, directory, torrent):
        config = os.path.join(ROOT, f"tr-{tag}")
        # What it remembers of a round before would be complete at once.
        shutil.rmtree(config, ignore_errors=True)
        os.makedirs(config)
        with open(os.path.join(config, "settings.json"), "w") as f:
            json.dump({
                "dht-enabled": False, "lpd-enabled": False, "pex-enabled": False, "utp-enabled": False,
                "port-forwarding-enabled": False, "rpc-enabled": True, "rpc-port": rpc,
                "rpc-bind-address": "127.0.0.1", "rpc-whitelist-enabled": False,
                "rpc-host-whitelist-enabled": False, "download-dir": directory, "peer-port": port,
                "bind-address-ipv4": address, "encryption": 1, "ratio-limit-enabled": False,
                "preallocation": 0, "cache-size-mb": 4, "rename-partial-files": False,
            }, f)
        p = Proc(tag, ["transmission-daemon", "--foreground", "--config-dir", config])
        remote = ["transmission-remote", f"127.0.0.1:{rpc}"]
        until("transmission answers", lambda: in_ns(*remote, "--list"))
        in_ns(*remote, "--add", torrent)
        return p, remote

    @classmethod
    def seed(cls, torrent, directory, tag):
        p, _ = cls.start(f"seed-{tag}", A, 7001, 7101, directory, torrent)
        return p

    @classmethod
    def leech(cls, torrent, directory, tag):
        p, remote = cls.start(f"leech-{tag}", B, 7002, 7102, directory, torrent)

        def done():
            until("transmission completes", lambda: "Percent Done: 100%" in in_ns(*remote, "-t", "1", "-i"), 600)
            used = p.cpu()
            p.stop()
            return used
        return p, done


def scrape_says_seed(torrent):
    return "1 seeders" in in_ns(SWELL, "torrent", "scrape", torrent)


def transfer(seeder, leecher, torrent, content, size, tag):
    """One cold transfer; wall seconds, CPU seconds of both ends."""
    out = os.path.join(ROOT, "out")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    tracker = Proc("tracker", [SWELL, "--log", "warn", "tracker", "--open", "--listen", A, "--port", "7000",
                               "--data", os.path.join(ROOT, "tracker")])
    answers(f"http://{A}:7000/health")
    seed = seeder.seed(torrent, content, tag)
    until("the seed announces", lambda: scrape_says_seed(torrent), 300)
    time.sleep(1)
    before = seed.cpu()
    began = time.monotonic()
    _, wait = leecher.leech(torrent, out, tag)
    cpu = wait()
    wall = time.monotonic() - began
    cpu += seed.cpu() - before
    seed.stop()
    tracker.stop()
    got = os.path.join(out, "content.bin")
    if os.path.getsize(got) != size:
        sys.exit(f"{tag}: {got} has the wrong size")
    subprocess.run(["cmp", got, os.path.join(content, "content.bin")], check=True)
    shutil.rmtree(out)
    return wall, cpu


def one(opt):
    content = os.path.join(ROOT, "content")
    os.makedirs(content)
    file = os.path.join(content, "content.bin")
    noise(file, opt.size)
    torrent = os.path.join(ROOT, "c.torrent")
    run(SWELL, "torrent", "create", file, "-o", torrent, "--announce", f"http://{A}:7000/announce",
        "--piece-length", "1MiB")
    clients = {c.name: c for c in (Ours, Rqbit, Libtorrent, Aria2, Transmission)}
    chosen = opt.only.split(",") if opt.only else list(clients)
    pairs = [(n, n) for n in chosen]
    if opt.cross:
        pairs += [p for n in chosen if n != Ours.name for p in ((n, Ours.name), (Ours.name, n))]
    results = {pair: [] for pair in pairs}
    for _ in range(opt.rounds):
        for pair in pairs:
            results[pair].append(transfer(clients[pair[0]], clients[pair[1]], torrent, content, opt.size,
                                          "-".join(pair)))
    gib = opt.size / 2**30
    print(f"{'seed -> leecher':32} {'MB/s':>8} {'min':>8} {'max':>8} {'CPU s/GiB':>10}")
    speed = {}
    for pair, rounds in results.items():
        rates = [opt.size / 1e6 / wall for wall, _ in rounds]
        cpu = median([cpu / gib for _, cpu in rounds])
        speed[pair] = median(rates), cpu
        print(f"{' -> '.join(pair):32} {median(rates):8.0f} {min(rates):8.0f} {max(rates):8.0f} {cpu:10.2f}")
    ours = (Ours.name, Ours.name)
    peers = [p for p in results if p[0] == p[1] and p != ours]
    if ours in results and peers:
        fastest = max(peers, key=lambda p: speed[p][0])
        leanest = min(peers, key=lambda p: speed[p][1])
        print(f"throughput: {speed[ours][0] / speed[fastest][0]:.2f} times the fastest peer ({fastest[0]})")
        print(f"CPU per GiB: {speed[ours][1] / speed[leanest][1]:.2f} of the leanest peer's ({leanest[0]})")
    for seed, leecher in results:
        if seed != leecher:
            other = leecher if seed == Ours.name else seed
            if (other, other) in speed:
                ratio = speed[seed, leecher][0] / speed[other, other][0]
                print(f"{seed} -> {leecher}: {ratio:.2f} times {other} to itself")


# The others ------------------------------------------------------------------------------

def create(opt):
    file = os.path.join(ROOT, "content.bin")
    noise(file, opt.size)
    rows = {"groundswell": [], "transmission-create": [], "sha1 and sha256 alone": []}
    for _ in range(opt.rounds):
        for name, args in (
            ("groundswell", [SWELL, "torrent", "create", file, "-o", f"{ROOT}/o.torrent", "--announce", "http://x/announce"]),
            ("transmission-create", ["transmission-create", "-s", "1024", "-t", "http://x/announce", "-o", f"{ROOT}/t.torrent", file]),
        ):
            if os.path.exists(f"{ROOT}/t.torrent"):
                os.remove(f"{ROOT}/t.torrent")
            began = time.monotonic()
            run(*args)
            rows[name].append(time.monotonic() - began)
        began = time.monotonic()
        with open(file, "rb") as f:
            one_, two = hashlib.sha1(), hashlib.sha256()
            while chunk := f.read(1 << 20):
                one_.update(chunk)
                two.update(chunk)
        rows["sha1 and sha256 alone"].append(time.monotonic() - began)
    for name, walls in rows.items():
        print(f"{name:24} {opt.size / 1e6 / median(walls):8.0f} MB/s")
    # An upload's hashers, from memory: what a push costs beyond the two hashes themselves.
    manifest = os.path.join(os.path.dirname(__file__), "..", "Cargo.toml")
    codecs = ["cargo", "bench", "--locked", "--quiet", "--manifest-path", manifest, "-p", "torrents",
              "--bench", "codecs", "--", "uploads"]
    passes = [dict(re.findall(r"upload: (.+?) +(\d+) MB/s", run(*codecs))) for _ in range(opt.rounds)]
    alone = [float(p["plain SHA-1 and SHA-256"]) for p in passes]
    print(f"SHA-1 and SHA-256 of an upload, one pass: {median(alone):.0f} MB/s by themselves")
    for name in ("up to 128 MiB", "beyond 128 MiB"):
        ours = [float(p[f"StreamHasher and SHA-256, {name}"]) for p in passes]
        ratio = median([a / b for a, b in zip(ours, alone)])
        print(f"  {name:22} {median(ours):8.0f} MB/s, {ratio:.2f} of that")


def herd(tag="herd", data=None):
    data = data or os.path.join(ROOT, "herd-data")
    p = Proc(tag, [SWELL, "--log", "warn", "herd", "--listen", A, "--data", data])
    answers(f"http://{A}:15002/health")
    answers(f"http://{A}:15003/health")
    return p


def post_blob(registry, file, digest):
    """Pushes as docker does: POST, PATCH with the whole body, PUT. Wall seconds."""
    began = time.monotonic()
    head = in_ns("curl", "-fsS", "-X", "POST", "-D", "-", "-o", "/dev/null", f"{registry}/v2/bench/app/blobs/uploads/")
    place = lambda head: next(line.split(":", 1)[1].strip() for line in head.splitlines() if line.lower().startswith("location:"))
    whole = lambda url: url if url.startswith("http") else registry + url
    head = in_ns("curl", "-fsS", "-X", "PATCH", "-D", "-", "-o", "/dev/null", "-H", "Transfer-Encoding: chunked",
                 "-H", "Expect:", "-T", file, whole(place(head)))
    url = whole(place(head))
    in_ns("curl", "-fsS", "-X", "PUT", "-o", "/dev/null", f"{url}{'&' if '?' in url else '?'}digest={digest}")
    return time.monotonic() - began


def push(opt):
    registry_yml = os.path.join(ROOT, "registry.yml")
    with open(registry_yml, "w") as f:
        f.write(f"version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {ROOT}/registry }} }}\n"
                f"http: {{ addr: {B}:15000 }}\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n")
    ours, theirs = herd(), Proc("registry", ["docker-registry", "serve", registry_yml])
    answers(f"http://{B}:15000/v2/")
    rows = {"groundswell": [], "docker-registry": []}
    file = os.path.join(ROOT, "layer")
    for _ in range(opt.rounds):
        noise(file, opt.size)
        digest = "sha256:" + hashlib.file_digest(open(file, "rb"), "sha256").hexdigest()
        rows["groundswell"].append(post_blob(f"http://{A}:15000", file, digest))
        rows["docker-registry"].append(post_blob(f"http://{B}:15000", file, digest))
    for p in (ours, theirs):
        p.stop()
    for name, walls in rows.items():
        print(f"{name:24} {opt.size / 1e6 / median(walls):8.0f} MB/s")
    print(f"ratio: {median(rows['docker-registry']) / median(rows['groundswell']):.2f}")


def agent(address=B):
    data = os.path.join(ROOT, f"agent-{address}")
    shutil.rmtree(data, ignore_errors=True)
    p = Proc(f"agent-{address}", [SWELL, "--log", "warn", "agent", "--herd", A, "--data", data,
                                  "--listen", address, "--peer-listen", address])
    answers(f"http://{address}:16002/health")
    return p


def ttfb(opt):
    """Each round a layer that no agent has seen; with --others, hosts that pull it already."""
    crowd = [f"10.79.1.{n + 1}" for n in range(opt.others)]
    for address in crowd:
        run("ip", "-n", NS, "addr", "add", f"{address}/32", "dev", "lo")
    origin = herd()
    first, total, file = [], [], os.path.join(ROOT, "layer")
    for _ in range(opt.rounds):
        agents = [agent(address) for address in [B, *crowd]]
        noise(file, opt.size)
        digest = "sha256:" + hashlib.file_digest(open(file, "rb"), "sha256").hexdigest()
        post_blob(f"http://{A}:15000", file, digest)
        pulls = [Proc("crowd", ["curl", "-fsS", "-o", "/dev/null",
                                f"http://{address}:16000/v2/bench/app/blobs/{digest}"]) for address in crowd]
        if pulls:
            time.sleep(0.5)
        byte, whole = body_times(digest, opt.size)
        first.append(byte)
        total.append(whole)
        for p in pulls:
            p.wait()
        for p in agents:
            p.stop()
    origin.stop()
    print(f"first body byte of a cold {opt.size / 2**20:.0f} MiB layer that {opt.others} others pull: "
          f"median {median(first) * 1000:.1f} ms, max {max(first) * 1000:.1f} ms; "
          f"whole layer median {median(total):.2f} s")


def body_times(digest, size):
    """Seconds until the first byte of the body, not of the headers, and until its last."""
    code = ("import http.client,time\n"
            f"c=http.client.HTTPConnection('{B}',16000); t=time.monotonic()\n"
            f"c.request('GET','/v2/bench/app/blobs/{digest}'); r=c.getresponse(); n=len(r.read(1))\n"
            "first=time.monotonic()-t\n"
            "while b:=r.read(1<<20): n+=len(b)\n"
            "print(first, time.monotonic()-t, n)\n")
    first, whole, got = in_ns("python3", "-c", code).split()
    if int(got) != size:
        sys.exit("short body")
    return float(first), float(whole)


def layers(opt):
    """Fifty layers through one agent at once, then what the agent costs with all its blobs idle."""
    roles = [herd(), agent()]
    p, digests, file = roles[1], [], os.path.join(ROOT, "layer")

    def push(size):
        noise(file, size)
        digest = "sha256:" + hashlib.file_digest(open(file, "rb"), "sha256").hexdigest()
        post_blob(f"http://{A}:15000", file, digest)
        digests.append(digest)

    def pull(wanted):
        urls = [f'url = "http://{B}:16000/v2/bench/app/blobs/{digest}"\noutput = "/dev/null"\n' for digest in wanted]
        conf = os.path.join(ROOT, "pull.conf")
        with open(conf, "w") as f:
            f.write("".join(urls))
        began = time.monotonic()
        in_ns("curl", "-fsS", "--parallel", "--parallel-immediate", "--parallel-max", "64", "-K", conf)
        return time.monotonic() - began

    for _ in range(50):
        push(opt.size)
    idle = p.rss()
    took = pull(digests)
    print(f"50 layers of {opt.size / 1e6:.0f} MB at once: {took:.1f} s, agent {idle / 2**20:.0f} MiB before, "
          f"at most {p.peak() / 2**20:.0f} MiB")
    for _ in range(150):
        push(256 << 10)
    pull(digests[50:])
    # Until what the last pull opened is closed again.
    time.sleep(30)
    cpu, began = p.cpu(), time.monotonic()
    time.sleep(30)
    print(f"idle with {len(digests)} cached layers: {p.rss() / 2**20:.0f} MiB resident, "
          f"{(p.cpu() - cpu) / (time.monotonic() - began) * 100:.2f} % of a core")
    for p in roles:
        p.stop()


def restart(opt):
    data = os.path.join(ROOT, "herd-data")
    p = herd(data=data)
    urls = []
    for n in range(opt.blobs):
        blob = os.urandom(4096) + n.to_bytes(4, "big")
        path = os.path.join(ROOT, f"b{n}")
        with open(path, "wb") as f:
            f.write(blob)
        digest = hashlib.sha256(blob).hexdigest()
        urls.append(f'url = "http://{A}:15000/v2/bench/app/blobs/uploads/?digest=sha256:{digest}"\n'
                    f'data-binary = "@{path}"\noutput = "/dev/null"\nrequest = "POST"\nfail\nsilent\nshow-error\n')
    config = os.path.join(ROOT, "curl.conf")
    with open(config, "w") as f:
        f.write("next\n".join(urls))
    in_ns("curl", "--config", config)
    p.stop()
    times, memory = [], []
    for _ in range(opt.rounds):
        # The tracker must learn everything from the origin again, not from its own cache.
        shutil.rmtree(os.path.join(data, "tracker"), ignore_errors=True)
        began = time.monotonic()
        p = herd(data=data)
        registered = lambda: json.loads(in_ns("curl", "-fsS", f"http://{A}:15003/api/swarms?limit=1"))["total"] >= opt.blobs
        until("every blob is registered", registered)
        times.append(time.monotonic() - began)
        time.sleep(1)
        memory.append(p.rss())
        p.stop()
    print(f"{opt.blobs} blobs: seeded again {median(times):.2f} s after the start, "
          f"{median(memory) / 2**20:.0f} MiB resident (tracker included)")


# Trackers --------------------------------------------------------------------------------

TRACKERS = {"groundswell": 7001, "opentracker": 7002, "aquatic_http": 7003}


def start_tracker(name, keep_alive):
    """One tracker on loopback that serves the load's torrents, or any. Its process id too."""
    port, home = TRACKERS[name], os.path.join(ROOT, name)
    os.makedirs(home, exist_ok=True)
    os.chmod(home, 0o755)
    if name == "groundswell":
        p = Proc(name, [SWELL, "--log", "warn", "tracker", "--open", "--listen", "127.0.0.1", "--port", str(port),
                        "--data", home])
    elif name == "opentracker":
        # It changes its root, then its user; the whitelist is read after both.
        run(LOAD, "--write-hashes", os.path.join(home, "whitelist"))
        os.chmod(os.path.join(home, "whitelist"), 0o644)
        with open(os.path.join(home, "conf"), "w") as f:
            f.write(f"listen.tcp 127.0.0.1:{port}\ntracker.rootdir {home}\ntracker.user _opentracker\n"
                    "access.whitelist /whitelist\n")
        p = Proc(name, ["opentracker", "-f", os.path.join(home, "conf")])
    else:
        config = run("aquatic_http", "-p")
        # Its defaults: two threads, as many as there are cores here.
        for key, value in (("address", f'"127.0.0.1:{port}"'), ("keep_alive", str(keep_alive).lower())):
            config, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", config)
            if not found:
                sys.exit(f"this aquatic_http has no setting {key}")
        with open(os.path.join(home, "conf.toml"), "w") as f:
            f.write(config)
        p = Proc(name, ["aquatic_http", "-c", os.path.join(home, "conf.toml")])
    until(f"{name} listens", lambda: f":{port}" in in_ns("ss", "-Hltn"))
    time.sleep(1)
    return p


def tracker(opt):
    """The same mixed load on each in turn: 1,000 torrents, numwant 50. opentracker closes after
    every answer, so with keep-alive there is one peer to compare with."""
    print(f"{'':14} {'mode':12} {'announces/s':>12} {'CPU us each':>12} {'p99 ms':>8}")
    for mode, flags in (("one each", []), ("keep-alive", ["--keep-alive"])):
        if opt.only and opt.only != mode:
            continue
        rows = {name: [] for name in TRACKERS if name != "opentracker" or not flags}
        for _ in range(opt.rounds):
            for name in rows:
                p = start_tracker(name, bool(flags))
                address = f"127.0.0.1:{TRACKERS[name]}"
                # Once to fill the swarms, once to measure.
                for requests in ("50000", "100000"):
                    said = in_ns(LOAD, address, "--requests", requests, "--pid", str(p.p.pid), *flags)
                p.stop()
                found = re.search(r"answers, (\d+)/s, (\d+) failed.* p99 ([\d.]+) ms.*, ([\d.]+) us of CPU", said)
                if not found or int(found[2]) > 0:
                    sys.exit(f"{name} did not answer all: {said}")
                rows[name].append((float(found[1]), float(found[4]), float(found[3])))
        middle = {name: [median(column) for column in zip(*rounds)] for name, rounds in rows.items()}
        for name, (rate, cpu, p99) in middle.items():
            print(f"{name:14} {mode:12} {rate:12.0f} {cpu:12.2f} {p99:8.2f}")
        others = [row for name, row in middle.items() if name != "groundswell"]
        for name, (rate, cpu, _) in middle.items():
            if name != "groundswell":
                print(f"  against {name}: {middle['groundswell'][0] / rate:.2f} times as many, "
                      f"{middle['groundswell'][1] / cpu:.2f} of the CPU each")
        ours = middle["groundswell"]
        print(f"{mode}: {ours[0] / max(row[0] for row in others):.2f} times the fastest peer, "
              f"{ours[1] / min(row[1] for row in others):.2f} of the leanest peer's CPU")


def size(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


def main():
    global ROOT
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["one", "create", "push", "ttfb", "layers", "restart", "tracker"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=size, default=None)
    parser.add_argument("--blobs", type=int, default=1000)
    parser.add_argument("--others", type=int, choices=range(200), metavar="N", default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--cross", action="store_true")
    opt = parser.parse_args()
    opt.size = opt.size or {"one": 2 << 30, "create": 2 << 30, "push": 1 << 30, "ttfb": 1 << 30, "layers": 50_000_000}.get(opt.what, 0)
    ROOT = tempfile.mkdtemp(prefix="swell-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run("ip", "netns", "add", NS)
        run("ip", "-n", NS, "link", "set", "lo", "up")
        for address in (A, B):
            run("ip", "-n", NS, "addr", "add", f"{address}/32", "dev", "lo")
        globals()[opt.what](opt)
    finally:
        pids = subprocess.run(["ip", "netns", "pids", NS], capture_output=True, text=True).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", NS], capture_output=True)
        shutil.rmtree(ROOT, ignore_errors=True)


main()
