//! Names and identifiers, parsed at the edge.
//!
//! A name that exists as a value of these types is well formed: ASCII, bounded, printable, free of anything that a log
//! line, a header or a path could misread.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest accepted name in bytes: they are indexed, logged and put into headers.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what}: {rule}")]
pub struct NameError {
    text: String,
    what: &'static str,
    rule: &'static str,
}

/// Which characters a kind of name takes.
enum Alphabet {
    /// Objects of ours: lower case, so that two names never differ by case alone.
    Lower,
    /// Names that others gave (a tool's action, a path parameter): case as it is.
    Cased,
    /// As [`Alphabet::Cased`], in segments parted by `/`.
    Path,
}

impl Alphabet {
    /// The same as a regular expression, for schemas.
    const fn pattern(&self) -> &'static str {
        match self {
            Self::Lower => "^[a-z0-9][a-z0-9._-]*$",
            Self::Cased => "^[A-Za-z0-9][A-Za-z0-9._-]*$",
            Self::Path => "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$",
        }
    }
}

fn checked(text: &str, what: &'static str, alphabet: &Alphabet) -> Result<Arc<str>, NameError> {
    let rule = match alphabet {
        Alphabet::Lower => "lower-case letters, digits and . _ -, starting with a letter or digit, at most 128 bytes",
        Alphabet::Cased => "letters, digits and . _ -, starting with a letter or digit, at most 128 bytes",
        Alphabet::Path => "letters, digits and . _ - in segments parted by /, at most 128 bytes",
    };
    let letter = |b: u8| b.is_ascii_lowercase() || (!matches!(alphabet, Alphabet::Lower) && b.is_ascii_uppercase());
    let segment = |part: &str| {
        part.bytes().next().is_some_and(|b| letter(b) || b.is_ascii_digit())
            && part.bytes().all(|b| letter(b) || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
    };
    let whole = match alphabet {
        Alphabet::Path => text.split('/').all(segment),
        Alphabet::Lower | Alphabet::Cased => segment(text),
    };
    let good = text.len() <= MAX_NAME_BYTES && whole;
    if good {
        Ok(text.into())
    } else {
        let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
        Err(NameError { text: shown, what, rule })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $alphabet:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("format" = $what, "pattern" = Alphabet::$alphabet.pattern(), "maxLength" = MAX_NAME_BYTES))]
        pub struct $type(Arc<str>);

        impl $type {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked(text, $what, &Alphabet::$alphabet).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of an identity in the inventory, for example `billing`.
    IdentityName, "identity name", Lower
);
name!(
    /// The name of a resource, for example `api/orders`.
    ResourceName, "resource name", Path
);
name!(
    /// What a call does to a resource, for example `read`.
    ActionName, "action name", Cased
);
name!(
    /// The name of a route.
    RouteName, "route name", Lower
);
name!(
    /// The name of a role.
    RoleName, "role name", Lower
);
name!(
    /// The name of an exception.
    ExceptionName, "exception name", Lower
);
name!(
    /// The name of a source of tickets.
    TicketSourceName, "ticket source name", Lower
);
name!(
    /// The name of a person, a team or another owner.
    OwnerName, "owner name", Lower
);
name!(
    /// The name of a gateway.
    GatewayName, "gateway name", Lower
);
name!(
    /// The name of a path parameter, for example `order`.
    ParameterName, "parameter name", Cased
);

/// Why a text is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: 26 characters of Crockford base32 (a ULID)")]
pub struct IdError;

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 128 bits in Crockford's base32, as ULIDs are written.
pub(crate) fn ulid_text(bits: u128) -> [u8; 26] {
    let mut text = [b'0'; 26];
    // Twelve digits fit into half of the bits: each step of the whole costs two.
    let (last, rest) = (bits & (u128::MAX >> (128 - 60)), bits >> 60);
    let parts = [(rest >> 60, 2), (rest & (u128::MAX >> (128 - 60)), 12), (last, 12)];
    let mut places = text.as_mut_slice();
    for (part, digits) in parts {
        let (here, others) = std::mem::take(&mut places).split_at_mut(digits);
        places = others;
        let mut part = u64::try_from(part).unwrap_or(0);
        for place in here.iter_mut().rev() {
            *place = CROCKFORD.get(usize::try_from(part & 31).unwrap_or(0)).copied().unwrap_or(b'0');
            part >>= 5;
        }
    }
    text
}

fn format_ulid(bits: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(std::str::from_utf8(&ulid_text(bits)).map_err(|_| fmt::Error)?)
}

fn parse_ulid(text: &str) -> Result<u128, IdError> {
    let bytes = text.as_bytes();
    if bytes.len() != 26 || bytes.first().is_none_or(|b| *b > b'7') {
        return Err(IdError);
    }
    bytes.iter().try_fold(0u128, |value, byte| {
        let digit = CROCKFORD.iter().position(|c| *c == byte.to_ascii_uppercase()).ok_or(IdError)?;
        Ok((value << 5) | digit as u128)
    })
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("pattern" = "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$"))]
        pub struct $type(u128);

        impl $type {
            /// From its 128 bits.
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// Its 128 bits: 48 of Unix milliseconds, then 80 that make it unique.
            pub const fn bits(self) -> u128 {
                self.0
            }

            /// Of a moment and 80 bits that the caller draws at random.
            pub const fn new(now: super::Timestamp, random: u128) -> Self {
                let millis = (now.unix_micros() / 1000) as u128 & ((1 << 48) - 1);
                Self((millis << 80) | (random & ((1 << 80) - 1)))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                format_ulid(self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                format_ulid(self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_ulid(text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.to_string()
            }
        }
    };
}

id!(
    /// A grant's identifier.
    GrantId
);
id!(
    /// A request's identifier.
    RequestId
);
id!(
    /// The identifier of a change of catalog or policy that takes another person's word.
    ChangeId
);
id!(
    /// The identifier of a break-glass.
    BreakGlassId
);
id!(
    /// The identifier of an approval.
    ApprovalId
);
id!(
    /// The identifier of a delegation of approvals.
    DelegationId
);
id!(
    /// Uses of a counted grant that one gateway may spend.
    AllotmentId
);
id!(
    /// One call through a gateway: in the answer's headers, in the evidence, towards the upstream.
    CallId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_a_log_or_a_path_could_misread() {
        for good in ["billing", "a", "0.a-b_c"] {
            assert!(good.parse::<IdentityName>().is_ok(), "{good}");
        }
        let long = "a".repeat(129);
        for bad in ["", "A", "-a", "a b", "a/b", "a\nb", "ä", &long] {
            assert!(bad.parse::<IdentityName>().is_err(), "{bad}");
        }
        assert!("api/orders".parse::<ResourceName>().is_ok());
        for bad in ["/api", "api/", "api//orders", "api/../x", "api/."] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_bit_of_an_identifier_has_its_place_in_its_text() {
        let ends = [0, u128::MAX, 1, 1 << 59, 1 << 60, 1 << 119, 1 << 120, (1 << 120) - 1];
        for bits in ends.into_iter().chain((0..128).map(|shift| 0x1b << shift)) {
            let text = ulid_text(bits);
            assert_eq!(parse_ulid(std::str::from_utf8(&text).unwrap()), Ok(bits));
        }
        assert_eq!(&ulid_text(u128::MAX), b"7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(&ulid_text(0x20), b"00000000000000000000000010");
    }

    #[test]
    fn ids_read_back_what_they_show() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = GrantId::from_bits(bits);
            assert_eq!(id.to_string().len(), 26);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!("80000000000000000000000000".parse::<GrantId>().is_err());
        assert!("0000000000000000000000000U".parse::<GrantId>().is_err());
    }
}
