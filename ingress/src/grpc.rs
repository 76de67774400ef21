//! Answers of our own to gRPC calls.
//!
//! A gRPC client expects the outcome of a call as `grpc-status`; of an answer without it, many show
//! nothing but the number of an HTTP status. So our own answers to calls are gRPC's: HTTP 200 whose
//! head is also its trailers, with status and message ("Trailers-Only" in the gRPC protocol). Left
//! out: what endpoints answer, which is passed on as it is.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::response::ResponseBody;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const APPLICATION_GRPC: &str = "application/grpc";

/// Whether a request is a gRPC call: its content type is `application/grpc`, with or without a
/// codec. gRPC-Web is not meant, whose clients read HTTP statuses.
pub(crate) fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    if *method != Method::POST {
        return false;
    }
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let rest = value.and_then(|value| value.strip_prefix(APPLICATION_GRPC));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// Makes a gRPC answer of one of our own.
pub(crate) fn shape(response: &mut Response<ResponseBody>, message: &str) {
    let code = HeaderValue::from_static(status_of(response.status()));
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = ResponseBody::empty();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(APPLICATION_GRPC));
    headers.insert(GRPC_STATUS, code);
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// The gRPC status that says the same as an HTTP status.
fn status_of(status: StatusCode) -> &'static str {
    const UNKNOWN: &str = "2";
    const DEADLINE_EXCEEDED: &str = "4";
    const PERMISSION_DENIED: &str = "7";
    const RESOURCE_EXHAUSTED: &str = "8";
    const UNIMPLEMENTED: &str = "12";
    const INTERNAL: &str = "13";
    const UNAVAILABLE: &str = "14";
    const UNAUTHENTICATED: &str = "16";
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 405 => UNIMPLEMENTED,
        408 | 504 => DEADLINE_EXCEEDED,
        413 | 429 | 431 => RESOURCE_EXHAUSTED,
        421 | 502 | 503 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// A message as `grpc-message` holds it: what is not printable ASCII is escaped, and so is `%`.
fn percent_encoded(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_by_method_and_content_type() {
        let table = [
            (Method::POST, Some("application/grpc"), true),
            (Method::POST, Some("application/grpc+proto"), true),
            (Method::POST, Some("application/grpc;charset=utf-8"), true),
            (Method::POST, Some("application/grpc-web"), false),
            (Method::POST, Some("application/json"), false),
            (Method::POST, None, false),
            (Method::GET, Some("application/grpc"), false),
        ];
        for (method, content_type, expected) in table {
            let mut headers = HeaderMap::new();
            let value = content_type.map(HeaderValue::from_static);
            headers.extend(value.map(|value| (header::CONTENT_TYPE, value)));
            assert_eq!(is_call(&method, &headers), expected, "{method} {content_type:?}");
        }
    }

    #[test]
    fn an_answer_is_trailers_only() {
        let mut response = Response::new(ResponseBody::text("503".into()));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        shape(&mut response, "no café at 100%");
        assert_eq!(response.status(), 200);
        assert!(http_body::Body::is_end_stream(response.body()));
        let headers = response.headers();
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers["grpc-message"], "no caf%C3%A9 at 100%25");
        assert_eq!(headers["retry-after"], "1");
    }
}
