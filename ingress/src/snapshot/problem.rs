//! What an operator should know of an object: the content of the log, `/status`, `check` and
//! Events, which all come from the code that compiles routes.
//!
//! Pure. Left out: where an object stands in a file, which is found by its field.

use std::fmt;

use model::finding::Finding;
use model::problem::{Level, Mark};
use model::tree::Step;
use model::{Kind, ObjectKey, ObjectName};

use crate::route::HostKey;

/// A problem of an object, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) object: ObjectName,
    /// The field, as Kubernetes writes paths: `spec.rules[0].host`.
    pub(crate) field: Field,
    pub(crate) level: Level,
    pub(crate) about: About,
    pub(crate) message: String,
    /// What to do, where the message does not say so itself.
    pub(crate) help: Option<String>,
    /// An object that does not exist. If it was rejected, that was already reported.
    pub(crate) missing: Option<(Kind, ObjectName)>,
}

/// What part of an Ingress a problem is about, for those who explain one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// All routes of the Ingress.
    All,
    /// Its routes of a host.
    Host(HostKey),
    /// The certificate of a host.
    Certificate(HostKey),
    /// The endpoints of a backend, which come and go.
    Endpoints,
}

/// A path to a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Field(pub(crate) Vec<Step>);

impl Field {
    /// Of keys and indexes that are written as `spec.rules[0].host`.
    pub(crate) fn of(path: &str) -> Field {
        let mut steps = Vec::new();
        for part in path.split('.') {
            let (key, indexes) = part.split_once('[').unwrap_or((part, ""));
            steps.push(Step::Key(key.to_owned()));
            let indexes = indexes.split(['[', ']']).filter_map(|index| index.parse().ok());
            steps.extend(indexes.map(Step::Index));
        }
        Field(steps)
    }

    pub(crate) fn annotation(key: &str) -> Field {
        let steps = ["metadata", "annotations", key];
        Field(steps.into_iter().map(|step| Step::Key(step.to_owned())).collect())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if key.contains('.') => write!(f, "[{key}]")?,
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

impl Problem {
    /// A warning about all routes of an Ingress.
    pub(crate) fn new(ingress: &ObjectName, field: Field, message: String) -> Problem {
        Problem {
            kind: Kind::Ingress,
            object: ingress.clone(),
            field,
            level: Level::Warning,
            about: About::All,
            message,
            help: None,
            missing: None,
        }
    }

    pub(crate) fn at(self, level: Level) -> Problem {
        Problem { level, ..self }
    }

    pub(crate) fn about(self, about: About) -> Problem {
        Problem { about, ..self }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }

    pub(crate) fn missing(self, kind: Kind, name: &ObjectName) -> Problem {
        Problem { missing: Some((kind, name.clone())), ..self }
    }

    /// The order in which problems are listed.
    pub(crate) fn order(&self) -> (Kind, &ObjectName, Level, &str) {
        (self.kind, &self.object, self.level, &self.message)
    }

    /// As `check` and the feed server take it.
    pub(crate) fn into_finding(self) -> Finding {
        let field = match self.field.0.first() {
            Some(Step::Key(first)) if first == "spec" => format!("{}: ", self.field),
            _ => String::new(),
        };
        let key = |kind, name| ObjectKey { kind, name };
        Finding {
            key: key(self.kind, self.object),
            path: self.field.0,
            missing: self.missing.map(|(kind, name)| key(kind, name)),
            problem: model::problem::Problem {
                level: self.level,
                message: field + &self.message,
                help: self.help,
                mark: Mark::default(),
                excerpt: None,
            },
        }
    }
}
