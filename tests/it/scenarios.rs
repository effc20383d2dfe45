//! The stories in `config/scenarios`, each replayed from its page as a newcomer would: real binary, real calls, real time.
//!
//! A page and its test cannot part: the page is the test. What is held here besides is that every page has its test, stands
//! in the index, and ends by asking the evidence.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::dev::Dev;
use crate::pages;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scenarios")
}

/// One test for each page, and the list of them.
macro_rules! scenarios {
    ($($test:ident = $page:literal;)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            pages::replay(&Dev::start(), &folder().join($page));
        })*
    };
}

scenarios! {
    s01_access_is_bounded_and_short_lived = "01-short-lived-key.md";
    s03_a_window_opens_and_closes_by_itself = "03-maintenance-window.md";
    s05_break_glass_is_at_once_short_and_reviewed_by_somebody_else = "05-break-glass.md";
    s06_a_purpose_that_does_not_fit_takes_another_approver = "06-purpose.md";
    s08_a_pipeline_has_access_for_its_job = "08-pipeline.md";
    s10_approval_enforcement_and_evidence_are_one = "10-one-control-plane.md";
    s13_an_exception_is_owned_ends_and_is_renewed_by_somebody_else = "13-exception.md";
    s14_a_subsidiary_has_other_approvers = "14-subsidiary.md";
    s15_the_auditor_is_answered_from_the_evidence = "15-auditor.md";
    s16_access_ends_with_the_incident_and_the_session_is_cut = "16-incident.md";
    s18_so_many_uses_and_never_one_more = "18-counted-uses.md";
    s19_one_migration_window_and_then_nothing = "19-migration.md";
    s20_elevation_ends_with_the_change = "20-change.md";
    s24_two_agents_of_one_person_are_one = "24-separation.md";
}

#[test]
fn every_page_is_replayed_indexed_and_asks_the_evidence() {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages: BTreeSet<String> = files.filter(|name| name.ends_with(".md") && name != "README.md").collect();
    assert_eq!(pages, PAGES.iter().map(|page| (*page).to_owned()).collect(), "a page without a test, or the reverse");
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for page in PAGES {
        assert!(index.contains(&format!("({page})")), "{page} is not in the index");
        let steps = pages::steps(&std::fs::read_to_string(folder().join(page)).unwrap());
        let [.., explain, verify] = steps.as_slice() else { panic!("{page}: too few steps") };
        assert!(explain.command.starts_with("portcullis evidence explain "), "{page}: {}", explain.command);
        assert_eq!(verify.command, "portcullis evidence verify", "{page}");
        assert!(!explain.says.is_empty() && !verify.says.is_empty(), "{page}: the evidence says something");
    }
}
