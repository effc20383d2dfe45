//! Sources of tickets: whether what they say can be known to be true.

use std::collections::BTreeMap;

use crate::domain::ticket::{TicketShape, TicketSource};

/// Longest address.
const MAX_URL_BYTES: usize = 512;

/// A secret is one source's, for one use: a bearer token is shown to whoever is read, and who signs must not learn it there.
pub(super) fn secrets<'s>(sources: impl Iterator<Item = &'s TicketSource>, faults: &mut Vec<String>) {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    for source in sources {
        let read = source.spec.read.as_ref().and_then(|read| read.token_file.as_ref());
        let files = [("secret_file", source.spec.secret_file.as_ref()), ("read.token_file", read)];
        for (field, file) in files.into_iter().filter_map(|(field, file)| Some((field, file?))) {
            let place = format!("{field} of {}", source.name);
            if let Some(other) = known.insert(file.as_str(), place) {
                faults.push(format!("TicketSource {}: {field}: {} is {other} already", source.name, file.as_str()));
            }
        }
    }
}

pub(super) fn source(source: &TicketSource, faults: &mut Vec<String>) {
    let mut fault = |text: String| faults.push(format!("TicketSource {}: {text}", source.name));
    let spec = &source.spec;
    if spec.secret_file.is_none() && spec.read.is_none() {
        fault("secret_file or read: without either anybody could say that a ticket is closed".to_owned());
    }
    let Some(read) = &spec.read else { return };
    let host = read.url.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
    let is_local = host.is_some_and(|host| matches!(host, "127.0.0.1" | "localhost"));
    if !is_local && !read.url.starts_with("https://") {
        fault("read.url: https://HOST/PATH; http on loopback only".to_owned());
    }
    if read.url.len() > MAX_URL_BYTES || !read.url.bytes().all(|byte| byte.is_ascii_graphic()) {
        fault(format!("read.url: at most {MAX_URL_BYTES} printable characters without spaces"));
    }
    // What a key says must not choose whom it is asked of.
    let authority = read.url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    if authority.contains(['{', '}', '%', '?']) {
        fault("read.url: a host of its own, and {key} in the path alone".to_owned());
    }
    // `http://127.0.0.1@elsewhere` is elsewhere.
    if read.url.contains(['@', '#']) {
        fault("read.url: no user and no fragment".to_owned());
    }
    match (spec.shape, read.url.matches("{key}").count()) {
        (TicketShape::Generic, 1) | (TicketShape::Jira | TicketShape::Github | TicketShape::Pagerduty, 0) => {}
        (TicketShape::Generic, _) => fault("read.url: {key} stands in it once".to_owned()),
        (TicketShape::Jira | TicketShape::Github | TicketShape::Pagerduty, _) => {
            fault("read.url: the address of the API alone; what comes behind it is known".to_owned());
        }
    }
}
