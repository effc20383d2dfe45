//! The texts that have a form of their own: one row each, from the name a schema gives the form to its parser.
//!
//! Checking them beside the schema is what finds every malformed name and duration of a file at once: reading the file
//! into its type would stop at the first.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use super::size::Size;
use super::yaml::shown;
use crate::domain::Timestamp;
use crate::domain::name::{
    ActionName, ExceptionName, GatewayName, IdentityName, OwnerName, ParameterName, ResourceName, RoleName, RouteName,
};
use crate::domain::principal::{SpiffeId, TrustDomain};
use crate::domain::resource::Span;
use crate::domain::route::{BodyRule, Host, PathTemplate, UpstreamUrl};
use crate::domain::trust::TrustBundle;

type Check = fn(&str) -> Result<(), String>;

/// Every `format` that our schemas use.
pub(super) const FORMATS: &[(&str, Check)] = &[
    ("identity name", of::<IdentityName>),
    ("resource name", of::<ResourceName>),
    ("action name", of::<ActionName>),
    ("route name", of::<RouteName>),
    ("role name", of::<RoleName>),
    ("exception name", of::<ExceptionName>),
    ("owner name", of::<OwnerName>),
    ("gateway name", of::<GatewayName>),
    ("parameter name", of::<ParameterName>),
    ("span", of::<Span>),
    ("size", of::<Size>),
    ("spiffe id", of::<SpiffeId>),
    ("trust domain", of::<TrustDomain>),
    ("host", of::<Host>),
    ("upstream", of::<UpstreamUrl>),
    ("certificates", certificates),
    ("network", network),
    ("path template", of::<PathTemplate>),
    ("body rule", of::<BodyRule>),
    ("timestamp", timestamp),
    ("address", address),
    ("path", path),
];

/// What is wrong with `text` as the form `name`; nothing when it is well formed or the form is not one of ours.
pub(super) fn fault(name: &str, text: &str) -> Option<String> {
    let (_, check) = FORMATS.iter().find(|(known, _)| *known == name)?;
    check(text).err()
}

fn of<T>(text: &str) -> Result<(), String>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse::<T>().map(drop).map_err(|error| about(text, &error.to_string()))
}

fn timestamp(text: &str) -> Result<(), String> {
    Timestamp::parse_rfc3339(text)
        .map(drop)
        .map_err(|_| about(text, "not a time: RFC 3339, as in 2026-11-22T05:09:00Z"))
}

fn address(text: &str) -> Result<(), String> {
    let rule = "not an address: IP and port, as in 127.0.0.1:8080 or [::1]:8080";
    text.parse::<SocketAddr>().map(drop).map_err(|_| about(text, rule))
}

/// The text is not shown: by mistake it may hold a private key.
fn certificates(text: &str) -> Result<(), String> {
    text.parse::<TrustBundle>().map(drop).map_err(|error| error.to_string())
}

fn network(text: &str) -> Result<(), String> {
    let rule = "not a network: address and prefix length, as in 169.254.170.2/32";
    text.parse::<ipnet::IpNet>().map(drop).map_err(|_| about(text, rule))
}

fn path(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('\0') {
        Err("not a path: it is empty or has a zero byte".to_owned())
    } else {
        Ok(())
    }
}

/// Domain errors begin with the text or with "not a …"; either way the message names the text once.
fn about(text: &str, error: &str) -> String {
    match error.strip_prefix("not a") {
        Some(rest) => format!("`{}` is not a{rest}", shown(text)),
        None => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::domain::exception::ExceptionSpec;
    use crate::domain::identity::IdentitySpec;
    use crate::domain::resource::ResourceSpec;
    use crate::domain::role::RoleSpec;
    use crate::domain::route::RouteSpec;
    use crate::settings::control::RawControl;
    use crate::settings::gateway::RawGateway;
    use crate::settings::json_schema;

    fn formats(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(entries) => {
                let of_text = entries
                    .get("type")
                    .is_some_and(|t| t == "string" || t.as_array().is_some_and(|all| all.contains(&"string".into())));
                if let (true, Some(Value::String(format))) = (of_text, entries.get("format")) {
                    found.push(format.clone());
                }
                entries.values().for_each(|value| formats(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| formats(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_format_of_our_schemas_has_its_check() {
        let schemas = [
            json_schema::<RawGateway>(),
            json_schema::<RawControl>(),
            json_schema::<IdentitySpec>(),
            json_schema::<ResourceSpec>(),
            json_schema::<RouteSpec>(),
            json_schema::<RoleSpec>(),
            json_schema::<ExceptionSpec>(),
        ];
        let mut found = Vec::new();
        schemas.iter().for_each(|schema| formats(schema, &mut found));
        assert!(found.len() > 20, "{found:?}");
        for format in found {
            assert!(FORMATS.iter().any(|(known, _)| *known == format), "{format}");
        }
    }
}
