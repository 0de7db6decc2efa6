//! `metallic parity --device metal --quick`: the table of both backends, and the report. The lists of cases
//! are those of the other tests, so only the full lane runs it.

#[path = "cli/support.rs"]
#[expect(dead_code, reason = "events are for other commands")]
mod support;

use serde_json::Value;

use support::answer;

#[test]
#[expect(clippy::print_stdout, reason = "the table is what the lane shows")]
fn parity_writes_its_report() {
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().join("report.json");
    let call = ["parity", "--device", "metal", "--quick", "--json", path.to_str().unwrap()];
    let table = answer(cache.path(), &call).out;
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for backend in ["legacy", "graph"] {
        let ran = rows.iter().filter(|row| row["backend"] == backend).count();
        assert!(ran > 200, "{ran} cases on {backend}");
    }
    assert!(rows.iter().all(|row| row["failure"].is_null()));
    assert_eq!(report["failed"], 0);
    assert!(table.contains(&format!("{} ran, 0 failed", rows.len())), "{table}");
    println!("{table}");
}
