//! Gateways that join by attestation, as the settings of a control plane describe them: whose word counts, and what whoever
//! is attested becomes.
//!
//! What a gateway stands before is said here, in its template, and by nothing that it brings.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::issuer::{IssuerSettings, RawIssuer, issuers_at};
use super::super::parts::{Check, FilePath, seconds};
use crate::domain::name::{GatewayName, ResourceName, RouteName};
use crate::domain::principal::SpiffeId;
use crate::domain::resource::Span;
use crate::domain::scope::Scope;

/// Longest name of a template: a dash and sixteen characters come after it.
const MAX_TEMPLATE_BYTES: usize = 40;

/// Whose word lets gateways join, and as what.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAttestation {
    /// Trust domains whose X.509-SVIDs count.
    spiffe: Vec<RawDomain>,
    /// Clusters whose projected service account tokens count, each an issuer with an audience of its own for this.
    kubernetes: Vec<RawIssuer>,
    /// What whoever is attested becomes.
    templates: Vec<RawTemplate>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawDomain {
    /// The trust domain, another than this control plane's own.
    trust_domain: String,
    /// Its authorities, PEM; read again within five seconds of a change.
    bundle_file: FilePath,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    /// What its gateways' names begin with: a dash and sixteen characters of their key follow.
    name: String,
    /// The SPIFFE ID of its gateways; a segment of the path may be `*`: any one segment. Either this or `kubernetes`.
    #[serde(default)]
    spiffe: Option<String>,
    /// The service account of its gateways. Either this or `spiffe`.
    #[serde(default)]
    kubernetes: Option<RawAccount>,
    /// Routes that they stand before.
    #[serde(default)]
    routes: BTreeSet<RouteName>,
    /// Resources that they stand before, with all their routes.
    #[serde(default)]
    resources: BTreeSet<ResourceName>,
    /// Whether they stand before everything. Default: false, and then `routes` or `resources` are expected.
    #[serde(default)]
    everything: bool,
    /// Host names and addresses in their certificates, besides those of loopback.
    #[serde(default)]
    hosts: Vec<String>,
    /// How long one may be away before it is let go, 10s to 30d. Default: 10m.
    #[serde(default = "default_gone_after")]
    gone_after: Span,
    /// How many there may be at once, 1 to 1000. Default: 100.
    #[serde(default = "default_most")]
    most: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawAccount {
    /// The cluster: an `issuer` of `kubernetes` above.
    issuer: String,
    /// The namespace, exactly.
    namespace: String,
    /// The service account, exactly.
    service_account: String,
}

/// Whose word lets gateways join, and as what, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttestationSettings {
    /// Trust domains and the files of their authorities.
    pub spiffe: Vec<(String, PathBuf)>,
    /// Clusters.
    pub kubernetes: Vec<IssuerSettings>,
    /// What whoever is attested becomes.
    pub templates: Vec<TemplateSettings>,
}

/// What whoever is attested becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSettings {
    /// What names begin with.
    pub name: GatewayName,
    /// Who that is.
    pub who: AttestedWho,
    /// What they stand before.
    pub scope: Scope,
    /// Host names and addresses in their certificates.
    pub hosts: Vec<String>,
    /// How long one may be away.
    pub gone_after: Duration,
    /// How many there may be.
    pub most: usize,
}

/// Who is meant by a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttestedWho {
    /// Whoever has an X.509-SVID with this ID; `*` is any one segment of its path.
    Spiffe(String),
    /// Pods with a service account.
    Kubernetes {
        /// The cluster.
        issuer: String,
        /// The namespace.
        namespace: String,
        /// The account.
        service_account: String,
    },
}

impl AttestedWho {
    /// Whether a SPIFFE ID is meant: the whole of it, segment by segment.
    pub fn is_spiffe(&self, id: &SpiffeId) -> bool {
        let Self::Spiffe(pattern) = self else { return false };
        let (mut wanted, mut shown) = (pattern.split('/'), id.as_str().split('/'));
        loop {
            match (wanted.next(), shown.next()) {
                (None, None) => return true,
                (Some(wanted), Some(shown)) if wanted == shown || (wanted == "*" && !shown.is_empty()) => {}
                (Some(_) | None, Some(_) | None) => return false,
            }
        }
    }
}

pub(super) fn attestation(check: &mut Check<'_>, raw: &RawAttestation, own_domain: &str) -> AttestationSettings {
    let mut spiffe = Vec::new();
    for (n, domain) in raw.spiffe.iter().enumerate() {
        let at = format!("/attestation/spiffe/{n}/trust_domain");
        if format!("spiffe://{}/x", domain.trust_domain).parse::<SpiffeId>().is_err()
            || domain.trust_domain.contains('/')
        {
            check.fault(&at, "not a trust domain: 1 to 255 of a-z 0-9 . - _, as in example.org");
        }
        if domain.trust_domain == own_domain {
            check.fault(&at, "this control plane's own: in it a gateway is known by a certificate of its CA alone");
        }
        spiffe.push((domain.trust_domain.clone(), check.path(&domain.bundle_file)));
    }
    let kubernetes = issuers_at(check, "/attestation/kubernetes", &raw.kubernetes, None);
    let mut templates: Vec<TemplateSettings> = Vec::new();
    for (n, raw) in raw.templates.iter().enumerate() {
        let at = format!("/attestation/templates/{n}");
        let Some(template) = template(check, &at, raw, &spiffe, &kubernetes) else { continue };
        // One that begins another's name would be taken for it.
        if templates.iter().any(|other| other.name == template.name) {
            check.fault(&format!("{at}/name"), format!("the template `{}` stands here twice", template.name));
        }
        templates.push(template);
    }
    AttestationSettings { spiffe, kubernetes, templates }
}

fn template(
    check: &mut Check<'_>,
    at: &str,
    raw: &RawTemplate,
    spiffe: &[(String, PathBuf)],
    kubernetes: &[IssuerSettings],
) -> Option<TemplateSettings> {
    let gone_after = check.span(&format!("{at}/gone_after"), raw.gone_after, seconds(10), seconds(30 * 86_400));
    let most = check.number(&format!("{at}/most"), raw.most, 1, 1_000);
    let scope = Scope { routes: raw.routes.clone(), resources: raw.resources.clone() };
    if raw.everything != scope.is_everything() {
        check.fault(at, "expected: `routes` and `resources` that they stand before, or `everything: true` alone");
    }
    let name = raw.name.parse::<GatewayName>().ok().filter(|name| name.as_str().len() <= MAX_TEMPLATE_BYTES);
    if name.is_none() {
        check.fault(&format!("{at}/name"), format!("not a gateway's name of at most {MAX_TEMPLATE_BYTES} characters"));
    }
    let who = match (&raw.spiffe, &raw.kubernetes) {
        (Some(pattern), None) => {
            // What stands for one segment is one, so the pattern is an ID when it is replaced.
            let id = pattern.replace("/*", "/x").parse::<SpiffeId>().ok().filter(|id| !id.as_str().contains('*'));
            match id {
                Some(id) if spiffe.iter().any(|(domain, _)| domain == id.trust_domain()) => {}
                Some(_) => check.fault(&format!("{at}/spiffe"), "of no trust domain that `spiffe` above names"),
                None => check.fault(
                    &format!("{at}/spiffe"),
                    "not a SPIFFE ID in whose path `*` stands for one segment, as in spiffe://example.org/ns/*/sa/gate",
                ),
            }
            AttestedWho::Spiffe(pattern.clone())
        }
        (None, Some(RawAccount { issuer, namespace, service_account })) => {
            if !kubernetes.iter().any(|known| known.issuer == *issuer) {
                check.fault(&format!("{at}/kubernetes/issuer"), "no issuer that `kubernetes` above names");
            }
            for (key, value) in [("namespace", namespace), ("service_account", service_account)] {
                check.text(&format!("{at}/kubernetes/{key}"), value);
            }
            let (issuer, namespace) = (issuer.clone(), namespace.clone());
            AttestedWho::Kubernetes { issuer, namespace, service_account: service_account.clone() }
        }
        (Some(_), Some(_)) | (None, None) => {
            check.fault(at, "exactly one of `spiffe` and `kubernetes` is expected");
            return None;
        }
    };
    Some(TemplateSettings { name: name?, who, scope, hosts: raw.hosts.clone(), gone_after, most })
}

fn default_gone_after() -> Span {
    seconds(600)
}

fn default_most() -> u64 {
    100
}
