//! From the revocation to the last byte of an open, idle stream: server-sent events and WebSocket, through
//! `portcullis dev` on loopback, with an upstream that stays silent.
//!
//! `cut [--runs 1000]`. Each run makes a grant, opens a stream, revokes the grant over a connection that is already there,
//! and notes when the request left, when the control plane answered (as `grant revoke --wait`: every gateway enforces
//! it), and when the caller's blocked read returned the end.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark may stop at the first surprise, and measures real time"
)]

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use axum::extract::WebSocketUpgrade;
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::StreamExt as _;
use portcullis::client::target::DevFile;
use portcullis::client::{Client, Environment, Pointers, Target};
use portcullis::domain::grant::Grant;
use portcullis::wire::v1;

const RUNS: usize = 1000;
/// Before the measured ones.
const WARM_UP: usize = 20;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// One event, then silence for good.
async fn events() -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
    let first = futures_util::stream::once(async { Ok(Event::default().data("open")) });
    Sse::new(first.chain(futures_util::stream::pending()))
}

/// Waits for the caller, who says nothing.
async fn socket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket| async move { while let Some(Ok(_)) = socket.recv().await {} })
}

/// A stream to be cut: what is asked, and what shows that it is open.
struct Kind {
    name: &'static str,
    request: &'static str,
    open: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind { name: "server-sent events", request: "GET /events HTTP/1.1\r\n", open: "data: open" },
    Kind {
        name: "WebSocket",
        request: "GET /socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        open: "\r\n\r\n",
    },
];

/// `portcullis dev`, until the value is gone.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, upstream: &str) -> Result<(Dev, DevFile)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["dev", "--upstream", upstream, "--dir"]).arg(dir);
    for flag in ["--gateway-address", "--gateway-tls-address", "--admin-address", "--control-address", "--http-address"]
    {
        command.args([flag, "127.0.0.1:0"]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = child.stdout.take().context("no output")?;
    let dev = Dev(child);
    let mut lines = BufReader::new(output);
    ensure!(lines.read_line(&mut String::new())? > 0, "portcullis dev did not start");
    // Whatever it says later must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Ok((dev, DevFile::read(dir)?))
}

/// What one run measured, from the moment that the revocation was sent.
struct Run {
    acknowledged: Duration,
    ended: Duration,
}

async fn run(client: &mut Client, kind: &Kind, gateway: &str, token: &str) -> Result<Run> {
    let created = client
        .create_grant(v1::CreateGrantRequest {
            identity: "billing".into(),
            resource: "api/upstream".into(),
            actions: vec!["read".into()],
            duration_ms: 600_000,
            reason: "benchmark".into(),
            wait_ms: 10_000,
            ..v1::CreateGrantRequest::default()
        })
        .await?;
    let grant: &Grant = &created.grants.first().context("no grant")?.grant;
    let stream = open(kind, gateway, token)?;
    let reader = std::thread::spawn(move || to_end(stream));
    let id = grant.id.bits().to_be_bytes().to_vec();
    let sent = Instant::now();
    let request = v1::RevokeGrantRequest { id, reason: "benchmark".into(), wait_ms: 10_000 };
    let revoked = client.revoke_grant(request).await?;
    let acknowledged = sent.elapsed();
    let ended = reader.join().ok().context("the reader ended")??.duration_since(sent);
    let cut: usize = revoked.gateways.iter().map(|receipt| receipt.cut.len()).sum();
    ensure!(cut == 1, "{cut} calls were cut in place of one");
    Ok(Run { acknowledged, ended })
}

/// A stream that is open and silent.
fn open(kind: &Kind, gateway: &str, token: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!("{}Host: benchmark.internal\r\nAuthorization: Bearer {token}\r\n\r\n", kind.request);
    stream.write_all(head.as_bytes())?;
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen);
        if text.contains(kind.open) {
            ensure!(text.starts_with("HTTP/1.1 200") || text.starts_with("HTTP/1.1 101"), "{text}");
            return Ok(stream);
        }
        match stream.read(&mut chunk)? {
            0 => bail!("not opened: {text}"),
            read => seen.extend_from_slice(&chunk[..read]),
        }
    }
}

/// When the last byte, or the end, was there.
fn to_end(mut stream: TcpStream) -> Result<Instant> {
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(Instant::now()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(Instant::now()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn report(name: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
    println!("{name:<52}{:>9.3}{:>9.3}{:>9.3}", at(0.5), at(0.99), at(1.0));
}

fn runs() -> Result<usize> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--runs") {
        Some(at) => Ok(arguments.get(at + 1).context("--runs NUMBER")?.parse()?),
        None => Ok(RUNS),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let runs = runs()?;
    // Whoever links the client says which cryptography it uses.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let upstream = std::net::TcpListener::bind("127.0.0.1:0")?;
    upstream.set_nonblocking(true)?;
    let url = format!("http://{}", upstream.local_addr()?);
    std::thread::spawn(move || serve(upstream));
    let directory = tempfile::tempdir()?;
    let dir = directory.path().join("state");
    let (_dev, addresses) = start(&dir, &url)?;
    let token = std::fs::read_to_string(dir.join("identities/billing/token"))?;
    let gateway = addresses.gateway.trim_start_matches("http://");
    let target = Target::find(&Pointers { dir: Some(dir.clone()), ..Pointers::default() }, &Environment::default())?;
    let mut client = Client::connect(&target).await?;
    println!("{:<52}{:>9}{:>9}{:>9}", format!("milliseconds, {runs} runs each"), "p50", "p99", "worst");
    for kind in &KINDS {
        let mut measured = Vec::with_capacity(runs);
        for _ in 0..WARM_UP {
            run(&mut client, kind, gateway, token.trim()).await?;
        }
        for _ in 0..runs {
            measured.push(run(&mut client, kind, gateway, token.trim()).await?);
        }
        let times = |of: fn(&Run) -> f64| measured.iter().map(of).collect::<Vec<_>>();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        report(&format!("{}: revocation sent to last byte", kind.name), times(|run| run.ended.as_secs_f64() * 1e3));
        let acknowledged = times(|run| run.acknowledged.as_secs_f64() * 1e3);
        report(&format!("{}: revocation sent to acknowledged", kind.name), acknowledged);
        let after = measured.iter().map(|run| ms(run.ended) - ms(run.acknowledged)).collect();
        report(&format!("{}: acknowledged to last byte (< 0: before)", kind.name), after);
    }
    Ok(())
}

fn serve(upstream: std::net::TcpListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let router = Router::new().route("/events", get(events)).route("/socket", get(socket));
        axum::serve(tokio::net::TcpListener::from_std(upstream)?, router).await?;
        Ok(())
    })
}
