//! What a reader relies on, held by a test: arrows between rooms, `media`'s purity, sizes, names on dashboards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file is below this many lines, its tests not counted.
const MAX_FILE_LINES: usize = 400;
/// A function fits a screen.
const MAX_FUNCTION_LINES: usize = 60;
/// Rooms that hold our Rust.
const ROOMS: [&str; 9] = ["src", "memory", "media", "rtmp", "storage", "delivery", "actors", "supervisors", "chaos"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && !matches!(name.as_str(), "target" | "node_modules" | "dist" | ".git") {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files
}

/// Rust files that are not tests.
fn sources() -> Vec<PathBuf> {
    let all = ROOMS.iter().flat_map(|room| files_below(&root().join(room), "rs"));
    all.filter(|path| !path.components().any(|part| part.as_os_str() == "tests") && !is_test_file(path)).collect()
}

fn is_test_file(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem == "tests" || stem.ends_with("_tests"))
}

/// A file's lines up to its tests.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("readable");
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).map(str::to_owned).collect()
}

/// Dependencies of a crate on our own crates, tests' not counted.
fn arrows(room: &str) -> BTreeSet<String> {
    let manifest = if room == "src" { root().join("Cargo.toml") } else { root().join(room).join("Cargo.toml") };
    let text = fs::read_to_string(manifest).expect("a manifest");
    let (_, dependencies) = text.split_once("\n[dependencies]").unwrap_or(("", ""));
    let dependencies = dependencies.split("\n[").next().unwrap_or_default();
    let names = dependencies.lines().filter_map(|line| line.split(['.', ' ']).next());
    names.filter(|name| ROOMS.contains(name)).map(str::to_owned).collect()
}

#[test]
fn arrows_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("src", &["supervisors", "actors", "delivery", "storage", "media"][..]),
        ("supervisors", &["actors", "storage"]),
        ("actors", &["storage", "media", "memory", "rtmp"]),
        ("delivery", &["storage", "memory"]),
        ("storage", &["media", "memory"]),
        ("media", &["memory"]),
        ("rtmp", &[]),
        ("memory", &[]),
        ("chaos", &[]),
    ]);
    for room in ROOMS {
        for arrow in arrows(room) {
            assert!(allowed[room].contains(&arrow.as_str()), "{room} must not know {arrow}");
        }
    }
}

#[test]
fn media_and_rtmp_are_pure() {
    let impure = [
        "std::fs",
        "std::net",
        "std::thread",
        "Instant::now",
        "SystemTime::now",
        "tokio",
        "tracing::",
        "println!",
        "eprintln!",
    ];
    for path in
        sources().iter().filter(|path| path.starts_with(root().join("media")) || path.starts_with(root().join("rtmp")))
    {
        for line in lines(path) {
            assert!(!impure.iter().any(|word| line.contains(word)), "{}: {line}", path.display());
        }
    }
}

#[test]
fn files_and_functions_stay_small() {
    for path in sources() {
        let lines = lines(&path);
        assert!(lines.len() <= MAX_FILE_LINES, "{} has {} lines", path.display(), lines.len());
        let mut open: Option<(usize, String)> = None;
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let begins = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "];
            if begins.iter().any(|word| code.starts_with(word)) {
                open = Some((number, " ".repeat(indent) + "}"));
            }
            if let Some((from, _)) = open.as_ref().filter(|(_, end)| line == end) {
                assert!(
                    number - from < MAX_FUNCTION_LINES,
                    "{}:{} has {} lines",
                    path.display(),
                    from + 1,
                    number - from + 1
                );
                open = None;
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in sources() {
        assert!(lines(&path).first().is_some_and(|line| line.starts_with("//!")), "{} has no //! line", path.display());
    }
}

#[test]
fn there_are_no_catch_all_modules() {
    for path in sources() {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        assert!(!["utils", "util", "common", "helpers", "types", "define"].contains(&stem), "{}", path.display());
    }
}

/// What the server is made of, without what only describes its metrics.
fn server_code() -> String {
    let is_server = |path: &&PathBuf| !path.starts_with(root().join("chaos")) && !path.ends_with("metric_help.rs");
    sources().iter().filter(is_server).map(|path| fs::read_to_string(path).expect("readable")).collect()
}

#[test]
fn every_metric_says_what_it_is_and_none_is_described_that_is_not_there() {
    let names = |code: &str| -> BTreeSet<String> {
        code.split('"').filter(|text| text.starts_with("steadycast_")).map(str::to_owned).collect()
    };
    let described = fs::read_to_string(root().join("src/metric_help.rs")).expect("readable");
    assert_eq!(names(&server_code()), names(&described));
}

#[test]
fn metrics_named_on_dashboards_rules_and_pages_exist() {
    let code = server_code();
    let dashboards = files_below(&root().join("dashboards"), "json");
    for dashboard in &dashboards {
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(dashboard).expect("readable")).expect("JSON");
        assert!(json["panels"].as_array().is_some_and(|panels| !panels.is_empty()));
    }
    let others = ["dashboards/rules.yml", "dashboards/rules_test.yml", "docs/operations.md", "README.md"];
    for path in dashboards.into_iter().chain(others.map(|path| root().join(path))) {
        let text = fs::read_to_string(&path).expect("readable");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("steadycast_") && *word != "steadycast_") {
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(code.contains(&format!("\"{base}\"")), "{name} in {} is no metric of ours", path.display());
        }
    }
}
