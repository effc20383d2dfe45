//! The wire: generated messages and their conversions to and from the domain.
//!
//! What arrives is parsed here, once; nothing further in sees a generated message.

pub mod answers;

use std::collections::BTreeMap;

use crate::domain::Timestamp;
use crate::domain::grant::{Binding, Grant, Limits, Lineage, Origin, Revocation, UsesPer, Window};
use crate::domain::name::{ApprovalId, BreakGlassId, GrantId, RequestId};
use crate::domain::principal::CertificateThumbprint;
use crate::domain::resource::Span;

/// Generated from `proto/portcullis/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("portcullis.v1");

    /// The encoded `FileDescriptorSet`, for reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("portcullis.v1");
}

/// The name that every control plane's certificate has and no other certificate of its CA: gateways hold certificates of
/// that CA too, for addresses of their own. So this, and not the address, says that a server is the control plane.
pub const CONTROL_SERVER_NAME: &str = "control.portcullis.internal";

/// Largest message of a gateway that a control plane reads: an acknowledgement with its cut calls.
pub const MAX_GATEWAY_MESSAGE_BYTES: usize = 1024 * 1024;
/// Records of one gateway's answer to a question about its evidence, and their bytes together: the message that brings
/// them, and the first record beyond, are well within what is read.
pub const MAX_EVIDENCE_RECORDS: u32 = 1_000;
/// See [`MAX_EVIDENCE_RECORDS`].
pub const MAX_EVIDENCE_BYTES: usize = 768 * 1024;

/// Cut calls that an acknowledgement lists: some 80 bytes each, so that it is well within that.
pub const MAX_CUT_CALLS_LISTED: usize = 4_096;

/// Counted grants that one renewal may ask for uses of, and as many allotments that it may give back: what changes fits
/// into one transaction of the control plane's store.
pub const MAX_USES_CLAIMED: usize = 40;
/// Allotments that a renewal may say it has, so that it is well within what is read. Who has more says nothing.
pub const MAX_USES_HELD: usize = 20_000;

/// The name of a replica that joins by attestation: its template's, and the first 16 hexadecimal digits of the SHA-256 of its
/// key, as a SubjectPublicKeyInfo. Both ends make it, and nobody chooses it.
pub fn replica_name(template: &str, client_key: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, client_key);
    let digits: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{template}-{digits}")
}

/// What stands for what is trusted and who issues: SHA-256 of the bundle, a zero byte, and the identifier of the key that
/// issues. Both ends make it of what they hold, and a gateway whose own is another comes for more.
pub fn trust_told(bundle: &[u8], issuer: &[u8]) -> Vec<u8> {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(bundle);
    digest.update(&[0]);
    digest.update(issuer);
    digest.finish().as_ref().to_vec()
}

/// Why a message is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct WireError {
    field: &'static str,
    why: String,
}

impl WireError {
    pub(crate) fn of(field: &'static str, why: impl ToString) -> Self {
        Self { field, why: why.to_string() }
    }
}

/// A grant's identifier from its 16 bytes.
///
/// # Errors
/// When there are not 16 of them.
pub fn grant_id(bytes: &[u8]) -> Result<GrantId, WireError> {
    bytes128("id", bytes).map(GrantId::from_bits)
}

/// 16 bytes, big-endian.
///
/// # Errors
/// When there are not 16 of them.
pub fn bytes128(field: &'static str, bytes: &[u8]) -> Result<u128, WireError> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| WireError::of(field, "must be 16 bytes"))
}

fn parsed<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, WireError>
where
    T::Err: ToString,
{
    text.parse().map_err(|e: T::Err| WireError::of(field, e))
}

impl From<&Grant> for v1::Grant {
    fn from(grant: &Grant) -> Self {
        Self {
            id: grant.id.bits().to_be_bytes().to_vec(),
            identity: grant.identity.to_string(),
            resource: grant.resource.to_string(),
            actions: grant.actions.iter().map(ToString::to_string).collect(),
            starts_unix_us: grant.window.starts.unix_micros(),
            ends_unix_us: grant.window.ends.unix_micros(),
            limits: (!grant.limits.is_empty()).then(|| v1::Limits::from(&grant.limits)),
            lineage: Some(v1::Lineage {
                created_unix_us: grant.lineage.created.unix_micros(),
                created_by: grant.lineage.created_by.to_string(),
                reason: grant.lineage.reason.clone(),
                ticket: grant.lineage.ticket.clone().unwrap_or_default(),
                until: grant.lineage.until.iter().map(ToString::to_string).collect(),
                origin: grant.lineage.origin.as_deref().map(v1::GrantOrigin::from),
                exception: grant.lineage.exception.as_ref().map(ToString::to_string).unwrap_or_default(),
                break_glass: grant.lineage.break_glass.map(|id| id.bits().to_be_bytes().to_vec()).unwrap_or_default(),
            }),
            revoked: grant.revoked.as_ref().map(|r| v1::Revocation {
                at_unix_us: r.at.unix_micros(),
                by: r.by.to_string(),
                reason: r.reason.clone(),
            }),
            revision: 0,
            uses_given: None,
        }
    }
}

impl TryFrom<v1::Grant> for Grant {
    type Error = WireError;

    fn try_from(message: v1::Grant) -> Result<Self, WireError> {
        let lineage = message.lineage.ok_or_else(|| WireError::of("lineage", "is missing"))?;
        Ok(Self {
            id: grant_id(&message.id)?,
            identity: parsed("identity", &message.identity)?,
            resource: parsed("resource", &message.resource)?,
            actions: message.actions.iter().map(|a| parsed("actions", a)).collect::<Result<_, _>>()?,
            window: Window {
                starts: Timestamp::from_unix_micros(message.starts_unix_us),
                ends: Timestamp::from_unix_micros(message.ends_unix_us),
            },
            limits: message.limits.map(Limits::try_from).transpose()?.unwrap_or_default(),
            lineage: Lineage {
                created: Timestamp::from_unix_micros(lineage.created_unix_us),
                created_by: parsed("created_by", &lineage.created_by)?,
                reason: lineage.reason,
                ticket: (!lineage.ticket.is_empty()).then_some(lineage.ticket),
                until: lineage.until.iter().map(|t| parsed("until", t)).collect::<Result<_, _>>()?,
                origin: lineage.origin.map(Origin::try_from).transpose()?.map(Box::new),
                exception: match lineage.exception.as_str() {
                    "" => None,
                    name => Some(parsed("exception", name)?),
                },
                break_glass: match lineage.break_glass.as_slice() {
                    [] => None,
                    id => Some(BreakGlassId::from_bits(bytes128("break_glass", id)?)),
                },
            },
            revoked: message
                .revoked
                .map(|r| {
                    Ok::<_, WireError>(Revocation {
                        at: Timestamp::from_unix_micros(r.at_unix_us),
                        by: parsed("by", &r.by)?,
                        reason: r.reason,
                    })
                })
                .transpose()?,
        })
    }
}

impl From<&Origin> for v1::GrantOrigin {
    fn from(origin: &Origin) -> Self {
        Self {
            request: origin.request.bits().to_be_bytes().to_vec(),
            approvals: origin.approvals.iter().map(|id| id.bits().to_be_bytes().to_vec()).collect(),
            policy: origin.policy,
            role: origin.role.as_ref().map(ToString::to_string).unwrap_or_default(),
            digest: origin.digest.clone(),
        }
    }
}

impl TryFrom<v1::GrantOrigin> for Origin {
    type Error = WireError;

    fn try_from(message: v1::GrantOrigin) -> Result<Self, WireError> {
        let approval = |bytes: &Vec<u8>| bytes128("approvals", bytes).map(ApprovalId::from_bits);
        Ok(Self {
            request: bytes128("request", &message.request).map(RequestId::from_bits)?,
            approvals: message.approvals.iter().map(approval).collect::<Result<_, _>>()?,
            policy: message.policy,
            role: (!message.role.is_empty()).then(|| parsed("role", &message.role)).transpose()?,
            digest: message.digest,
        })
    }
}

impl From<&Limits> for v1::Limits {
    fn from(limits: &Limits) -> Self {
        Self {
            parameters: limits
                .parameters
                .iter()
                .map(|(name, values)| v1::ParameterLimit { name: name.to_string(), values: values.clone() })
                .collect(),
            networks: limits.networks.iter().map(ToString::to_string).collect(),
            binding: limits.binding.as_ref().map(|binding| match binding {
                Binding::Certificate(thumbprint) => {
                    v1::limits::Binding::CertificateSha256(thumbprint.as_bytes().to_vec())
                }
                Binding::Spiffe(id) => v1::limits::Binding::Spiffe(id.to_string()),
                Binding::Issuer(issuer) => v1::limits::Binding::Issuer(issuer.clone()),
            }),
            uses: limits.uses.unwrap_or_default(),
            unused_ms: limits.unused.map_or(0, |span| u64::try_from(span.duration().as_millis()).unwrap_or(u64::MAX)),
            uses_per: limits.uses_per.map(|per| v1::UsesPer {
                uses: per.uses,
                every_ms: u64::try_from(per.every.duration().as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }
}

impl TryFrom<v1::Limits> for Limits {
    type Error = WireError;

    fn try_from(message: v1::Limits) -> Result<Self, WireError> {
        let mut parameters = BTreeMap::new();
        for limit in message.parameters {
            if parameters.insert(parsed("parameters", &limit.name)?, limit.values).is_some() {
                return Err(WireError::of("parameters", format!("`{}` stands twice", limit.name)));
            }
        }
        let binding = match message.binding {
            None => None,
            Some(v1::limits::Binding::CertificateSha256(digest)) => {
                let digest = digest.try_into().map_err(|_| WireError::of("certificate_sha256", "must be 32 bytes"))?;
                Some(Binding::Certificate(CertificateThumbprint::from_bytes(digest)))
            }
            Some(v1::limits::Binding::Spiffe(id)) => Some(Binding::Spiffe(parsed("spiffe", &id)?)),
            Some(v1::limits::Binding::Issuer(issuer)) => Some(Binding::Issuer(issuer)),
        };
        let networks = message.networks.iter().map(|n| parsed("networks", n)).collect::<Result<_, _>>()?;
        let uses = (message.uses != 0).then_some(message.uses);
        let uses_per = message
            .uses_per
            .map(|per| UsesPer { uses: per.uses, every: Span::new(std::time::Duration::from_millis(per.every_ms)) });
        let unused = (message.unused_ms != 0).then(|| Span::new(std::time::Duration::from_millis(message.unused_ms)));
        Ok(Self { parameters, networks, binding, uses, uses_per, unused })
    }
}
