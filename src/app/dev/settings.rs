//! The settings files of `dev`: written for people to read, and read back by the same code as any others.

use serde_json::{Value, json};

use super::directory::Directory;
use super::{AUDIENCE, Addresses, GATEWAY, Options, TRUST_DOMAIN, issuer};
use crate::app::AppError;
use crate::files;
use crate::settings::{ControlSettings, GatewaySettings};

/// `DIR/control.yaml`, checked.
pub(super) fn control(directory: &Directory, addresses: &Addresses) -> Result<ControlSettings, AppError> {
    let text = write(
        directory,
        "control.yaml",
        &json!({
            "role": "control",
            "trust_domain": TRUST_DOMAIN,
            "state_dir": "control",
            "ca_dir": "control",
            "grpc_address": addresses.control,
            "http_address": addresses.http,
            "sign_in": {
                "issuer": issuer::PROVIDER,
                "client_id": issuer::CLIENT,
                "jwks_file": "issuer/jwks.json",
                "person": "sub",
            },
            "tls": {
                "certificate_file": "control/control.pem",
                "key_file": "control/control.key",
                "client_ca_file": "control/ca.pem",
            },
        }),
    )?;
    Ok(ControlSettings::parse(&directory.at("control.yaml").display().to_string(), &text)?)
}

/// `DIR/gateway.yaml`, checked, towards the control plane at `control` (`https://HOST:PORT`).
pub(super) fn gateway(directory: &Directory, options: &Options, control: &str) -> Result<GatewaySettings, AppError> {
    let addresses = &options.addresses;
    let mut settings = json!({
        "role": "gateway",
        "name": GATEWAY,
        "state_dir": "gateway",
        "audience": AUDIENCE,
        "listen": [
            { "address": addresses.gateway },
            {
                "address": addresses.gateway_tls,
                "tls": {
                    "certificate_file": "gateway/gateway.pem",
                    "key_file": "gateway/gateway.key",
                    "client_ca_file": "ca.pem",
                    "client_certificate": "optional",
                },
            },
        ],
        "evidence": { "durability": options.durability },
        "admin_address": addresses.admin,
        "control": {
            "address": control,
            "ca_file": "ca.pem",
            "keys_file": "gateway/control.vkey",
            "certificate_file": "gateway/gateway.pem",
            "key_file": "gateway/gateway.key",
        },
        "issuers": [
            {
                "issuer": issuer::ISSUER,
                "jwks_file": "issuer/jwks.json",
                "max_lifetime": format!("{}d", issuer::TOKEN_DAYS),
            },
        ],
    });
    if let (Some(workers), Some(settings)) = (options.workers, settings.as_object_mut()) {
        settings.insert("workers".into(), json!(workers));
    }
    let text = write(directory, "gateway.yaml", &settings)?;
    Ok(GatewaySettings::parse(&directory.at("gateway.yaml").display().to_string(), &text)?)
}

/// JSON is YAML, and nothing in a path can step out of its quotes.
fn write(directory: &Directory, name: &str, value: &Value) -> Result<String, AppError> {
    let text = format!("# Written by `portcullis dev` at each start.\n{value:#}\n");
    directory.write(name, text.as_bytes(), files::PRIVATE)?;
    Ok(text)
}
