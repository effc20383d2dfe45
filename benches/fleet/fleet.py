"""A control plane and many gateways as processes on this machine's loopback: what the scripts beside this one measure.

All traffic stays on 127.0.0.1; everything is bounded in time. Processes end with `end()`.
"""
import base64, json, os, pathlib, re, socket, subprocess, threading, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = TARGET / os.environ.get("PROFILE", "release") / "portcullis"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
running = []


def upstream():
    """Answers each connection with the begin of an event stream, and then says nothing."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def serve(connection):
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(HEAD)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass  # a cut call's connection is reset

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Fleet:
    def __init__(self, home, count):
        self.home, self.count, self.port, self.http_port = home, count, free_port(), free_port()
        (home / "control.yaml").write_text(json.dumps({
            "role": "control", "trust_domain": "bench.example", "state_dir": "control",
            "grpc_address": f"127.0.0.1:{self.port}", "http_address": f"127.0.0.1:{self.http_port}",
            "tls": {"certificate_file": "control/control.pem", "key_file": "control/control.key",
                    "client_ca_file": "control/clients.pem"},
        }))
        self.run("control", "init", "-c", "control.yaml")
        self.start_control()

    def start_control(self):
        self.control = self.spawn("control", "control", "run", "-c", "control.yaml")
        self.until("the control plane answers", lambda: self.cli("fleet", "status", check=False).returncode == 0)

    def spawn(self, log, *arguments):
        out = open(self.home / f"{log}.log", "ab")
        process = subprocess.Popen([BINARY, *arguments], cwd=self.home, stdout=out, stderr=out)
        running.append(process)
        return process

    def run(self, *arguments):
        subprocess.run([BINARY, *arguments], cwd=self.home, check=True, stdout=subprocess.DEVNULL, timeout=60)

    def cli(self, *arguments, check=True):
        environment = dict(os.environ, PORTCULLIS_ADDRESS=f"https://127.0.0.1:{self.port}",
                           PORTCULLIS_CA=str(self.home / "control/ca/ca.pem"),
                           PORTCULLIS_TOKEN=(self.home / "control/people/administrator").read_text().strip())
        done = subprocess.run([BINARY, "-o", "json", *arguments], cwd=self.home, env=environment, capture_output=True,
                              timeout=120)
        if check and done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: {done.stderr.decode()}")
        return done

    def json(self, *arguments):
        return json.loads(self.cli(*arguments).stdout)

    def until(self, what, holds, limit=120):
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > limit:
                raise SystemExit(f"not within {limit} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - began

    def add_gateways(self, jwks, scoped=False):
        """Each stands before everything, or before one of the hundred routes."""
        self.ports, self.gateways = [], []
        for number in range(self.count):
            name, port = f"g{number}", free_port()
            (self.home / f"{name}.yaml").write_text(json.dumps({
                "role": "gateway", "name": name, "state_dir": name, "audience": "https://gate.bench",
                "listen": [{"address": f"127.0.0.1:{port}"}], "admin_address": "127.0.0.1:0", "workers": 1,
                "control": {"address": f"https://127.0.0.1:{self.port}", "ca_file": f"{name}/ca.pem",
                            "certificate_file": f"{name}/gateway.pem", "key_file": f"{name}/gateway.key"},
                "issuers": [{"issuer": "https://issuer.bench", "jwks_file": str(jwks)}],
                "evidence": {"durability": "process"},
            }))
            scope = ["--route", f"bench{number % 100}"] if scoped else []
            self.cli("fleet", "invite", name, *scope, "--out", str(self.home / f"{name}.json"))
            self.run("gateway", "join", "-c", f"{name}.yaml", "--invitation", f"{name}.json")
            self.gateways.append(self.spawn(name, "gateway", "run", "-c", f"{name}.yaml"))
            self.ports.append(port)

    def settled(self):
        asked = self.cli("fleet", "status", check=False)
        if asked.returncode:
            return False  # too busy with those that come back
        status = json.loads(asked.stdout)
        good = [g for g in status["gateways"] if g["connected"] and g["applied_revision"] >= status["revision"]]
        return len(good) == self.count

    def lag(self):
        status = self.json("fleet", "status")
        return max(status["revision"] - g["applied_revision"] for g in status["gateways"])

    def lags(self):
        """The newest revision, and by how many each gateway lags: of the metrics, which cost less than a command."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=120) as answer:
            text = answer.read().decode()
        lags = re.findall(r'^portcullis_control_gateway_lag_revisions\{gateway="([^"]+)"\} (\d+)', text, re.M)
        revision = re.search(r"^portcullis_control_revision (\S+)", text, re.M)
        return int(float(revision[1])), {name: int(lag) for name, lag in lags}

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.control.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self):
        pages = int(pathlib.Path(f"/proc/{self.control.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def percentiles(values):
    values = sorted(values)
    at = lambda share: values[min(len(values) - 1, int(share * len(values)))]
    return {"p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "worst": values[-1]}


def issue(home, jwks):
    """A token of an issuer of the bench's own, by openssl: ES256."""
    plain = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    key = home / "issuer.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    public = subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-outform", "DER"], check=True,
                            capture_output=True).stdout
    x, y = public[-64:-32], public[-32:]
    jwks.write_text(json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig",
                                          "x": plain(x), "y": plain(y)}]}))
    now = int(time.time())
    claims = {"iss": "https://issuer.bench", "sub": "billing", "aud": "https://gate.bench", "iat": now,
              "exp": now + 3600, "jti": "bench"}
    signed = ".".join(plain(json.dumps(part).encode()) for part in ({"alg": "ES256", "kid": "k1", "typ": "JWT"}, claims))
    der = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=signed.encode(), check=True,
                         capture_output=True).stdout
    # SEQUENCE of two INTEGERs, to two times 32 bytes.
    length = der[3]
    r, s = der[4:4 + length], der[6 + length:]
    fixed = b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (r, s))
    return f"{signed}.{plain(fixed)}"


def catalog(port, identities=("billing",)):
    """The catalog in parts: one command may change 120 objects."""
    many = [f"bench/r{number}" for number in range(100)]
    who = [f"""kind: Identity
name: {name}
spec: {{ kind: service, owner: payments, purpose: bench, environment: test,
        authenticate: [ {{ issuer: 'https://issuer.bench', subject: {name} }} ] }}""" for name in identities]
    first = ["kind: Resource\nname: api/orders\nspec: { owner: orders, authority: 10s }",
             f"""kind: Route
name: orders
spec:
  upstream: http://127.0.0.1:{port}
  resource: api/orders
  actions: [ {{ name: read, methods: [GET], path: '/v1/orders/**' }} ]"""]
    resources = [f"kind: Resource\nname: {name}\nspec: {{ owner: orders }}" for name in many]
    routes = [f"kind: Route\nname: bench{number}\nspec:\n  host: r{number}.test\n  upstream: http://127.0.0.1:{port}\n"
              f"  resource: {name}\n  actions: [ {{ name: read, methods: [GET], path: '/**' }} ]"
              for number, name in enumerate(many)]
    permissions = "\n".join(f"    - {{ resource: {name}, actions: [read] }}" for name in many)
    role = f"kind: Role\nname: many\nspec:\n  permissions:\n{permissions}"
    return ["\n---\n".join(part) for part in (who, first, resources, routes, [role])]


def end():
    for process in running:
        process.kill()
    for process in running:
        process.wait()
