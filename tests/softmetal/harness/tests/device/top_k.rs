//! The largest of rows, exactly, and tokens that are chosen from them.

use metallic_testkit::ops::run_top_k;

use crate::support::metal;

#[test]
fn the_largest_agree_with_the_oracle() {
    let rows = run_top_k(&metal(), &mut |_| {});
    assert!(rows.len() >= 60, "{} cases", rows.len());
    for row in rows {
        assert_eq!(row.failure, None, "{}", row.case);
        assert_eq!(row.kernel, "legacy:chunks");
    }
}
