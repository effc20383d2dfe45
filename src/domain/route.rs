//! Routes: from a request's host, method and path to a resource, an action and parameters, and on to an upstream.
//!
//! Paths here are canonical: the edge has refused every other spelling, so templates compare bytes.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{ActionName, ParameterName, ResourceName, RouteName};
use super::size::Size;
use super::trust::{Protocol, UpstreamTls};

/// Actions that one route may have.
pub const MAX_ACTIONS: usize = 256;
/// Segments of a path template.
pub const MAX_SEGMENTS: usize = 64;

/// The `spec` of a `Route` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The host that calls name, without a port; without it any host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// Where calls go.
    pub upstream: UpstreamUrl,
    /// What the upstream is spoken to with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// How an `https` upstream is verified. Default: by its URL's host and the authorities of the gateway's system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// The resource that calls touch.
    pub resource: ResourceName,
    /// What calls do to it. The most specific match counts, never the order.
    pub actions: Vec<ActionRule>,
    /// What the upstream gets in place of the caller's credential.
    #[serde(default)]
    pub credential: CredentialRule,
    /// Whether the body is read before the call is decided: `stream` (default), `inspect` (up to 4MiB) or
    /// `inspect(SIZE)`, at most 64MiB.
    #[serde(default)]
    pub body: BodyRule,
}

fn is_default(protocol: &Protocol) -> bool {
    *protocol == Protocol::default()
}

impl RouteSpec {
    /// What does not go together in it, each fault beginning with its field.
    pub fn faults(&self) -> Vec<&'static str> {
        let (upstream, tls) = (&self.upstream, &self.tls);
        let mut faults = match tls {
            Some(tls) => tls.faults(&upstream.host, upstream.tls),
            None if upstream.tls => UpstreamTls::default().faults(&upstream.host, true),
            None => Vec::new(),
        };
        let posts = |rule: &ActionRule| rule.methods.iter().all(|method| *method == Method::Post);
        if self.protocol == Protocol::Grpc && !self.actions.iter().all(posts) {
            faults.push("protocol: gRPC calls are POST: no action of the route can have another method");
        }
        faults
    }
}

/// A route of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// What its document says.
    pub spec: RouteSpec,
}

/// One action of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRule {
    /// The action's name. Several rules may share one.
    pub name: ActionName,
    /// Methods that mean it, upper case.
    pub methods: Vec<Method>,
    /// Paths that mean it.
    pub path: PathTemplate,
}

/// What the upstream gets in place of the caller's credential, which never passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialRule {
    /// A short-lived token signed by the gateway, with the resource as its audience.
    #[default]
    Mint,
    /// Nothing.
    None,
}

/// Whether the request's body takes part in the decision: `stream`, `inspect` or `inspect(4MiB)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "body rule"))]
pub enum BodyRule {
    /// It streams past, unread.
    #[default]
    Stream,
    /// It is read whole, up to this size, before the call is decided and before anything goes upstream.
    Inspect(Size),
}

/// What `inspect` alone takes: an MCP message or a JSON document, not an upload.
pub const DEFAULT_INSPECTED: Size = Size::mebibytes(4);
/// The largest body that a route can have inspected: each one lies in memory until its call ends.
pub const MAX_INSPECTED: Size = Size::mebibytes(64);

impl FromStr for BodyRule {
    type Err = RouteTextError;
    fn from_str(text: &str) -> Result<Self, RouteTextError> {
        let bad =
            || RouteTextError("not a body rule: `stream`, `inspect` or `inspect(SIZE)` of 1B to 64MiB".to_owned());
        match text {
            "stream" => return Ok(Self::Stream),
            "inspect" => return Ok(Self::Inspect(DEFAULT_INSPECTED)),
            _ => {}
        }
        let size = text.strip_prefix("inspect(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(bad)?;
        let size: Size = size.parse().map_err(|_| bad())?;
        if size == Size::bytes(0) || size > MAX_INSPECTED { Err(bad()) } else { Ok(Self::Inspect(size)) }
    }
}

impl fmt::Display for BodyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream => f.write_str("stream"),
            Self::Inspect(size) => write!(f, "inspect({size})"),
        }
    }
}

impl TryFrom<String> for BodyRule {
    type Error = RouteTextError;
    fn try_from(text: String) -> Result<Self, RouteTextError> {
        text.parse()
    }
}

impl From<BodyRule> for String {
    fn from(rule: BodyRule) -> Self {
        rule.to_string()
    }
}

/// An HTTP method that routes can name. `CONNECT` and `TRACE` are never forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    /// Of a request's method token, case-sensitive (RFC 9110 section 9.1).
    pub fn parse(token: &str) -> Option<Self> {
        Some(match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => return None,
        })
    }

    /// The method token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

/// A host name or address as requests carry it, lower case, without a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "host"))]
pub struct Host(String);

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RouteTextError(String);

impl Host {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host of a `Host` header or `:authority`, without its port, lower case.
    ///
    /// # Errors
    /// When it is not a plain host with an optional port (RFC 9110 section 7.2): user information, empty, other bytes.
    pub fn of_authority(authority: &str) -> Result<Self, RouteTextError> {
        host_of(authority).map(|host| Self(host.to_ascii_lowercase())).ok_or_else(|| bad_host(authority))
    }

    /// Whether [`Host::of_authority`] finds one.
    ///
    /// # Errors
    /// As there.
    pub fn check_authority(authority: &str) -> Result<(), RouteTextError> {
        host_of(authority).map(drop).ok_or_else(|| bad_host(authority))
    }
}

fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']')?;
            let host = authority.get(..inside.len() + 2)?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let number = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_some_and(|port| !number(port) || port.parse::<u16>().is_err()) {
        return None;
    }
    Some(host).filter(|host| is_host(host))
}

fn is_host(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    is_plain_host(text) || inside.is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok())
}

fn bad_host(text: &str) -> RouteTextError {
    let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
    RouteTextError(format!("`{shown}` is not a host name or address"))
}

impl FromStr for Host {
    type Err = RouteTextError;
    fn from_str(text: &str) -> Result<Self, RouteTextError> {
        if is_host(text) { Ok(Self(text.to_ascii_lowercase())) } else { Err(bad_host(text)) }
    }
}

/// Labels of letters, digits, `-` and `_`, 63 at most, parted by dots, 253 in all. One pass: it stands on every call's way.
fn is_plain_host(text: &str) -> bool {
    let mut label = 0;
    for byte in text.bytes() {
        label = match byte {
            b'.' if label > 0 => 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' if label < 63 => label + 1,
            _ => return false,
        };
    }
    label > 0 && text.len() <= 253
}

impl TryFrom<String> for Host {
    type Error = RouteTextError;
    fn try_from(text: String) -> Result<Self, RouteTextError> {
        text.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a route's calls go: `http://HOST[:PORT]` or `https://HOST[:PORT]`, without a path.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "upstream"))]
pub struct UpstreamUrl {
    /// Whether to speak TLS; the certificate is verified then, always.
    pub tls: bool,
    /// Host name or address (IPv6 in brackets).
    pub host: Host,
    /// TCP port.
    pub port: u16,
}

impl UpstreamUrl {
    /// `HOST:PORT`, as the upstream's `Host` header has it.
    pub fn authority(&self) -> String {
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => self.host.0.clone(),
            (_, port) => format!("{}:{port}", self.host.0),
        }
    }
}

impl FromStr for UpstreamUrl {
    type Err = RouteTextError;
    fn from_str(text: &str) -> Result<Self, RouteTextError> {
        let bad = || {
            RouteTextError(format!(
                "`{text}` is not an upstream: http://HOST[:PORT] or https://HOST[:PORT], without a path"
            ))
        };
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(bad()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let host = Host::of_authority(authority).map_err(|_| bad())?;
        let port = match authority.get(host.0.len()..).unwrap_or_default() {
            "" => {
                if tls {
                    443
                } else {
                    80
                }
            }
            port => port.trim_start_matches(':').parse().map_err(|_| bad())?,
        };
        if port == 0 { Err(bad()) } else { Ok(Self { tls, host, port }) }
    }
}

impl TryFrom<String> for UpstreamUrl {
    type Error = RouteTextError;
    fn try_from(text: String) -> Result<Self, RouteTextError> {
        text.parse()
    }
}

impl From<UpstreamUrl> for String {
    fn from(url: UpstreamUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Exactly this text.
    Literal(String),
    /// Any one segment that is not empty: a parameter, `{name}`.
    Parameter(ParameterName),
}

/// A path template: `/v1/orders/{order}`, `/v1/orders/**` (the rest, also nothing), `/**` (every path).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "path template"))]
pub struct PathTemplate {
    segments: Vec<Segment>,
    rest: bool,
}

impl PathTemplate {
    /// Its segments, without the rest.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it ends in `**`.
    pub fn takes_rest(&self) -> bool {
        self.rest
    }

    /// Calls `parameter` with each parameter and its value when `path` (canonical, without a query) matches.
    /// Values are as they stand in the path, percent-encoding included.
    pub fn matches<'p>(&self, path: &'p str, mut parameter: impl FnMut(&ParameterName, &'p str)) -> bool {
        // `/v1/orders` and `/v1/orders/` are two paths; `**` takes both, also after a literal.
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut parts = path.split('/');
        let mut found: smallvec::SmallVec<[(&ParameterName, &'p str); 4]> = smallvec::SmallVec::new();
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Literal(text), Some(part)) if same(text, part) => {}
                (Segment::Parameter(name), Some(part)) if !part.is_empty() => found.push((name, part)),
                _ => return false,
            }
        }
        if !self.rest && parts.next().is_some() {
            return false;
        }
        for (name, value) in found {
            parameter(name, value);
        }
        true
    }

    /// How specific it is against another: [`Ordering::Greater`] is more specific. `None`: neither, and some path may
    /// match both.
    pub fn specificity(&self, other: &Self) -> Option<Ordering> {
        let mut order = Ordering::Equal;
        let mut prefer = |this: Ordering| -> bool {
            if order == Ordering::Equal {
                order = this;
            }
            order == this || this == Ordering::Equal
        };
        for place in 0..self.segments.len().max(other.segments.len()) {
            let step = match (self.segments.get(place), other.segments.get(place)) {
                (Some(Segment::Literal(_)), Some(Segment::Parameter(_)) | None)
                | (Some(Segment::Parameter(_)), None) => Ordering::Greater,
                (Some(Segment::Parameter(_)) | None, Some(Segment::Literal(_)))
                | (None, Some(Segment::Parameter(_))) => Ordering::Less,
                _ => Ordering::Equal,
            };
            if !prefer(step) {
                return None;
            }
        }
        let tail = match (self.rest, other.rest) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            _ => Ordering::Equal,
        };
        prefer(tail).then_some(order)
    }

    /// Whether some path matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = self.segments.len().min(other.segments.len());
        let apart = self
            .segments
            .iter()
            .zip(&other.segments)
            .any(|pair| matches!(pair, (Segment::Literal(a), Segment::Literal(b)) if !same(a, b)));
        if apart {
            return false;
        }
        (self.segments.len() == shorter && (self.rest || other.segments.len() == shorter))
            || (other.segments.len() == shorter && other.rest)
    }
}

impl FromStr for PathTemplate {
    type Err = RouteTextError;

    fn from_str(text: &str) -> Result<Self, RouteTextError> {
        let bad = |why: &str| RouteTextError(format!("`{text}` is not a path template: {why}"));
        let path = text.strip_prefix('/').ok_or_else(|| bad("it does not begin with /"))?;
        let mut parts: Vec<&str> = path.split('/').collect();
        let rest = parts.last() == Some(&"**");
        if rest {
            parts.pop();
        }
        if parts.len() > MAX_SEGMENTS {
            return Err(bad("it has more than 64 segments"));
        }
        let mut segments: Vec<Segment> = Vec::with_capacity(parts.len());
        let last = parts.len().saturating_sub(1);
        for (place, part) in parts.iter().enumerate() {
            let segment = if let Some(name) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                let name: ParameterName = name.parse().map_err(|e: super::name::NameError| bad(&e.to_string()))?;
                if segments.contains(&Segment::Parameter(name.clone())) {
                    return Err(bad("a parameter stands in it twice"));
                }
                Segment::Parameter(name)
            } else {
                // An empty last segment is the path's trailing slash; `/` alone is the root.
                let empty_inside = part.is_empty() && (place != last || rest);
                let literal = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
                if empty_inside
                    || matches!(*part, "." | ".." | "**")
                    || !part.bytes().all(literal)
                    || part.contains("**")
                {
                    return Err(bad("segments are literal text, {parameter}, or ** at the end"));
                }
                Segment::Literal((*part).to_owned())
            };
            segments.push(segment);
        }
        Ok(Self { segments, rest })
    }
}

impl TryFrom<String> for PathTemplate {
    type Error = RouteTextError;
    fn try_from(text: String) -> Result<Self, RouteTextError> {
        text.parse()
    }
}

impl From<PathTemplate> for String {
    fn from(template: PathTemplate) -> Self {
        template.to_string()
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
            }
        }
        if self.rest { f.write_str("/**") } else { Ok(()) }
    }
}

impl fmt::Debug for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether two segments are one to who reads them: an escape stands for what it escapes (RFC 3986 section 6.2.2.2).
fn same(one: &str, other: &str) -> bool {
    one == other || (one.contains('%') || other.contains('%')) && unescaped(one).eq(unescaped(other))
}

/// The bytes of a segment; what is no escape stands for itself.
fn unescaped(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escape = rest.first().filter(|byte| **byte == b'%').and_then(|_| digit(1).zip(digit(2)));
        let (byte, length) = match escape {
            Some((high, low)) => (u8::try_from(high * 16 + low).ok()?, 3),
            None => (*rest.first()?, 1),
        };
        rest = rest.get(length..).unwrap_or_default();
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> PathTemplate {
        text.parse().unwrap()
    }

    #[test]
    fn a_body_rule_reads_and_shows() {
        for (text, shown) in [
            ("stream", "stream"),
            ("inspect", "inspect(4MiB)"),
            ("inspect(64KiB)", "inspect(64KiB)"),
            ("inspect(1000)", "inspect(1000B)"),
        ] {
            let rule: BodyRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), shown);
            assert_eq!(shown.parse(), Ok(rule), "{shown}");
        }
        for bad in
            ["", "Inspect", "inspect()", "inspect(0)", "inspect(65MiB)", "inspect(4MiB", "inspect 4MiB", "inspect(-1)"]
        {
            assert!(bad.parse::<BodyRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn templates_match_whole_segments() {
        let rest = template("/v1/orders/**");
        for path in ["/v1/orders", "/v1/orders/", "/v1/orders/7", "/v1/orders/7/lines"] {
            assert!(rest.matches(path, |_, _| ()), "{path}");
        }
        for path in ["/v1/order", "/v1/ordersx", "/v1", "v1/orders", "/x/v1/orders"] {
            assert!(!rest.matches(path, |_, _| ()), "{path}");
        }
        let mut seen = Vec::new();
        assert!(template("/v1/{a}/x/{b}").matches("/v1/7/x/8%20", |n, v| seen.push((n.to_string(), v))));
        assert_eq!(seen, [("a".to_owned(), "7"), ("b".to_owned(), "8%20")]);
        assert!(!template("/v1/{a}").matches("/v1/", |_, _| ()));
        assert!(!template("/v1/{a}").matches("/v1/7/", |_, _| ()));
        assert!(template("/**").matches("/", |_, _| ()));
        assert!(template("/").matches("/", |_, _| ()) && !template("/").matches("/a", |_, _| ()));
    }

    #[test]
    fn specificity_is_literal_over_parameter_over_rest() {
        let greater = |a: &str, b: &str| {
            assert_eq!(template(a).specificity(&template(b)), Some(Ordering::Greater), "{a} {b}");
            assert_eq!(template(b).specificity(&template(a)), Some(Ordering::Less), "{b} {a}");
        };
        greater("/v1/orders/events", "/v1/orders/{order}");
        greater("/v1/orders/{order}", "/v1/orders/**");
        greater("/v1/orders/7", "/v1/**");
        greater("/v1/orders", "/v1/orders/**");
        assert_eq!(template("/a/{x}").specificity(&template("/{y}/b")), None);
        assert!(template("/a/{x}").overlaps(&template("/{y}/b")));
        assert!(!template("/a/{x}").overlaps(&template("/b/{y}")));
        assert!(template("/a/**").overlaps(&template("/a")) && !template("/a/b").overlaps(&template("/a")));
        assert!(template("/a/{x}/**").overlaps(&template("/**")));
    }

    #[test]
    fn templates_refuse_other_forms() {
        for bad in ["", "a", "/a//b", "/**/a", "/a**", "/{a}/{a}", "/{a", "/..", "/a b", "/a?b", "/{}"] {
            assert!(bad.parse::<PathTemplate>().is_err(), "{bad}");
        }
        for good in ["/", "/a/", "/**", "/a/{b}/**", "/a%20b"] {
            assert_eq!(template(good).to_string(), good);
        }
    }

    #[test]
    fn authorities_and_upstreams_have_one_reading() {
        assert_eq!(Host::of_authority("A.Example:80").unwrap().as_str(), "a.example");
        assert_eq!(Host::of_authority("[::1]:8080").unwrap().as_str(), "[::1]");
        for bad in ["", "a:", "a:b", "u@a", "a/b", "[::1", "a:1:2", "a,b", "a..b", "a:99999", "[x]:1"] {
            assert!(Host::of_authority(bad).is_err(), "{bad}");
        }
        let url: UpstreamUrl = "http://127.0.0.1:9000".parse().unwrap();
        assert_eq!((url.tls, url.port, url.authority().as_str()), (false, 9000, "127.0.0.1:9000"));
        assert_eq!("https://[::1]/".parse::<UpstreamUrl>().unwrap().to_string(), "https://[::1]");
        for bad in ["127.0.0.1", "ftp://a", "http://a/b", "http://u@a", "http://", "http://a:0"] {
            assert!(bad.parse::<UpstreamUrl>().is_err(), "{bad}");
        }
    }
}
