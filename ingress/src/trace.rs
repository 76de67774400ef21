//! Traces (`--otlp-endpoint`): each request continues the trace that its `traceparent` field names,
//! or begins one, and requests that are sampled are sent as spans to a collector.
//!
//! Without the flag, nothing here runs, and the field is passed on as it is.

pub(crate) mod context;
pub(crate) mod export;
pub(crate) mod span;

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _};

use crate::record::Record;

use context::{Parent, TraceContext};
use export::Spans;
use span::Span;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// One worker's means to trace.
#[derive(Debug)]
pub(crate) struct Tracer {
    spans: Spans,
    /// Of requests that begin a trace, the part that is sampled: 0 to 1.
    sampling: f64,
    random: RefCell<SmallRng>,
}

impl Tracer {
    pub(crate) fn new(spans: Spans, sampling: f64) -> Tracer {
        Tracer { spans, sampling, random: RefCell::new(rand::make_rng()) }
    }

    /// Takes a request into its trace, and makes what is sent on a part of it. `None` if the
    /// request belongs to no trace.
    pub(crate) fn begin(&self, headers: &mut HeaderMap) -> Option<TraceContext> {
        let mut fields = headers.get_all(TRACEPARENT).iter();
        let parent = match (fields.next(), fields.next()) {
            (Some(only), None) => Parent::parse(only.as_bytes()),
            _ => None,
        };
        let mut random = self.random.borrow_mut();
        if parent.is_none() {
            headers.remove(TRACEPARENT);
            // It belongs to a trace that is not known.
            headers.remove(TRACESTATE);
            if !random.random_bool(self.sampling) {
                return None;
            }
        }
        let context = TraceContext::new(parent, random.next_u64(), || random.random());
        headers.insert(TRACEPARENT, context.header());
        Some(context)
    }

    /// Sends the span of a request that has ended, if it is sampled.
    pub(crate) fn end(&self, record: &Record, total: Duration) {
        if let Some(context) = record.trace.as_deref().filter(|context| context.is_sampled) {
            self.spans.put(Span::of(context, record, SystemTime::now(), total));
        }
    }
}
