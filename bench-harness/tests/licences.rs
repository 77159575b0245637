//! Every dependency's licence is one that `deny.toml` allows: the part of cargo-deny that needs nothing but cargo.

use std::{path::Path, process::Command};

use spdx::{Expression, LicenseReq, ParseMode};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let deny: toml::Table = text.parse().unwrap();
    let list = deny["licenses"]["allow"].as_array().unwrap();
    list.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn dependencies_have_licences_we_allow() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform"])
        .arg("x86_64-unknown-linux-gnu")
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 20, "cargo metadata lists only {} packages", packages.len());

    let allowed = allowed();
    let accepts = |req: &LicenseReq| allowed.iter().any(|name| *name == req.to_string());
    for package in packages {
        let name = &package["name"];
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        let expression = Expression::parse_mode(licence, ParseMode::LAX).unwrap();
        assert!(expression.evaluate(accepts), "{name}: `{licence}` is not in deny.toml's list");
    }
}

/// Each licence that the packages offer has its text at the top of the repository, and the README links to it.
#[test]
fn licences_we_promise_have_their_texts() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let promised = manifest["workspace"]["package"]["license"].as_str().unwrap().to_owned();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for licence in promised.split(" OR ") {
        let (file, opening) = match licence {
            "Apache-2.0" => ("LICENSE-APACHE", "Apache License"),
            "MIT" => ("LICENSE-MIT", "Permission is hereby granted, free of charge"),
            other => panic!("no text of {other}"),
        };
        let text =
            std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(opening), "{file} is not {licence}");
        assert!(readme.contains(file), "README.md does not link to {file}");
    }
}
