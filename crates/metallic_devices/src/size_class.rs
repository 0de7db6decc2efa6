//! Sizes that repeat, so that freed buffers fit later requests.

/// Rounds `bytes` up to eighths of the next power of two, and to whole times `alignment`: above
/// four times the alignment, less than a quarter of what was asked for is wasted. `None` on
/// overflow.
pub(crate) fn size_class(bytes: usize, alignment: usize) -> Option<usize> {
    let step = (bytes.checked_next_power_of_two()? / 8).max(alignment);
    bytes.max(1).checked_next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn classes_hold_what_was_asked_for_and_not_much_more() {
        for bytes in (0..5000).chain([1 << 20, (1 << 20) + 1, 3 << 30]) {
            let class = size_class(bytes, 64).unwrap();
            assert!(class >= bytes.max(1) && class.is_multiple_of(64));
            assert!(bytes < 256 || class - bytes <= bytes / 4, "{bytes}: {class}");
            assert_eq!(size_class(class, 64), Some(class));
        }
        assert_eq!(size_class(usize::MAX, 64), None);
    }
}
