//! The open connections that showed a client certificate: what a change of trust has to look through.
//!
//! A connection enters after its handshake and leaves by being dropped. Its chain is kept, so that it can be verified
//! again; how large one may be and how many there are is bounded by the handshake and the limit of connections.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use slab::Slab;

use super::TlsListener;
use crate::gateway::live::ConnectionId;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: Mutex<Slab<Weak<OpenClient>>>,
    count: AtomicU64,
}

/// One of them. Dropping it says that the connection is over.
#[derive(Debug)]
pub(crate) struct OpenClient {
    clients: Arc<Clients>,
    place: usize,
    id: ConnectionId,
    listener: Arc<TlsListener>,
    /// The leaf first, as it was shown.
    chain: Vec<CertificateDer<'static>>,
    withdrawn: AtomicBool,
}

impl Clients {
    pub(super) fn enter(
        self: &Arc<Self>,
        listener: Arc<TlsListener>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Arc<OpenClient> {
        let id = ConnectionId::numbered(self.count.fetch_add(1, Ordering::Relaxed));
        let mut open = self.open.lock();
        let slot = open.vacant_entry();
        let withdrawn = AtomicBool::new(false);
        let client = Arc::new(OpenClient { clients: self.clone(), place: slot.key(), id, listener, chain, withdrawn });
        slot.insert(Arc::downgrade(&client));
        client
    }

    /// Those that `untrusted` names and that nobody has named before. Asks without holding up those who come and go.
    pub(super) fn untrusted(&self, untrusted: impl Fn(&OpenClient) -> bool) -> Vec<Arc<OpenClient>> {
        let mut all: Vec<_> = self.open.lock().iter().filter_map(|(_, client)| client.upgrade()).collect();
        all.retain(|client| !client.is_withdrawn() && untrusted(client));
        all
    }
}

impl OpenClient {
    /// Which connection it is.
    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether its certificate is trusted no more.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    pub(super) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::SeqCst);
    }

    /// Verifies the chain by what its listener trusts now.
    pub(super) fn verify(&self, now: UnixTime) -> Result<(), rustls::Error> {
        let current = self.listener.current();
        let refused = rustls::Error::NoCertificatesPresented;
        let (Some(verifier), Some((leaf, intermediates))) = (&current.verifier, self.chain.split_first()) else {
            return Err(refused);
        };
        verifier.verify_client_cert(leaf, intermediates, now).map(drop)
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.clients.open.lock().try_remove(self.place);
    }
}
