//! The README's first screen, run as it stands there: copied, with this run's addresses and binary put in.

use crate::dev::Dev;
use crate::pages::{Codes, run, steps};

#[test]
fn the_first_screen_does_what_it_says() {
    let dev = Dev::start();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let block = readme.split("```console\n").nth(2).and_then(|rest| rest.split("```").next()).unwrap();
    let steps = steps(&format!("```console\n{block}```\n"));
    let done = run(&dev, &steps, Codes::Ignore);
    assert_eq!(done.len(), steps.len(), "{done:?}");
    let said = |at: usize, what: &str| assert!(done[at].output.contains(what), "{at}: {what}\n{done:?}");
    let exits = |at: usize, code: i32| assert_eq!(done[at].code, Some(code), "{at}: {done:?}");
    // Denied, with reason, call id and what to do.
    said(2, "403 Forbidden");
    said(2, "\"reason\":\"grant_missing\"");
    said(2, "\"call_id\"");
    said(2, "portcullis grant create --identity billing --resource api/orders --action read");
    // Granted, and enforced.
    said(3, "enforced");
    exits(3, 0);
    // Allowed, without the caller's token.
    said(4, "200 OK");
    assert!(!done[4].output.contains(&dev.token("billing")), "the caller's token reached the upstream");
    // The stream had begun, and was cut.
    said(6, "data:");
    said(7, "grant_revoked");
    // Proven.
    exits(8, 0);
    said(9, "cut");
    // Found, and the record is named.
    exits(12, 8);
    assert!(["record 1", "seq 1"].iter().any(|it| done[12].output.contains(it)), "{done:?}");
}
