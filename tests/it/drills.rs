//! The drills for stolen keys in `config/drills`, each replayed from its page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::dev::Dev;
use crate::pages;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/drills")
}

#[test]
fn a_stolen_gateway_is_expelled_and_another_takes_its_place() {
    pages::replay(&Dev::start(), &folder().join("stolen-gateway.md"));
}

#[test]
fn a_stolen_ca_is_replaced_and_its_gateways_join_again() {
    pages::replay(&Dev::start(), &folder().join("stolen-ca.md"));
}

#[test]
fn every_drill_is_replayed_and_indexed() {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages: BTreeSet<String> = files.filter(|name| name.ends_with(".md") && name != "README.md").collect();
    assert_eq!(pages, ["stolen-ca.md", "stolen-gateway.md"].map(str::to_owned).into());
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    assert!(pages.iter().all(|page| index.contains(&format!("({page})"))), "{index}");
}
