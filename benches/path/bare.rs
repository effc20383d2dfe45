//! The bare proxy library passing calls through: what `benches/path/run` compares the gate with.
//!
//! `bare LISTEN UPSTREAM`: one thread, no work stealing, the small read buffer, a large upstream pool: the library at its
//! best, doing nothing but forwarding.
#![allow(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

use async_trait::async_trait;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    upstream: std::net::SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();
    fn new_ctx(&self) {}
    async fn upstream_peer(&self, _session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        println!("bare: needs LISTEN and UPSTREAM; run by benches/path/run");
        return;
    };
    let conf =
        ServerConf { threads: 1, work_stealing: false, upstream_keepalive_pool_size: 512, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { upstream: upstream.parse().unwrap() });
    service.add_listener(ListenerConfig::tcp(&listen).l4_buffer(L4BufferSettings::new(4096, 1460)));
    server.add_service(service);
    server.run_forever();
}
