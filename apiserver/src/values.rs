//! JSON that a client sent → values, of which there are not too many.
//!
//! Pure. A value can take a hundred times the memory of its text: an object with one member takes
//! 600 bytes, and `{"":0}` has six. So the values are counted before the first one is made.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::Value;

/// The values in a body. An object of 1.5 MB, the largest that etcd stores, has fewer.
pub(crate) const MAX_VALUES: usize = 100_000;

/// Reads JSON.
///
/// # Errors
///
/// When the text is not JSON of that type, or has more than [`MAX_VALUES`].
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    let mut left = MAX_VALUES;
    Counter(&mut left).deserialize(&mut serde_json::Deserializer::from_slice(text))?;
    serde_json::from_slice(text)
}

/// A string of an object; empty if there is none.
pub(crate) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Counts a value and those in it down.
struct Counter<'c>(&'c mut usize);

impl<'de> DeserializeSeed<'de> for Counter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        *self.0 = self.0.checked_sub(1).ok_or_else(|| {
            D::Error::custom(format_args!("more than {MAX_VALUES} values: send a smaller object"))
        })?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Counter(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_key::<IgnoredAny>()?.is_some() {
            members.next_value_seed(Counter(&mut *self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_counts() {
        let list = |element: &str, count: usize| format!("[{}]", vec![element; count].join(","));
        let reads = |text: String| read::<Value>(text.as_bytes()).map_err(|e| e.to_string());
        for (element, values) in [
            ("0", 1),
            ("-1", 1),
            ("1.5", 1),
            ("null", 1),
            ("true", 1),
            ("\"a\\n\"", 1),
            ("[]", 1),
            ("[[{}]]", 3),
            ("{\"\":0}", 2),
        ] {
            // The list is one too.
            let fits = (MAX_VALUES - 1) / values;
            let read = reads(list(element, fits)).unwrap();
            assert_eq!(read.as_array().unwrap().len(), fits);
            let error = reads(list(element, fits + 1)).unwrap_err();
            assert!(error.starts_with("more than 100000 values"), "{element}: {error}");
        }
        for bad in ["", "{", "{} x", "nonsense"] {
            assert!(reads(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
