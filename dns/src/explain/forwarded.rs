//! What is said of a name that is forwarded: what the cache knows, and who is asked.

use model::Explanation;

use crate::cache_report::{CacheReport, EntryReport, UpstreamReport, UpstreamState};

/// What the responder does with a name that is not ours.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// By the running responder: for each type.
    Asked(Vec<CacheReport>),
    /// The running responder does not forward it; in its words.
    Not(String),
    /// The responder could not be asked: what would happen without a cache.
    Unasked { why: String, forward_zone: Option<String>, upstreams: Vec<UpstreamReport> },
}

/// What there is for a type, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Cached,
    Stale,
    Failing,
    Forwarded,
}

impl State {
    fn label(self) -> &'static str {
        match self {
            State::Cached => "cached",
            State::Stale => "stale",
            State::Failing => "failing",
            State::Forwarded => "forwarded",
        }
    }
}

impl Forwarded {
    /// Adds it to an explanation.
    pub(super) fn describe(&self, explanation: &mut Explanation) {
        match self {
            Forwarded::Asked(reports) => describe_reports(reports, explanation),
            Forwarded::Not(why) => {
                explanation.answer = "not forwarded".to_owned();
                explanation.trouble = None;
                explanation.because.push(why.clone());
            }
            Forwarded::Unasked { why, forward_zone, upstreams } => {
                explanation.because.push(asked_of(forward_zone.as_deref(), upstreams));
                explanation.because.push(format!(
                    "the dns process was not asked ({why}): its cache and its flags are not known"
                ));
            }
        }
    }
}

fn describe_reports(reports: &[CacheReport], explanation: &mut Explanation) {
    let mut best = State::Forwarded;
    for report in reports {
        for entry in &report.entries {
            let (state, line) = describe_entry(report, entry);
            best = best.min(state);
            explanation.because.push(line);
            if let Some(answer) = entry.answer.as_ref().filter(|_| state <= State::Stale) {
                let unknown = |data: &&String| !explanation.endpoints.contains(data);
                let data: Vec<String> = answer.data.iter().filter(unknown).cloned().collect();
                explanation.endpoints.extend(data);
            }
        }
        if report.entries.is_empty() {
            explanation.because.push(format!("{}: not in the cache", report.record_type));
        }
    }
    explanation.answer = best.label().to_owned();
    if let Some(report) = reports.first() {
        let zone = report.forward_zone.as_deref();
        explanation.because.push(asked_of(zone, &report.upstreams));
    }
}

fn describe_entry(report: &CacheReport, entry: &EntryReport) -> (State, String) {
    let flags = match (entry.dnssec_ok, entry.checking_disabled) {
        (false, false) => "",
        (true, false) => " with DO",
        (false, true) => " with CD",
        (true, true) => " with DO and CD",
    };
    let kind = format!("{}{flags}", report.record_type);
    let failing = entry.failure.as_ref().map(|failure| {
        let seconds = failure.left_ms.div_ceil(1000);
        format!("failing with {}, upstreams are not asked for {seconds} s", failure.rcode)
    });
    let Some(answer) = &entry.answer else {
        let failing = failing.unwrap_or_else(|| "not in the cache".to_owned());
        return (State::Failing, format!("{kind}: {failing}"));
    };
    let (rcode, age) = (&answer.rcode, answer.age_seconds);
    let hits = match answer.hits {
        0 => "not used yet".to_owned(),
        1 => "used once".to_owned(),
        hits => format!("used {hits} times"),
    };
    if let Some(left) = answer.ttl_left_seconds {
        return (
            State::Cached,
            format!("{kind}: cached {rcode}, {age} s old, {left} s left, {hits}"),
        );
    }
    let expired = age.saturating_sub(answer.ttl_seconds);
    let failing = failing.map(|failing| format!("; {failing}")).unwrap_or_default();
    let line = format!(
        "{kind}: stale {rcode}, expired {expired} s ago, {hits}: given only while upstreams do \
         not answer{failing}"
    );
    (State::Stale, line)
}

/// Who is asked, and why those.
fn asked_of(forward_zone: Option<&str>, upstreams: &[UpstreamReport]) -> String {
    if upstreams.is_empty() {
        return "there are no upstreams: clients get REFUSED".to_owned();
    }
    let of_one = |upstream: &UpstreamReport| {
        let address = &upstream.address;
        match upstream.state {
            UpstreamState::Up | UpstreamState::Unknown => address.clone(),
            UpstreamState::Down => format!("{address} (down)"),
            UpstreamState::Loop => format!("{address} (not used: it forwards to this server)"),
        }
    };
    let servers = upstreams.iter().map(of_one).collect::<Vec<_>>().join(", ");
    match forward_zone {
        Some(zone) => format!("--forward {zone}: asked of {servers}"),
        None => format!("in no zone of --forward: asked of the usual upstreams, {servers}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_report::{AnswerReport, FailureReport};

    fn report(entries: Vec<EntryReport>) -> CacheReport {
        let upstream = |address: &str, state| UpstreamReport { address: address.to_owned(), state };
        CacheReport {
            name: "www.example".to_owned(),
            record_type: "A".to_owned(),
            forward_zone: Some("example".to_owned()),
            upstreams: vec![
                upstream("10.0.0.2:53", UpstreamState::Up),
                upstream("10.0.0.3:53", UpstreamState::Down),
            ],
            entries,
        }
    }

    fn entry(answer: Option<(u64, u64)>, left_ms: Option<u64>) -> EntryReport {
        let answer = answer.map(|(age, ttl)| AnswerReport {
            rcode: "NOERROR".to_owned(),
            data: vec!["A 192.0.2.1".to_owned()],
            age_seconds: age,
            ttl_seconds: ttl,
            ttl_left_seconds: ttl.checked_sub(age).filter(|left| *left > 0),
            hits: 3,
        });
        let failure = left_ms.map(|left_ms| FailureReport {
            rcode: "SERVFAIL".to_owned(),
            extended_error: Some(22),
            left_ms,
        });
        EntryReport { dnssec_ok: false, checking_disabled: false, answer, failure }
    }

    #[test]
    fn what_is_said_of_each_state() {
        let check = |entries: Vec<EntryReport>, answer: &str, data: usize, line: &str| {
            let mut explanation = Explanation::default();
            Forwarded::Asked(vec![report(entries)]).describe(&mut explanation);
            assert_eq!(explanation.answer, answer);
            assert_eq!(explanation.endpoints.len(), data, "{answer}");
            let asked = "--forward example: asked of 10.0.0.2:53, 10.0.0.3:53 (down)";
            assert_eq!(explanation.because, [line, asked]);
        };
        check(vec![], "forwarded", 0, "A: not in the cache");
        let cached = "A: cached NOERROR, 12 s old, 48 s left, used 3 times";
        check(vec![entry(Some((12, 60)), None)], "cached", 1, cached);
        let failing = "A: failing with SERVFAIL, upstreams are not asked for 2 s";
        check(vec![entry(None, Some(1500))], "failing", 0, failing);
        let stale = "A: stale NOERROR, expired 20 s ago, used 3 times: given only while upstreams \
                     do not answer";
        check(vec![entry(Some((80, 60)), None)], "stale", 1, stale);
        let both = format!("{stale}; failing with SERVFAIL, upstreams are not asked for 2 s");
        check(vec![entry(Some((80, 60)), Some(2000))], "stale", 1, &both);
    }

    #[test]
    fn a_process_that_was_not_asked() {
        let mut explanation = Explanation::default();
        let why = "127.0.0.1:7431: Connection refused".to_owned();
        let upstreams = report(vec![]).upstreams[..1].to_vec();
        Forwarded::Unasked { why, forward_zone: None, upstreams }.describe(&mut explanation);
        assert_eq!(
            explanation.because,
            [
                "in no zone of --forward: asked of the usual upstreams, 10.0.0.2:53",
                "the dns process was not asked (127.0.0.1:7431: Connection refused): its cache \
                 and its flags are not known",
            ]
        );
        let mut explanation = Explanation::default();
        let why = String::new();
        let upstreams = Vec::new();
        Forwarded::Unasked { why, forward_zone: None, upstreams }.describe(&mut explanation);
        assert_eq!(explanation.because[0], "there are no upstreams: clients get REFUSED");
    }
}
