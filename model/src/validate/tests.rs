//! The formats of names.

use super::format::*;

#[track_caller]
fn check(rule: fn(&str) -> Result<(), String>, valid: &[&str], invalid: &[&str]) {
    for text in valid {
        assert_eq!(rule(text), Ok(()), "{text:?}");
    }
    for text in invalid {
        assert!(rule(text).is_err(), "{text:?}");
    }
}

#[test]
fn names_have_the_formats_of_the_api() {
    let long = "a".repeat(64);
    let (longest, far_too_long) = (&long[1..], ["a"; 128].join("."));
    check(dns_label, &["a", "0", "a-b", longest], &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long]);
    check(dns_subdomain, &["a", "a.b-c.d"], &["", ".", "a.", ".a", "a..b", "a.-b", &far_too_long]);
    check(wildcard_subdomain, &["*.a", "*.a.b"], &["*", "*.", "a.*", "*a.b", "*.*.a", "a"]);
    check(port_name, &["a", "http", "a-1", "0a"], &["", "1", "a--b", "-a", "a-", "HTTP", "a_b"]);
    check(port_name, &["abcdefghijklmno"], &["abcdefghijklmnop"]);
    check(qualified_name, &["a", "A.b_c-d", "x.io/a"], &["", "/a", "x.io/", "X/a", "a/b/c", "-a"]);
    check(label_value, &["", "a", "A.b_c-d", longest], &["-a", "a-", "a b", "a/b", &long]);
    check(data_key, &["a", "tls.crt", "A_b-C"], &["", ".", "..", "a/b", "a b"]);
}

#[test]
fn strings_are_interned_and_let_go() {
    let mut interner = super::Interner::default();
    let kept = interner.intern("kept");
    assert!(std::sync::Arc::ptr_eq(&kept, &interner.intern("kept")));
    for i in 0..5000 {
        interner.intern(&i.to_string());
    }
    interner.shrink();
    assert_eq!(interner.texts.len(), 1);
}

#[test]
fn values_are_quoted_as_far_as_one_reads_them() {
    assert_eq!(super::quoted("a\"b"), "\"a\\\"b\"");
    assert_eq!(super::quoted(-1), "-1");
    let long = super::quoted("ä".repeat(1000));
    assert!(long.len() < 310 && long.ends_with('…'), "{long}");
}
