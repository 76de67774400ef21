//! The error codes of HTTP/2 (RFC 9113 section 7), as labels of metrics.
//!
//! Pure.

/// The label of each code, by its number, and at last that of codes that have no name.
pub(crate) const LABELS: [&str; 15] = [
    "no_error",
    "protocol_error",
    "internal_error",
    "flow_control_error",
    "settings_timeout",
    "stream_closed",
    "frame_size_error",
    "refused_stream",
    "cancel",
    "compression_error",
    "connect_error",
    "enhance_your_calm",
    "inadequate_security",
    "http_1_1_required",
    "other",
];

/// Where a code stands among the labels.
pub(crate) fn position(code: u32) -> usize {
    usize::try_from(code).unwrap_or(usize::MAX).min(LABELS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_labels_of_the_standard() {
        let table = [(0, "no_error"), (1, "protocol_error"), (0xb, "enhance_your_calm")];
        for (code, label) in table.into_iter().chain([(0xd, "http_1_1_required")]) {
            assert_eq!(LABELS[position(code)], label, "{code}");
        }
        assert_eq!(LABELS[position(14)], "other");
        assert_eq!(LABELS[position(u32::MAX)], "other");
    }
}
