//! What narrows access: as it is said on the command line, of a grant, of a request for one and of break-glass; and as people
//! read it.

use std::collections::BTreeMap;

use clap::Args;

use crate::domain::grant::{Binding, Limits, MAX_USES, UsesPer};
use crate::domain::name::ParameterName;
use crate::domain::resource::{Span, SpanError};
use crate::wire::v1;

/// What narrows access, of a grant and of a request for one.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Only calls with this parameter; repeated with one name: any of the values
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    parameter: Vec<(ParameterName, String)>,
    /// Only calls from this network; may be repeated
    #[arg(long, value_name = "CIDR")]
    network: Vec<ipnet::IpNet>,
    /// Only with this credential: certificate:THUMBPRINT, spiffe:ID or issuer:ISSUER
    #[arg(long, value_name = "CREDENTIAL", value_parser = binding)]
    bind: Option<Binding>,
    /// Only so many calls in all, over all gateways
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_USES))]
    uses: Option<u64>,
    /// Only so many calls in each span of time, over all gateways: 100/1h
    #[arg(long, value_name = "N/DURATION", value_parser = uses_per)]
    uses_per: Option<UsesPer>,
    /// It ends when no call was made under it for so long: 7d
    #[arg(long, value_name = "DURATION")]
    unused: Option<Span>,
}

impl From<LimitArgs> for Limits {
    fn from(given: LimitArgs) -> Self {
        let LimitArgs { parameter, network: networks, bind: binding, uses, uses_per, unused } = given;
        let mut parameters: BTreeMap<ParameterName, Vec<String>> = BTreeMap::new();
        for (name, value) in parameter {
            parameters.entry(name).or_default().push(value);
        }
        Self { parameters, networks, binding, uses, uses_per, unused }
    }
}

impl LimitArgs {
    /// As messages have them.
    pub(super) fn message(self) -> Option<v1::Limits> {
        message(&Limits::from(self))
    }
}

/// Limits as messages have them; `None` where nothing is narrowed.
pub(super) fn message(limits: &Limits) -> Option<v1::Limits> {
    (!limits.is_empty()).then(|| limits.into())
}

/// For clap: `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(ParameterName, String), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    Ok((name.parse().map_err(|e| format!("{e}"))?, value.to_owned()))
}

/// For clap: `N/DURATION`.
fn uses_per(text: &str) -> Result<UsesPer, String> {
    let (uses, every) = text.split_once('/').ok_or("not N/DURATION, for example 100/1h")?;
    let uses = uses.parse().ok().filter(|uses| (1..=MAX_USES).contains(uses));
    let uses = uses.ok_or_else(|| format!("{MAX_USES} uses at most, and one at least"))?;
    Ok(UsesPer { uses, every: every.parse().map_err(|e: SpanError| e.to_string())? })
}

fn binding(text: &str) -> Result<Binding, String> {
    match text.split_once(':') {
        Some(("certificate", thumbprint)) => thumbprint.parse().map(Binding::Certificate).map_err(|e| e.to_string()),
        // `spiffe://…` is one too.
        Some(("spiffe", id)) if id.starts_with("//") => text.parse().map(Binding::Spiffe).map_err(|e| e.to_string()),
        Some(("spiffe", id)) => id.parse().map(Binding::Spiffe).map_err(|e| e.to_string()),
        Some(("issuer", issuer)) if !issuer.is_empty() => Ok(Binding::Issuer(issuer.to_owned())),
        _ => Err("not a credential: certificate:THUMBPRINT, spiffe:ID or issuer:ISSUER".into()),
    }
}

/// Limits as people read them.
pub(super) fn shown_limits(limits: &Limits) -> [(&'static str, String); 6] {
    let parameters: Vec<String> =
        limits.parameters.iter().map(|(name, values)| format!("{name}={}", values.join("|"))).collect();
    let networks: Vec<String> = limits.networks.iter().map(ToString::to_string).collect();
    let bound = match &limits.binding {
        None => String::new(),
        Some(Binding::Certificate(thumbprint)) => format!("certificate:{thumbprint}"),
        Some(Binding::Spiffe(id)) => format!("spiffe:{id}"),
        Some(Binding::Issuer(issuer)) => format!("issuer:{issuer}"),
    };
    [
        ("parameters", parameters.join(", ")),
        ("networks", networks.join(", ")),
        ("bound to", bound),
        ("uses", limits.uses.map(|uses| uses.to_string()).unwrap_or_default()),
        ("uses per", limits.uses_per.map(|per| format!("{} in {}", per.uses, per.every)).unwrap_or_default()),
        ("unused", limits.unused.map(|span| format!("ends when unused for {span}")).unwrap_or_default()),
    ]
}
