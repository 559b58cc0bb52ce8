//! Checks the conformance table of README.md, section 12.

use std::{collections::BTreeSet, path::Path};

/// `module::name` of all tests in `tests/conformance`.
fn existing() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut tests = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if !line.starts_with("#[test]") && !line.starts_with("#[tokio::test") {
                continue;
            }
            let name = lines.next().unwrap().split("fn ").nth(1).unwrap().split('(').next().unwrap();
            tests.insert(format!("{module}::{name}"));
        }
    }
    tests
}

#[test]
fn every_row_names_tests_that_exist() {
    let existing = existing();
    let readme = include_str!("../README.md");
    let (_, table) = readme.split_once("## 12. Conformance").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let named: BTreeSet<String> = rows
        .flat_map(|row| row.split('`'))
        .filter(|text| {
            text.contains("::")
                && !text.ends_with("::tests")
                && !text.contains(|c: char| c.is_whitespace() || c == '$')
        })
        .map(str::to_owned)
        .collect();
    assert!(named.len() > 50, "{named:?}");
    let missing: Vec<_> = named.difference(&existing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
