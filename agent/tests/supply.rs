//! What is said about what others made: `images/node/vex.json` has the form of OpenVEX and speaks of one base.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// The justifications that OpenVEX 0.2.0 knows.
const JUSTIFICATIONS: [&str; 5] = [
    "component_not_present",
    "vulnerable_code_not_present",
    "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary",
    "inline_mitigations_already_exist",
];

fn vex() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/node/vex.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_statement_of_known_holes_has_its_form() {
    let vex = vex();
    assert_eq!(vex["@context"], "https://openvex.dev/ns/v0.2.0");
    for field in ["@id", "author"] {
        assert!(vex[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    let timestamp = regex::Regex::new(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$").unwrap();
    assert!(vex["timestamp"].as_str().is_some_and(|text| timestamp.is_match(text)));
    assert!(vex["version"].as_u64().is_some_and(|version| version > 0));

    let number = regex::Regex::new(r"^CVE-[0-9]{4}-[0-9]{4,}$").unwrap();
    let component = regex::Regex::new(
        r"^pkg:apk/alpine/[a-z0-9.-]+@[0-9a-z.]+-r[0-9]+\?arch=x86_64&distro=alpine-3\.10\.9$",
    );
    let component = component.unwrap();
    let mut seen = BTreeSet::new();
    for statement in vex["statements"].as_array().unwrap() {
        let name = statement["vulnerability"]["name"].as_str().unwrap();
        assert!(number.is_match(name) && seen.insert(name), "{name}: malformed, or stated twice");
        assert_eq!(statement["status"], "not_affected", "{name}: then say what to do, and fix it");
        assert!(JUSTIFICATIONS.contains(&statement["justification"].as_str().unwrap()), "{name}");
        assert!(statement["impact_statement"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        let products = statement["products"].as_array().unwrap();
        assert_eq!(products.len(), 1, "{name}");
        assert_eq!(products[0]["@id"], "pkg:oci/muster-node", "{name}");
        let parts = products[0]["subcomponents"].as_array().unwrap();
        assert!(!parts.is_empty(), "{name}");
        for part in parts {
            assert!(part["@id"].as_str().is_some_and(|id| component.is_match(id)), "{name}: {part}");
        }
    }
    assert!(!seen.is_empty());
}
