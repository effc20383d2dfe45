//! Inventories of machine callers as others keep them: a table, Kubernetes' service accounts, SPIRE's entries.
//!
//! Text in, proposals for identities out, each with where it stands; every fault with its line. Whether one is known
//! already, and who answers for it, is decided elsewhere.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fault::{Fault, Faults, Places, Position};
use super::yaml;
use crate::domain::identity::{Authenticator, IdentityKind};
use crate::domain::name::{IdentityName, OwnerName};
use crate::domain::principal::SpiffeId;

/// Largest inventory: tens of thousands of callers.
pub const MAX_INVENTORY_BYTES: u64 = 16 * 1024 * 1024;

/// How an inventory is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InventoryFormat {
    /// A table with a first line of names: `name`, and any of `kind`, `owner`, `purpose`, `environment`, `spiffe`, `issuer`
    /// and `subject` (RFC 4180).
    Csv,
    /// What `kubectl get serviceaccounts -A -o json` prints.
    Kubernetes,
    /// What `spire-server entry show -output json` prints.
    Spire,
}

/// A machine caller of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it would be called.
    pub name: IdentityName,
    /// What kind of caller it is.
    pub kind: IdentityKind,
    /// Who answers for it, where the inventory says.
    pub owner: Option<OwnerName>,
    /// What it is for.
    pub purpose: Option<String>,
    /// Where it runs.
    pub environment: Option<String>,
    /// Its credential.
    pub credential: Option<Authenticator>,
}

/// Reads an inventory; `file` is what faults call it, `issuer` the one of a cluster's service account tokens.
///
/// # Errors
/// Every fault, each with its line.
pub fn read(format: InventoryFormat, file: &str, text: &str, issuer: Option<&str>) -> Result<Vec<Found>, Faults> {
    let (found, mut faults) = match format {
        InventoryFormat::Csv => csv(file, text),
        InventoryFormat::Kubernetes => json(file, text, "/items", |item, at, places| account(item, at, places, issuer)),
        InventoryFormat::Spire => json(file, text, "/entries", entry),
    };
    let (mut named, mut all) = (BTreeMap::new(), Vec::new());
    for (one, place) in found {
        match named.insert(one.name.clone(), place.clone()) {
            // SPIRE has an entry for each selector of one caller.
            Some(_) if all.contains(&one) && format == InventoryFormat::Spire => {}
            Some(_) => faults.push(place(&format!("`{}` stands here twice", one.name))),
            None => all.push(one),
        }
    }
    Faults::none_or(faults, all)
}

/// Makes a fault of where something stands.
type Place = std::sync::Arc<dyn Fn(&str) -> Fault>;

fn kind_of(text: &str) -> Option<IdentityKind> {
    serde_json::from_value(Value::from(text)).ok()
}

fn csv(file: &str, text: &str) -> (Vec<(Found, Place)>, Vec<Fault>) {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(error) => return (found, vec![Places::of_file(file).fault("", error.to_string())]),
    };
    let known = ["name", "kind", "owner", "purpose", "environment", "spiffe", "issuer", "subject"];
    let line_fault = |line: u64, why: &str| at_line(file, line, why);
    for column in headers.iter().filter(|column| !known.contains(column)) {
        faults.push(line_fault(1, &format!("`{}` is not a column: {}", yaml::shown(column), known.join(", "))));
    }
    if !headers.iter().any(|column| column == "name") {
        faults.push(line_fault(1, "column `name` is missing"));
    }
    if !faults.is_empty() {
        return (found, faults);
    }
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                faults.push(line_fault(line, "another number of fields than the first line has, or not text"));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |column: &str| {
            let index = headers.iter().position(|name| name == column)?;
            record.get(index).filter(|cell| !cell.is_empty())
        };
        match row(&cell) {
            Ok(one) => {
                let file = file.to_owned();
                let place = move |why: &str| at_line(&file, line, why);
                found.push((one, std::sync::Arc::new(place) as Place));
            }
            Err(wrong) => faults.extend(wrong.iter().map(|why| line_fault(line, why))),
        }
    }
    (found, faults)
}

fn at_line(file: &str, line: u64, why: &str) -> Fault {
    let line = usize::try_from(line).unwrap_or(usize::MAX);
    Places::of_file(file).at(Position { line, column: 1 }, "", why.to_owned())
}

fn row<'r>(cell: &impl Fn(&str) -> Option<&'r str>) -> Result<Found, Vec<String>> {
    let mut faults = Vec::new();
    let name = cell("name").unwrap_or_default().parse::<IdentityName>().map_err(|e| faults.push(format!("name: {e}")));
    let kind = cell("kind").map_or(Some(IdentityKind::Service), kind_of);
    if kind.is_none() {
        faults.push("kind: service, agent, pipeline or third_party".to_owned());
    }
    let owner = cell("owner").map(str::parse::<OwnerName>).transpose();
    let owner = owner.map_err(|error| faults.push(format!("owner: {error}")));
    let credential = match (cell("spiffe"), cell("issuer"), cell("subject")) {
        (None, None, None) => None,
        (Some(id), None, None) => match id.parse::<SpiffeId>() {
            Ok(spiffe) => Some(Authenticator::Spiffe { spiffe }),
            Err(error) => {
                faults.push(format!("spiffe: {error}"));
                None
            }
        },
        (None, Some(issuer), Some(subject)) => {
            Some(Authenticator::Token { issuer: issuer.into(), subject: subject.into() })
        }
        _ => {
            faults.push("either spiffe, or issuer and subject".to_owned());
            None
        }
    };
    match (name, kind, owner) {
        (Ok(name), Some(kind), Ok(owner)) if faults.is_empty() => Ok(Found {
            name,
            kind,
            owner,
            purpose: cell("purpose").map(str::to_owned),
            environment: cell("environment").map(str::to_owned),
            credential,
        }),
        _ => Err(faults),
    }
}

/// One item of a list at its pointer: `None` for what is no caller of anybody's.
type Item = Result<Option<Found>, Vec<Fault>>;

fn json(
    file: &str,
    text: &str,
    list: &str,
    item: impl Fn(&Value, &str, &Places) -> Item,
) -> (Vec<(Found, Place)>, Vec<Fault>) {
    let (trees, mut faults) = yaml::read(file, text);
    let Some(tree) = trees.into_iter().next() else {
        if faults.is_empty() {
            faults.push(Places::of_file(file).fault("", "nothing is in it"));
        }
        return (Vec::new(), faults);
    };
    let Some(items) = tree.value.pointer(list).and_then(Value::as_array) else {
        faults.push(tree.places.fault("", format!("key `{}` must hold a list", list.trim_start_matches('/'))));
        return (Vec::new(), faults);
    };
    let mut found = Vec::new();
    for (index, one) in items.iter().enumerate() {
        let pointer = format!("{list}/{index}");
        match item(one, &pointer, &tree.places) {
            Ok(Some(one)) => {
                let (places, pointer) = (tree.places.clone(), pointer.clone());
                let place = move |why: &str| places.fault(&pointer, why.to_owned());
                found.push((one, std::sync::Arc::new(place) as Place));
            }
            Ok(None) => {}
            Err(wrong) => faults.extend(wrong),
        }
    }
    (found, faults)
}

/// A service account: its tokens have the subject `system:serviceaccount:NAMESPACE:NAME`.
fn account(item: &Value, at: &str, places: &Places, issuer: Option<&str>) -> Item {
    let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str);
    if text("/kind").is_some_and(|kind| kind != "ServiceAccount") {
        return Err(vec![places.fault(&format!("{at}/kind"), "`ServiceAccount` is expected")]);
    }
    let (Some(name), Some(namespace)) = (text("/metadata/name"), text("/metadata/namespace")) else {
        return Err(vec![places.fault(at, "metadata: `name` and `namespace` are missing")]);
    };
    let called = format!("{namespace}.{name}").parse::<IdentityName>();
    let called = called.map_err(|error| vec![places.fault(&format!("{at}/metadata/name"), error.to_string())])?;
    let said = |key: &str| text(&format!("/metadata/labels/{key}")).or(text(&format!("/metadata/annotations/{key}")));
    let owner = said("owner").or(said("team")).map(str::parse::<OwnerName>).transpose();
    let owner = owner.map_err(|error| vec![places.fault(&format!("{at}/metadata"), format!("owner: {error}"))])?;
    let subject = format!("system:serviceaccount:{namespace}:{name}");
    Ok(Some(Found {
        name: called,
        kind: IdentityKind::Service,
        owner,
        purpose: Some(format!("Kubernetes service account {namespace}/{name}")),
        environment: None,
        credential: issuer.map(|issuer| Authenticator::Token { issuer: issuer.into(), subject: subject.into() }),
    }))
}

/// A registration entry of a workload. Those of agents and of the server, under `/spire/`, are no callers.
fn entry(item: &Value, at: &str, places: &Places) -> Item {
    let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str);
    let (Some(domain), Some(path)) = (text("/spiffe_id/trust_domain"), text("/spiffe_id/path")) else {
        return Err(vec![places.fault(at, "spiffe_id: `trust_domain` and `path` are missing")]);
    };
    if path.starts_with("/spire/") {
        return Ok(None);
    }
    let place = format!("{at}/spiffe_id");
    let id = format!("spiffe://{domain}{path}");
    let spiffe: SpiffeId = id.parse().map_err(|error| vec![places.fault(&place, format!("{id}: {error}"))])?;
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let plain = match segments.as_slice() {
        ["ns", namespace, "sa", name] => format!("{namespace}.{name}"),
        other => other.join("."),
    };
    let plain: String = plain.to_lowercase().chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let name: IdentityName = plain.parse().map_err(|error| vec![places.fault(&place, format!("{id}: {error}"))])?;
    Ok(Some(Found {
        name,
        kind: IdentityKind::Service,
        owner: None,
        purpose: Some(format!("SPIRE workload {id}")),
        environment: None,
        credential: Some(Authenticator::Spiffe { spiffe }),
    }))
}

const fn fits(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `kubectl get serviceaccounts -A -o json` prints it.
    const ACCOUNTS: &str = r#"{
    "apiVersion": "v1",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {
                "creationTimestamp": "2026-01-12T09:21:07Z",
                "labels": { "app.kubernetes.io/name": "billing", "team": "payments" },
                "name": "billing",
                "namespace": "prod",
                "resourceVersion": "331",
                "uid": "2f7b5c1e-6a0e-4a57-9b8b-0b1f5f7a2a11"
            }
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": "kube-system", "uid": "x" }
        }
    ],
    "kind": "List",
    "metadata": { "resourceVersion": "" }
}"#;

    /// As `spire-server entry show -output json` prints it.
    const ENTRIES: &str = r#"{"entries":[
  {"id":"0e1a","spiffe_id":{"trust_domain":"example.org","path":"/ns/prod/sa/billing"},
   "parent_id":{"trust_domain":"example.org","path":"/spire/agent/k8s_psat/demo/1"},
   "selectors":[{"type":"k8s","value":"ns:prod"},{"type":"k8s","value":"sa:billing"}],
   "x509_svid_ttl":0,"federates_with":[],"hint":"","admin":false,"created_at":"1768209667","downstream":false,
   "expires_at":"0","dns_names":[],"revision_number":"0","store_svid":false,"jwt_svid_ttl":0},
  {"id":"0e1b","spiffe_id":{"trust_domain":"example.org","path":"/ns/prod/sa/billing"},
   "parent_id":{"trust_domain":"example.org","path":"/spire/agent/k8s_psat/demo/2"},"selectors":[]},
  {"id":"0e1c","spiffe_id":{"trust_domain":"example.org","path":"/spire/agent/k8s_psat/demo/1"},"selectors":[]},
  {"id":"0e1d","spiffe_id":{"trust_domain":"example.org","path":"/Reports Nightly"},"selectors":[]}
],"next_page_token":""}"#;

    fn faults(format: InventoryFormat, text: &str) -> String {
        read(format, "in", text, None).unwrap_err().to_string()
    }

    #[test]
    fn a_table_is_read_by_its_first_line_with_quotes_and_gaps() {
        let text = "owner,name,purpose,spiffe,issuer,subject\n\
                    payments,billing,\"charges, nightly\",spiffe://example.org/sa/billing,,\n\
                    ,reports,,,https://i,sub\n";
        let found = read(InventoryFormat::Csv, "in", text, None).unwrap();
        let [billing, reports] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(billing.purpose.as_deref(), Some("charges, nightly"));
        assert_eq!(billing.owner.as_ref().map(OwnerName::as_str), Some("payments"));
        assert_eq!((reports.owner.as_ref(), reports.credential.as_ref().unwrap().subject()), (None, "sub"));
    }

    #[test]
    fn every_line_of_a_table_that_is_wrong_is_told_with_its_reason() {
        let text = "name,kind,spiffe,issuer\nUPPER,,,\nx,robot,,\ny,,http://x,\nz,,,https://i\nx,,,\nshort\nx,,,\n";
        let told = faults(InventoryFormat::Csv, text);
        let expected = [
            "in:2:1: name:",
            "in:3:1: kind: service",
            "in:4:1: spiffe:",
            "in:5:1: either spiffe",
            "in:7:1: another number",
            "in:8:1: `x` stands here twice",
        ];
        for part in expected {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        assert!(faults(InventoryFormat::Csv, "nom\nx\n").contains("in:1:1: `nom` is not a column"));
    }

    #[test]
    fn service_accounts_are_known_by_the_subject_of_their_tokens() {
        let found = read(InventoryFormat::Kubernetes, "in", ACCOUNTS, Some("https://cluster")).unwrap();
        let [billing, default] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (billing.name.as_str(), billing.owner.as_ref().map(OwnerName::as_str)),
            ("prod.billing", Some("payments"))
        );
        assert_eq!(billing.credential.as_ref().unwrap().subject(), "system:serviceaccount:prod:billing");
        assert_eq!((default.name.as_str(), &default.owner), ("kube-system.default", &None));
        let wrong = ACCOUNTS.replace("\"namespace\": \"prod\",", "").replacen(
            "\"kind\": \"ServiceAccount\"",
            "\"kind\": \"Pod\"",
            2,
        );
        assert!(
            faults(InventoryFormat::Kubernetes, &wrong).contains("in:6:"),
            "{}",
            faults(InventoryFormat::Kubernetes, &wrong)
        );
        assert!(faults(InventoryFormat::Kubernetes, "{\"items\": 7}").contains("must hold a list"));
        assert!(faults(InventoryFormat::Kubernetes, "{").starts_with("in:"));
    }

    #[test]
    fn entries_of_workloads_are_callers_once_and_those_of_agents_are_none() {
        let found = read(InventoryFormat::Spire, "in", ENTRIES, None);
        let told = found.unwrap_err().to_string();
        assert!(told.contains("in:10:") && told.contains("/Reports Nightly"), "{told}");
        let good = ENTRIES.replace("/Reports Nightly", "/Reports/Nightly");
        let found = read(InventoryFormat::Spire, "in", &good, None).unwrap();
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["prod.billing", "reports.nightly"]);
        assert_eq!(found[0].credential.as_ref().unwrap().subject(), "spiffe://example.org/ns/prod/sa/billing");
        assert!(faults(InventoryFormat::Spire, "{\"entries\": [{\"id\": \"1\"}]}").contains("in:1:"));
    }
}
