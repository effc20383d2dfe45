//! Sources of tickets: whether what they say can be known to be true.

use crate::domain::ticket::{TicketShape, TicketSource};

/// Longest address.
const MAX_URL_BYTES: usize = 512;

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
