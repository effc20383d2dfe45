"""What the measuring scripts share: processes on loopback that end with the script, and what they cost.

The figure that survives a small, shared machine is CPU time of the proxy process: user and system time of all of its threads and
children. The proxy under test is pinned to the last core, load and upstream to the first. All traffic stays on 127.0.0.1 and every
step is bounded in time.
"""
import array, atexit, fcntl, glob, os, pathlib, shutil, socket, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# `PROFILE=dist` measures what is shipped: the same code, optimised as a whole.
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / os.environ.get("PROFILE", "release")
GATE = TARGET / "portcullis"
HZ = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, PROXY_CORE = {CORES[0]}, {CORES[-1]}
BODY = '{"id":12345,"state":"paid","total":"99.95","currency":"EUR","lines":3}'



def spread(parent):
    """Has ext4 put what is made in here far apart from each other, and from what was here before.

    For minutes it passes over each inode that was freed, one by one, whenever a file is made near it: behind a run of the tests a
    new file costs 1 ms in place of 25 us, which would be counted as the gate's.
    """
    get, put, top_directory = 0x80086601, 0x40086602, 0x20000
    parent.mkdir(parents=True, exist_ok=True)
    place = os.open(parent, os.O_RDONLY)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(place, get, flags, True)
        fcntl.ioctl(place, put, array.array("l", [flags[0] | top_directory]))
    except OSError:
        pass  # Another filesystem: it has no such habit.
    finally:
        os.close(place)
    return parent


# On the disk of the build, if nothing else is said: /tmp may be memory, where a sync costs nothing.
directory = pathlib.Path(tempfile.mkdtemp(dir=spread(pathlib.Path(os.environ.get("TMPDIR") or TARGET) / f"portcullis-bench-{os.getuid()}")))
log = open(directory / "log", "ab")
running = []


def start(command, cores, output=None):
    def pin():
        os.setsid()
        os.sched_setaffinity(0, cores)
    output = output or log
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=pin)
    running.append(process)
    return process


def stop(process):
    if process in running:
        running.remove(process)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def finish():
    for process in list(running):
        stop(process)
    shutil.rmtree(directory, ignore_errors=True)


atexit.register(finish)


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            sys.exit(f"{tool} is not installed")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended with {process.returncode}; its log:\n{(directory / 'log').read_text()[-3000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{process.args[0]} does not listen on {port}")


def cpu_seconds(pid):
    pids, total = [pid], 0
    for task in glob.glob(f"/proc/{pid}/task/*/children"):
        pids += [int(child) for child in open(task).read().split()]
    for one in pids:
        try:
            fields = open(f"/proc/{one}/stat").read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / HZ


def resident_bytes(pid):
    return int(open(f"/proc/{pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def nginx(port, body):
    """The command of an nginx with one worker and this in its `http` block."""
    conf = directory / f"nginx-{port}.conf"
    conf.write_text(f"""worker_processes 1; daemon off; pid {directory}/nginx-{port}.pid; error_log /dev/null crit;
events {{ worker_connections 16384; }}
http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
 uwsgi_temp_path {directory}; scgi_temp_path {directory}; keepalive_requests 100000000; keepalive_timeout 3600s; client_max_body_size 8m;
 {body} }}""")
    return ["nginx", "-c", conf]


def upstream():
    """An nginx that answers everything with a short JSON body; its port."""
    port = free_port()
    process = start(nginx(port, f"server {{ listen 127.0.0.1:{port} reuseport; location / {{ default_type application/json; return 200 '{BODY}'; }} }}"), LOAD_CORE)
    wait_for(port, process)
    return port


class Gate:
    """A `portcullis dev` before an upstream, with a grant for `billing` to read and write."""

    def __init__(self, upstream_port, durability, *more):
        need("nginx")
        self.state = directory / f"gate-{free_port()}"
        self.port, self.tls_port, *others = (free_port() for _ in range(5))
        options = ["--gateway-address", "--gateway-tls-address", "--admin-address", "--control-address", "--http-address"]
        addresses = [word for pair in zip(options, (f"127.0.0.1:{p}" for p in (self.port, self.tls_port, *others))) for word in pair]
        self.process = start([GATE, "dev", "--dir", self.state, "--upstream", f"http://127.0.0.1:{upstream_port}", "--workers", "1", "--durability", durability, *addresses, *more], PROXY_CORE)
        end = time.monotonic() + 30
        while not (self.state / "dev.json").exists():
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"portcullis dev did not start; its log:\n{(directory / 'log').read_text()[-3000:]}")
            time.sleep(0.1)
        wait_for(self.port, self.process)
        self.cli("grant", "create", "--identity", "billing", "--resource", "api/upstream", "--action", "read", "--action", "write", "--duration", "2h", "--reason", "benchmark", "--wait")
        self.token = (self.state / "identities/billing/token").read_text().strip()

    def cli(self, *arguments):
        subprocess.run([GATE, *arguments], env={**os.environ, "PORTCULLIS_DIR": str(self.state)}, check=True, stdout=log, stderr=log)
