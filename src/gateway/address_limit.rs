//! Connections per client address: one machine cannot take every place that there is.
//!
//! Memory is bounded by the limit of connections overall: an address is remembered for as long as it has one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Leading bits of an IPv6 address that one client is given to use as it likes (RFC 6177 section 2).
const CLIENT_BITS: u32 = 64;

/// How many connections each address has.
#[derive(Debug)]
pub(crate) struct AddressLimit {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize, ahash::RandomState>>,
}

/// A place of an address; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    limit: Arc<AddressLimit>,
    client: IpAddr,
}

impl AddressLimit {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A place for one more connection; `None`: the address has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = client(address);
        let mut open = self.open.lock();
        let count = open.entry(client).or_insert(0);
        // An entry of zero cannot be: the limit is at least one.
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { limit: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.limit.open.lock();
        if let Some(count) = open.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Whom an address stands for.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - CLIENT_BITS))).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_places_and_gives_them_back() {
        let limit = AddressLimit::new(2);
        let take = |address: &str| limit.take(address.parse().unwrap());
        let (one, _two) = (take("10.0.0.1").unwrap(), take("::ffff:10.0.0.1").unwrap());
        assert!(take("10.0.0.1").is_none());
        let other = take("10.0.0.2").unwrap();
        drop(one);
        let again = take("10.0.0.1").unwrap();
        assert!(take("10.0.0.1").is_none());
        // A whole IPv6 network is one client.
        let (_a, _b) = (take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap());
        assert!(take("2001:db8:0:0:ffff::1").is_none() && take("2001:db8:0:1::1").is_some());
        drop((other, again));
        assert_eq!(limit.open.lock().len(), 2, "who has left is forgotten");
    }
}
