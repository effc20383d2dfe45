//! Upstreams that tell what reached them: one of the test's own that counts every byte, and unmodified servers of four makes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::dev::{Dev, PATIENCE, curl, eventually};
use crate::world::{apply, free_address, route};

/// What came: per connection, every byte.
#[derive(Clone, Default)]
pub(crate) struct Came(Arc<Mutex<Vec<Vec<u8>>>>);

impl Came {
    pub(crate) fn connections(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().concat()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Requests that came whole.
    pub(crate) fn requests(&self) -> usize {
        self.0.lock().unwrap().iter().map(|bytes| whole_requests(bytes)).sum()
    }

    pub(crate) fn forget(&self) {
        self.0.lock().unwrap().iter_mut().for_each(Vec::clear);
    }
}

/// An upstream that answers each whole request with `ok` and keeps the connection.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    pub(crate) came: Came,
}

impl Tap {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, came) = (listener.local_addr().unwrap(), Came::default());
        let kept = came.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), kept) = (stream, kept.clone()) else { return };
                std::thread::spawn(move || serve(stream, &kept));
            }
        });
        Self { address, came }
    }
}

fn serve(mut stream: TcpStream, came: &Came) {
    let place = {
        let mut all = came.0.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    let mut chunk = [0; 65536];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        let mut all = came.0.lock().unwrap();
        let before = whole_requests(&all[place]);
        all[place].extend_from_slice(&chunk[..read]);
        let now = whole_requests(&all[place]);
        drop(all);
        for _ in before..now {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    }
}

/// Requests that stand whole in `bytes`, one behind the other, as a strict reader counts them.
fn whole_requests(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        let body = &bytes[end + 4..];
        let length = if field("transfer-encoding:").is_some() {
            match body.windows(5).position(|window| window == b"0\r\n\r\n") {
                Some(last) => last + 5,
                None => return count,
            }
        } else {
            field("content-length:").map_or(0, |value| value.trim().parse().unwrap())
        };
        if body.len() < length {
            return count;
        }
        bytes = &body[length..];
        count += 1;
    }
    count
}

/// A server that nobody changed, and the lines of its access log.
pub(crate) struct Server {
    child: Child,
    dir: TempDir,
    /// Where its program was built.
    program: Option<TempDir>,
    pub(crate) address: SocketAddr,
}

fn source(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/edge/servers").join(name)
}

impl Server {
    /// Python's `http.server`.
    #[track_caller]
    pub(crate) fn python() -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        std::fs::write(dir.path().join("good"), "good").unwrap();
        let log = std::fs::File::create(dir.path().join("access.log")).unwrap();
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]);
        command.arg("--directory").arg(dir.path()).arg(address.port().to_string());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("python3");
        Self::up(child, dir, address)
    }

    /// Node's `http`.
    #[track_caller]
    pub(crate) fn node() -> Self {
        let mut command = Command::new("node");
        command.arg(source("server.mjs"));
        Self::logging(command)
    }

    /// Go's `net/http`.
    #[track_caller]
    pub(crate) fn go() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("server");
        let mut build = Command::new("go");
        build.arg("build").arg("-o").arg(&program).arg(source("server.go"));
        // What is compiled of Go's own library is kept with the clients: it takes longer than all the rest.
        build.env("GOCACHE", crate::clients::clients().join("go")).env("GO111MODULE", "off");
        let built = build.output().expect("go");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut server = Self::logging(Command::new(&program));
        server.program = Some(dir);
        server
    }

    /// A server that gets its port as an argument and prints its log.
    #[track_caller]
    fn logging(mut command: Command) -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        let log = std::fs::File::create(dir.path().join("access.log")).unwrap();
        command.arg(address.port().to_string());
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap();
        Self::up(child, dir, address)
    }

    #[track_caller]
    pub(crate) fn nginx() -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        let root = dir.path().display().to_string();
        std::fs::write(dir.path().join("good"), "good").unwrap();
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{}}\nhttp {{ access_log {root}/access.log; client_body_temp_path {root}/b; proxy_temp_path {root}/p;\n\
             fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; root {root};\n\
             server {{ listen {address}; }} }}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx");
        Self::up(child, dir, address)
    }

    #[track_caller]
    fn up(child: Child, dir: TempDir, address: SocketAddr) -> Self {
        let server = Self { child, dir, program: None, address };
        eventually("the server listens", PATIENCE, || TcpStream::connect(address).is_ok());
        server
    }

    /// Requests that it has logged, good and bad.
    pub(crate) fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        text.lines().filter(|line| line.contains('"') || line.contains("code")).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A route of `api/orders` at the host `name.test`, with more lines of its `spec`.
pub(crate) fn route_with(name: &str, upstream: SocketAddr, more: &str) -> String {
    let written = route(name, &format!("{name}.test"), &format!("http://{upstream}"));
    written.replace("  resource:", &format!("{more}  resource:"))
}

/// Puts routes in force beside a dev.
#[track_caller]
pub(crate) fn put(dev: &Dev, routes: &[String]) {
    apply(dev, &routes.join("---\n")).exits(0);
    for route in routes {
        let host = route.lines().find_map(|line| line.trim().strip_prefix("host: ")).unwrap();
        let probe =
            || curl(&["-H", &format!("Host: {host}"), "-H", &dev.bearer("deployer"), &dev.addresses.gateway]).status;
        eventually("the route is live", PATIENCE, || probe() == 403);
    }
}
