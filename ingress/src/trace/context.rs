//! Trace context as HTTP fields carry it (W3C Trace Context, level 1).
//!
//! Pure.

use http::HeaderValue;

/// The trace that a client's request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    is_sampled: bool,
}

/// A request's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    /// The span of whoever sent the request.
    pub(crate) parent_id: Option<[u8; 8]>,
    pub(crate) is_sampled: bool,
}

/// Length of a field of version 00.
const LENGTH: usize = 55;

impl Parent {
    /// Reads a `traceparent` field: `version-trace-parent-flags`, in small hexadecimal digits. Of a
    /// version that is not known, what version 00 defines is read. `None` if it is not valid.
    pub(crate) fn parse(field: &[u8]) -> Option<Parent> {
        let [version] = hex(field.get(..2)?)?;
        let is_long = field.len() > LENGTH;
        if version == 0xff || is_long && (version == 0 || field[LENGTH] != b'-') {
            return None;
        }
        if [2, 35, 52].iter().any(|dash| field.get(*dash) != Some(&b'-')) {
            return None;
        }
        let trace_id = hex(&field[3..35])?;
        let span_id = hex(&field[36..52])?;
        let [flags] = hex(field.get(53..LENGTH)?)?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        Some(Parent { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }
}

/// So many octets of small hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut octets = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *octet = *octet << 4 | value;
        }
    }
    Some(octets)
}

impl TraceContext {
    /// A span with this id in the trace of the parent, whose decision to sample holds; without a
    /// parent in a new trace, which is sampled.
    pub(crate) fn new(
        parent: Option<Parent>,
        span_id: u64,
        trace_id: impl FnOnce() -> u128,
    ) -> TraceContext {
        // An id of zeros is not valid.
        let span_id = span_id.max(1).to_be_bytes();
        match parent {
            Some(Parent { trace_id, span_id: parent, is_sampled }) => {
                TraceContext { trace_id, span_id, parent_id: Some(parent), is_sampled }
            }
            None => {
                let trace_id = trace_id().max(1).to_be_bytes();
                TraceContext { trace_id, span_id, parent_id: None, is_sampled: true }
            }
        }
    }

    /// The field that makes the span the parent of what the endpoint does.
    pub(crate) fn header(&self) -> HeaderValue {
        let trace_id = u128::from_be_bytes(self.trace_id);
        let span_id = u64::from_be_bytes(self.span_id);
        let flags = u8::from(self.is_sampled);
        let field = format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}");
        HeaderValue::try_from(field).expect("digits and hyphens")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn fields_that_are_valid() {
        for (version, flags, more, is_sampled) in [
            ("00", "01", "", true),
            ("00", "00", "", false),
            ("00", "03", "", true),
            ("00", "02", "", false),
            ("01", "01", "", true),
            ("cc", "01", "-what-comes", true),
        ] {
            let field = format!("{version}-{TRACE}-{SPAN}-{flags}{more}");
            let parent = Parent::parse(field.as_bytes()).unwrap();
            assert_eq!(parent.is_sampled, is_sampled, "{field}");
            let context = TraceContext::new(Some(parent), 0xabc, || unreachable!());
            let flags = u8::from(is_sampled);
            let expected = format!("00-{TRACE}-0000000000000abc-{flags:02x}");
            assert_eq!(context.header(), expected, "{field}");
            assert_eq!(context.parent_id, hex(SPAN.as_bytes()));
        }
        let begun = TraceContext::new(None, 0, || 0);
        let expected = "00-00000000000000000000000000000001-0000000000000001-01";
        assert_eq!(begun.header(), expected);
    }

    #[test]
    fn fields_that_are_not_valid() {
        let upper = TRACE.to_ascii_uppercase();
        for field in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-011"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0g-{TRACE}-{SPAN}-01"),
            format!("00-{upper}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}_01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
        ] {
            assert_eq!(Parent::parse(field.as_bytes()), None, "{field:?}");
        }
    }
}
