//! Clients that nobody here wrote, unmodified: Node's undici and Python's websockets. `./test` installs them and says where
//! by `PORTCULLIS_CLIENTS`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::dev::{Dev, Done, Stream};

/// Where `./test` has put them.
pub(crate) fn clients() -> PathBuf {
    let place =
        std::env::var_os("PORTCULLIS_CLIENTS").expect("PORTCULLIS_CLIENTS says where the clients are: run ./test");
    PathBuf::from(place)
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name)
}

#[test]
fn undici_keeps_connections_and_speaks_http2_over_mutual_tls() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read", "write"]);
    let mut node = Command::new("node");
    node.arg(script("calls.mjs")).args([&dev.addresses.gateway, &dev.addresses.gateway_tls, &dev.token("billing")]);
    node.arg(dev.dir().join("identities/billing")).arg(dev.dir().join("ca.pem"));
    node.env("NODE_PATH", clients().join("node_modules")).stdin(Stdio::null());
    let done = Done::of(node.output().expect("node runs")).exits(0);
    assert_eq!(done.stdout.trim(), "ok", "{done:?}");
}

#[test]
fn a_python_websocket_echoes_until_its_grant_is_revoked() {
    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let mut python = Command::new(clients().join("venv/bin/python"));
    python.arg(script("echo.py")).stdin(Stdio::null());
    python
        .arg(format!("{}/v1/orders/socket", dev.addresses.gateway.replace("http://", "ws://")))
        .arg(dev.token("billing"));
    let socket = Stream::of(python);
    socket.line("open");
    let receipt = dev.revoke(&grant);
    assert_eq!(receipt["enforced"], true, "{receipt}");
    let told = socket.line("closed");
    assert_eq!(told, "closed abruptly");
}
