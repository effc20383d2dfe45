//! Which addresses are connected to: not those where a machine's own credentials are handed out.
//!
//! Whoever can write a route could otherwise have the gateway ask the metadata service of its own machine. Loopback and
//! private networks are where upstreams are; what lies beside them is the operator's to allow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Metadata services at addresses that are not link-local: AWS over IPv6, Alibaba, Azure's host agent, Oracle.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// What a gateway may connect to.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    allow: Vec<IpNet>,
}

impl Reach {
    pub(crate) fn new(allow: &[IpNet]) -> Self {
        Self { allow: allow.to_vec() }
    }

    /// Whether `address` may be connected to.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let forms = [Some(address), embedded(address).map(IpAddr::V4)];
        let refused = forms.into_iter().flatten().any(is_special);
        // A network of IPv4 is allowed in each of its spellings.
        let allowed = |form: IpAddr| self.allow.iter().any(|network| network.contains(&form));
        !refused || forms.into_iter().flatten().any(allowed)
    }
}

fn is_special(address: IpAddr) -> bool {
    METADATA.contains(&address)
        || match address {
            IpAddr::V4(v4) => {
                v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets().first() == Some(&0)
            }
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified(),
        }
}

/// The IPv4 address inside an IPv6 one: mapped (RFC 4291 section 2.5.5.2), compatible (2.5.5.1), translated (RFC 6052
/// section 2.1, RFC 2765 section 2.1) or 6to4 (RFC 3056 section 2).
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let of = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => of(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(reach: &Reach, address: &str) -> bool {
        reach.allows(address.parse().unwrap())
    }

    #[test]
    fn metadata_and_link_local_addresses_are_refused_in_every_spelling() {
        let reach = Reach::default();
        for refused in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "febf::1",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "::ffff:100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(!allows(&reach, refused), "{refused}");
        }
        for usual in
            ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "::ffff:127.0.0.1", "fd00::1", "8.8.8.8", "2001:db8::1"]
        {
            assert!(allows(&reach, usual), "{usual}");
        }
    }

    #[test]
    fn an_allowed_network_opens_itself_and_nothing_beside() {
        let reach = Reach::new(&["169.254.170.2/32".parse().unwrap(), "fe80::/64".parse().unwrap()]);
        assert!(allows(&reach, "169.254.170.2") && allows(&reach, "::ffff:169.254.170.2") && allows(&reach, "fe80::9"));
        assert!(!allows(&reach, "169.254.169.254") && !allows(&reach, "169.254.170.3") && !allows(&reach, "fe80:1::9"));
    }
}
