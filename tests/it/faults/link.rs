//! The network between a gateway and its control plane: a proxy that holds back, delays and cuts.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often a pump looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What the network does to what goes one way.
#[derive(Debug, Default)]
struct Way {
    is_held: AtomicBool,
    delay_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// From the gateway.
    up: Way,
    /// To the gateway.
    down: Way,
    open: Mutex<Vec<TcpStream>>,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Link {
    pub(crate) fn start(control: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<State> = Arc::default();
        let kept = state.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // As if nobody were there; the gateway tries again.
                let Ok(far) = TcpStream::connect(control) else { continue };
                let halves = || Some([near.try_clone().ok()?, far.try_clone().ok()?]);
                let (Some([near_in, far_out]), Some([near_out, far_in])) = (halves(), halves()) else { continue };
                let mut open = kept.open.lock().unwrap();
                open.retain(|stream| stream.peer_addr().is_ok());
                open.extend([near, far]);
                drop(open);
                let state = kept.clone();
                std::thread::spawn(move || pump(near_in, far_out, &state.up));
                let state = kept.clone();
                std::thread::spawn(move || pump(far_in, near_out, &state.down));
            }
        });
        Self { address, state }
    }

    /// Holds back what goes up, what goes down, or both, from now on.
    pub(crate) fn hold(&self, up: bool, down: bool) {
        self.state.up.is_held.store(up, SeqCst);
        self.state.down.is_held.store(down, SeqCst);
    }

    /// Everything takes this much longer each way.
    pub(crate) fn delay(&self, up: Duration, down: Duration) {
        self.state.up.delay_ms.store(up.as_millis() as u64, SeqCst);
        self.state.down.delay_ms.store(down.as_millis() as u64, SeqCst);
    }

    /// Every connection ends.
    pub(crate) fn cut(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn heal(&self) {
        self.hold(false, false);
        self.delay(Duration::ZERO, Duration::ZERO);
    }
}

/// Carries what one side sends to the other, in order, when the network lets it.
fn pump(mut from: TcpStream, mut to: TcpStream, way: &Way) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(500)));
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        let arrived = Instant::now();
        while way.is_held.load(SeqCst) || arrived.elapsed() < Duration::from_millis(way.delay_ms.load(SeqCst)) {
            std::thread::sleep(LOOK_EVERY);
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
