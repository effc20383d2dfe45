//! What the house rules say and a compiler does not check: who imports whom, how a module opens, what lies where.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use portcullis::settings::{self, FileKind, catalog};

/// Who may import whom: a top-level module and the ones it may name. `domain` is the ground that all stand on.
/// A module that is not here may name any.
const IMPORTS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("files", &["domain"]),
    ("decision", &["domain"]),
    ("token", &["domain"]),
    // Files are written in one place; the evidence is files.
    ("evidence", &["domain", "files"]),
    ("settings", &["domain"]),
    ("wire", &["domain"]),
    ("telemetry", &["domain", "settings"]),
    ("client", &["clock", "domain", "files", "settings", "wire"]),
    // Where the evidence goes besides: it has a network, which the evidence itself does without.
    ("archive", &["domain", "evidence", "settings"]),
    // What is asked of it over the wire.
    ("asking", &["domain", "evidence", "wire"]),
    ("serve", &[]),
    // What tokens say, and whose keys vouch for them.
    ("issuers", &["domain", "settings", "token"]),
    (
        "gateway",
        &[
            "archive",
            "asking",
            "clock",
            "decision",
            "domain",
            "evidence",
            "files",
            "issuers",
            "serve",
            "settings",
            "telemetry",
            "token",
            "wire",
        ],
    ),
    (
        "control",
        &[
            "asking",
            "clock",
            "decision",
            "domain",
            "evidence",
            "files",
            "issuers",
            "serve",
            "settings",
            "telemetry",
            "token",
            "wire",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "client",
            "clock",
            "decision",
            "domain",
            "evidence",
            "files",
            "serve",
            "settings",
            "telemetry",
            "token",
            "wire",
        ],
    ),
];

/// Where a library may be named, by the beginning of the path: there, and nowhere else.
const CONFINED: &[(&str, &[&str])] = &[
    ("pingora_core", &["src/gateway/http"]),
    ("pingora_error", &["src/gateway/http"]),
    ("pingora_http", &["src/gateway/http"]),
    ("pingora_proxy", &["src/gateway/http"]),
    ("tonic", &["src/wire", "src/control/api", "src/client", "src/gateway/sync", "src/app"]),
    ("object_store", &["src/archive"]),
    ("rusqlite", &["src/control/store/sqlite"]),
];

/// What a module must do without: it is pure, or has no network.
const WITHOUT: &[(&str, &[&str])] = &[
    ("domain", &["tokio", "std::fs", "reqwest"]),
    ("decision", &["tokio", "std::fs", "reqwest"]),
    ("token", &["tokio", "reqwest"]),
    ("settings", &["tokio", "reqwest"]),
];

const MAX_LINES: usize = 500;
/// Files that are longer than [`MAX_LINES`], each with the reason.
const LONG_FILES: &[(&str, &str)] =
    &[("src/domain/route.rs", "a route and the texts that it is written in read as one page")];

/// What may lie at the top, besides dot-files and the build directory.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "proto",
    "config",
    "benches",
    "tests",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "build.rs",
    "dev",
    "test",
    "deny.toml",
    "clippy.toml",
    "rustfmt.toml",
    "rust-toolchain.toml",
    "target",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder`, with its path from the root; `/` on every system.
fn files(folder: &str) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                // What fuzzing builds and collects is nobody's text.
                let made = ["target", "corpus", "artifacts"].iter().any(|name| entry.file_name() == *name);
                if !made {
                    folders.push(path);
                }
            } else {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, path));
            }
        }
    }
    found.sort();
    found
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    let rust = files(folder).into_iter().filter(|(name, _)| name.ends_with(".rs"));
    rust.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect()
}

/// The module path of a source file: `src/a/b.rs` is `a`, `b`.
fn module_of(name: &str) -> Vec<&str> {
    name.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect()
}

/// A file without its line comments; lines stay where they are.
fn code(text: &str) -> String {
    let without = |line: &str| line.split_once("//").map_or(line, |(before, _)| before).to_owned();
    text.lines().map(without).collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where `word` stands in `code` as a whole identifier.
fn words<'t>(code: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(inside) && !code[at + word.len()..].starts_with(inside))
}

/// The top-level modules of ours that `code` (of the module `own`) names, with the line of each.
fn named_modules(code: &str, own: &[&str]) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    let mut take = |at: usize, rest: &str| {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut first = true;
            for (offset, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => first = true,
                    c if c.is_whitespace() => {}
                    _ if first && depth == 0 => {
                        named.push((line_of(code, at), identifier(&group[offset..]).to_owned()));
                        first = false;
                    }
                    _ => {}
                }
            }
        } else {
            named.push((line_of(code, at), identifier(rest).to_owned()));
        }
    };
    for at in words(code, "crate") {
        if let Some(rest) = code[at..].strip_prefix("crate::") {
            take(at, rest);
        }
    }
    // As many `super` as the module is deep lead to the top, too. Inside an inline `mod tests` they do not.
    let top = "super::".repeat(own.len());
    let outside = code.find("\nmod tests {").map_or(code, |end| &code[..end]);
    for (at, _) in outside.match_indices(&top) {
        if !outside[..at].ends_with("super::") {
            take(at, &outside[at + top.len()..]);
        }
    }
    named
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn modules_import_only_what_the_layout_allows() {
    let mut faults = Vec::new();
    let sources = rust_files("src");
    assert!(sources.len() > 20, "the sources were not found");
    let modules: Vec<&str> = sources.iter().map(|(name, _)| module_of(name)[0]).collect();
    for (name, text) in &sources {
        let own = module_of(name);
        let Some((_, allowed)) = IMPORTS.iter().find(|(module, _)| *module == own[0]) else { continue };
        for (line, named) in named_modules(&code(text), &own) {
            if named != own[0] && modules.contains(&named.as_str()) && !allowed.contains(&named.as_str()) {
                faults.push(format!("{name}:{line}: `{}` may not know `{named}`", own[0]));
            }
        }
    }
    none(&faults);
}

#[test]
fn imports_are_seen_in_every_form() {
    let seen = |code: &str, own: &[&str]| {
        named_modules(code, own).into_iter().map(|(line, name)| format!("{line}:{name}")).collect::<Vec<_>>()
    };
    assert_eq!(seen("use crate::domain::X;\nlet x = crate::gateway::y();", &["a"]), ["1:domain", "2:gateway"]);
    assert_eq!(seen("use crate::{\n    domain::{X, gateway},\n    control,\n};", &["a"]), ["1:domain", "1:control"]);
    assert_eq!(seen("use super::super::control::X;", &["a", "b"]), ["1:control"]);
    assert_eq!(seen("use super::super::x::Y;", &["a", "b", "c"]), Vec::<String>::new());
    assert_eq!(seen("use super::X;\nmod tests {\n    use super::*;\n}", &["a"]), ["1:X"]);
    assert_eq!(code("a // crate::control\nb"), "a \nb");
    assert_eq!(words("tonic::x my_tonic tonic_health", "tonic").collect::<Vec<_>>(), [0]);
}

#[test]
fn libraries_stay_where_they_are_confined() {
    let mut faults = Vec::new();
    for (name, text) in rust_files("src") {
        let code = code(&text);
        for (library, homes) in CONFINED {
            if !homes.iter().any(|home| name.starts_with(home)) {
                // In quotes it is a name for people and filters, and nothing of the library is used.
                let quoted = |at: &usize| code[..*at].ends_with('"') && code[at + library.len()..].starts_with('"');
                faults.extend(
                    words(&code, library)
                        .filter(|at| !quoted(at))
                        .map(|at| format!("{name}:{}: `{library}` is confined to {homes:?}", line_of(&code, at))),
                );
            }
        }
        for (module, without) in WITHOUT {
            if module_of(&name)[0] == *module {
                for word in *without {
                    faults.extend(
                        words(&code, word)
                            .map(|at| format!("{name}:{}: `{module}` does without `{word}`", line_of(&code, at))),
                    );
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn every_module_opens_with_its_page() {
    let sources = ["src", "tests", "benches"].into_iter().flat_map(rust_files);
    none(
        &sources
            .filter(|(_, text)| !text.starts_with("//!"))
            .map(|(name, _)| format!("{name}:1: does not open with //!"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn files_are_short_or_say_why_not() {
    let mut faults = Vec::new();
    let sources: Vec<_> = ["src", "tests", "benches"].into_iter().flat_map(rust_files).collect();
    for (name, text) in &sources {
        let lines = text.lines().count();
        if lines > MAX_LINES && !LONG_FILES.iter().any(|(long, _)| long == name) {
            faults.push(format!("{name}: {lines} lines; past {MAX_LINES}, split it or list it with a reason"));
        }
    }
    for (long, reason) in LONG_FILES {
        let still = sources.iter().any(|(name, text)| name == long && text.lines().count() > MAX_LINES);
        if !still || reason.is_empty() {
            faults.push(format!("{long}: is listed as long and is not, or without a reason"));
        }
    }
    none(&faults);
}

#[test]
fn no_text_names_a_machine_or_postpones() {
    // Written in two halves, so that this file does not find itself.
    let paths = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("../sh", "ared"),
    ];
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut faults = Vec::new();
    let folders = ["src", "proto", "config", "benches", "tests", ".ci"].into_iter().flat_map(files);
    let tops = TOP.iter().map(|name| ((*name).to_owned(), root().join(name))).filter(|(_, path)| path.is_file());
    for (name, path) in folders.chain(tops).filter(|(name, _)| name != "Cargo.lock") {
        // What is not text (a golden descriptor) cannot be read for words.
        let Ok(text) = fs::read_to_string(path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let found = paths
                .iter()
                .find(|path| line.contains(**path))
                .or_else(|| notes.iter().find(|note| words(line, note).next().is_some()));
            faults.extend(found.map(|what| format!("{name}:{}: `{what}`", number + 1)));
        }
    }
    none(&faults);
}

#[test]
fn every_exception_from_a_lint_has_its_reason() {
    let mut faults = Vec::new();
    for (name, text) in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        let code = code(&text);
        for open in
            [concat!("#[al", "low("), concat!("#![al", "low("), concat!("#[exp", "ect("), concat!("#![exp", "ect(")]
        {
            for (at, _) in code.match_indices(open) {
                let end = code[at..].find(")]").map_or(code.len(), |end| at + end);
                if !code[at..end].contains("reason =") {
                    faults.push(format!("{name}:{}: a lint is left without a reason", line_of(&code, at)));
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn every_example_config_loads() {
    let (policies, others): (Vec<_>, Vec<_>) =
        files("config").into_iter().partition(|(name, _)| name.contains("/policy/"));
    let examples: Vec<_> =
        others.into_iter().filter(|(name, _)| name.ends_with(".yaml") && !name.contains("kubernetes/")).collect();
    let kind = |name: &str| settings::check_file(&root().join("config").join(name));
    assert_eq!(kind("gateway.yaml"), Ok(FileKind::Gateway));
    assert_eq!(kind("control.yaml"), Ok(FileKind::Control));
    none(
        &examples
            .iter()
            .filter_map(|(_, path)| settings::check_file(path).err())
            .map(|faults| faults.to_string())
            .collect::<Vec<_>>(),
    );
    let documents = catalog::load(&root().join("config/catalog")).unwrap();
    assert!(documents.len() >= 4, "{documents:?}");
    // A policy is its rules with their cases.
    let sets: BTreeSet<&Path> = policies.iter().filter_map(|(_, path)| path.parent()).collect();
    for set in sets {
        crate::dev::run(&root(), &["policy", "test", "-f", set.to_str().unwrap()]).exits(0);
    }
}

#[test]
fn nothing_lies_at_the_top_that_has_no_place_there() {
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    none(&names.filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str())).collect::<Vec<_>>());
    for script in ["dev", "test", ".ci/run"] {
        let mode = fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
    }
}

#[test]
fn tests_are_one_binary_besides_the_soak_and_the_fuzzers() {
    let stray = rust_files("tests").into_iter().map(|(name, _)| name);
    let home = |name: &String| ["tests/it/", "tests/soak", "tests/fuzz/"].iter().any(|home| name.starts_with(home));
    none(&stray.filter(|name| !home(name)).collect::<Vec<_>>());
    // A file that no `mod` line names would be a test that never runs.
    let it = root().join("tests/it");
    for (name, path) in files("tests/it").into_iter().filter(|(name, _)| name.ends_with(".rs")) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let folder = path.parent().unwrap();
        let parents: [&Path; 2] = [&folder.join("main.rs"), &folder.with_extension("rs")];
        let declared = parents
            .iter()
            .filter_map(|parent| fs::read_to_string(parent).ok())
            .any(|text| words(&text, stem).next().is_some());
        assert!(declared || path == it.join("main.rs"), "{name} is in no module");
    }
}
