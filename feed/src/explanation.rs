//! What becomes of traffic to a target, and why: the answer of `switchyard explain`.
//!
//! Each process's crate explains by its own snapshot, made by the same code as what it serves.
//! Left out: how an explanation is printed.

use serde::Serialize;

/// Why a target is served as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// As it was asked for.
    pub target: String,
    /// What a client gets, in a few words: `forwarded`, `404`, `refused`, `NOERROR`.
    pub answer: String,
    /// Where it goes: a Service and its port, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What serves it, in the order in which it takes turns: endpoints as `IP:PORT`, or the data
    /// of DNS records.
    pub endpoints: Vec<String>,
    /// The rules that led there, the first one first.
    pub because: Vec<String>,
    /// Rules that match as well, and why they lost.
    pub lost: Vec<String>,
    /// What is wrong, if the target is not served as somebody would wish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

/// One line of what is wrong, and one of what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    pub cause: String,
    pub fix: String,
}

impl Explanation {
    /// An explanation of something that is not served.
    pub fn of_trouble(
        target: &str,
        answer: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Explanation {
        let trouble = Some(Trouble { cause: cause.into(), fix: fix.into() });
        let target = target.to_owned();
        Explanation { target, answer: answer.into(), trouble, ..Explanation::default() }
    }
}

/// The name among these that is most like the one that was asked for, if one is like it.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Names that differ in more than this part of their letters are not meant.
    const MIN_LIKENESS: f64 = 0.6;
    let rated =
        names.into_iter().map(|name| (strsim::normalized_damerau_levenshtein(wanted, name), name));
    let alike = rated.filter(|(likeness, _)| *likeness >= MIN_LIKENESS);
    alike.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}
