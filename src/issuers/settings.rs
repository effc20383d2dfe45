//! What is settled about a trusted issuer before the gateway runs: values that cannot be wrong.
//!
//! The file is read elsewhere; here its values become a profile, a source of keys and two bounds on their age, or a list of
//! faults. Fetches nothing.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::settings::issuer::{self as settings, IssuerSettings};
use crate::token::verify::{IssuerProfile, ProfileError, TokenTypes};

/// How often keys are fetched from a URL where nothing else is said.
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);
/// How long the last good keys serve where nothing else is said.
pub const DEFAULT_MAX_STALE: Duration = Duration::from_secs(3600);
/// More often than this would be a burden on the issuer.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// Files are looked at this often at least: it costs nothing, and a key taken out is to be gone.
const FILE_REFRESH: Duration = Duration::from_secs(5);
/// Longest that keys may serve unconfirmed.
const LONGEST_STALE: Duration = Duration::from_secs(30 * 86_400);
/// For the whole fetch: a caller may be waiting for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// An issuer that the gateway trusts.
#[derive(Clone, Debug)]
pub struct TrustedIssuer {
    pub(super) profile: IssuerProfile,
    pub(super) source: KeySource,
    pub(super) refresh: Duration,
    pub(super) max_stale: Duration,
    pub(super) fetch_timeout: Duration,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A JWKS file.
    File(PathBuf),
    /// A JWKS document over HTTP.
    Url(JwksUrl),
}

/// Why an issuer is not settled well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerSettingError {
    /// Too often.
    #[error("keys can be refreshed once a second at most")]
    Refresh,
    /// Shorter than the refresh, or very long.
    #[error("the longest staleness is at least the refresh and at most 30d")]
    MaxStale,
    /// What is accepted from it.
    #[error(transparent)]
    Profile(ProfileError),
    /// Where its keys are.
    #[error(transparent)]
    Url(JwksUrlError),
}

impl TrustedIssuer {
    /// The issuer of `profile`, with its keys from `source`, fetched every `refresh`, of use for `max_stale` unconfirmed.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn new(
        profile: IssuerProfile,
        source: KeySource,
        refresh: Option<Duration>,
        max_stale: Option<Duration>,
    ) -> Result<Self, Vec<IssuerSettingError>> {
        let (refresh, max_stale) = (refresh.unwrap_or(DEFAULT_REFRESH), max_stale.unwrap_or(DEFAULT_MAX_STALE));
        let faults: Vec<_> = [
            (refresh < MIN_REFRESH).then_some(IssuerSettingError::Refresh),
            (max_stale < refresh || max_stale > LONGEST_STALE).then_some(IssuerSettingError::MaxStale),
        ]
        .into_iter()
        .flatten()
        .collect();
        let refresh = match source {
            KeySource::File(_) => refresh.min(FILE_REFRESH),
            KeySource::Url(_) => refresh,
        };
        if faults.is_empty() {
            Ok(Self { profile, source, refresh, max_stale, fetch_timeout: FETCH_TIMEOUT })
        } else {
            Err(faults)
        }
    }
}

impl TryFrom<&IssuerSettings> for TrustedIssuer {
    type Error = Vec<IssuerSettingError>;

    /// Of what the gateway's file says.
    fn try_from(settings: &IssuerSettings) -> Result<Self, Vec<IssuerSettingError>> {
        let IssuerSettings { issuer, keys, audiences, leeway, max_lifetime, refresh, max_stale } = settings;
        let audiences: Vec<&str> = audiences.iter().map(String::as_str).collect();
        let profile = IssuerProfile::trusted(issuer, &audiences, TokenTypes::default(), *leeway, Some(*max_lifetime))
            .map_err(|faults| faults.into_iter().map(IssuerSettingError::Profile).collect::<Vec<_>>())?;
        let source = match keys {
            settings::KeySource::File(path) => KeySource::File(path.clone()),
            settings::KeySource::Url(url) => KeySource::Url(url.parse().map_err(|e| vec![IssuerSettingError::Url(e)])?),
        };
        Self::new(profile, source, Some(*refresh), Some(*max_stale))
    }
}

/// The URL of a key set: `https`, or `http` on loopback. Whoever can change the keys on their way is the issuer.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl {
    url: String,
    tls: bool,
}

/// Why a text is not the URL of a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a key set: https://HOST/PATH, or http:// on loopback, without user information")]
pub struct JwksUrlError;

impl JwksUrl {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }
}

impl FromStr for JwksUrl {
    type Err = JwksUrlError;

    fn from_str(text: &str) -> Result<Self, JwksUrlError> {
        let uri: http::Uri = text.parse().map_err(|_| JwksUrlError)?;
        let authority = uri.authority().ok_or(JwksUrlError)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(JwksUrlError);
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_loopback(authority.host()) => false,
            _ => return Err(JwksUrlError),
        };
        Ok(Self { url: text.to_owned(), tls })
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_loopback_only() {
        for good in [
            "https://token.example/jwks.json",
            "http://127.0.0.1:9/j",
            "http://[::1]:9/j",
            "http://localhost/j",
            "https://a:8443",
        ] {
            assert!(good.parse::<JwksUrl>().is_ok(), "{good}");
        }
        let bad = [
            "",
            "/jwks",
            "http://token.example/j",
            "http://169.254.169.254/j",
            "http://127.0.0.1.evil.example/j",
            "http://localhost.evil/j",
            "ftp://127.0.0.1/j",
            "file:///etc/passwd",
            "https://user@token.example/j",
            "http://127.0.0.1@evil.example/j",
            "https:///j",
            "token.example",
            "http://[::ffff:10.0.0.1]/j",
            "http://0.0.0.0/j",
        ];
        for bad in bad {
            assert!(bad.parse::<JwksUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let profile = || IssuerProfile::trusted("i", &["a"], TokenTypes::default(), Duration::ZERO, None).unwrap();
        let file = || KeySource::File("x".into());
        let faults =
            TrustedIssuer::new(profile(), file(), Some(Duration::ZERO), Some(Duration::from_secs(30 * 86_400 + 1)))
                .unwrap_err();
        assert_eq!(faults, [IssuerSettingError::Refresh, IssuerSettingError::MaxStale]);
        assert_eq!(TrustedIssuer::new(profile(), file(), None, None).unwrap().refresh, FILE_REFRESH);
    }

    #[test]
    fn the_files_issuers_become_trusted_ones() {
        let day = Duration::from_secs(86_400);
        let file = IssuerSettings {
            issuer: "https://token.example".into(),
            keys: settings::KeySource::Url("https://token.example/jwks".into()),
            audiences: vec!["gate".into()],
            leeway: Duration::from_secs(5),
            max_lifetime: day,
            refresh: Duration::from_secs(60),
            max_stale: day,
        };
        let trusted = TrustedIssuer::try_from(&file).unwrap();
        assert_eq!(
            (&**trusted.profile.issuer(), trusted.refresh, trusted.max_stale),
            ("https://token.example", file.refresh, day)
        );
        let bad = IssuerSettings { keys: settings::KeySource::Url("http://token.example/jwks".into()), ..file };
        assert_eq!(TrustedIssuer::try_from(&bad).unwrap_err(), [IssuerSettingError::Url(JwksUrlError)]);
    }
}
