//! Canonical JSON: the one serialisation that is hashed, stored and shown.
//!
//! Object keys are sorted by their bytes here, whatever map the caller used (so that a dependency that turns on
//! `serde_json/preserve_order` changes no key). Integers print as integers, floats in the shortest form that reads
//! back to the same `f64`. What has no stable form is refused: NaN and infinities never reach a digest.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Number, Value};

use crate::digest::Digest;

/// A value that cannot be written in one stable way.
#[derive(Debug, thiserror::Error)]
pub enum NotCanonical {
    #[error("not representable as JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("{0} is not a finite number")]
    NotFinite(f64),
}

/// The canonical text of `value`: compact, keys sorted, numbers in their shortest form.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, NotCanonical> {
    let mut out = String::new();
    write_value(&serde_json::to_value(value)?, &mut out)?;
    Ok(out)
}

/// The digest of the canonical text of `value`.
pub fn digest<T: Serialize>(value: &T) -> Result<Digest, NotCanonical> {
    Ok(Digest::of(to_string(value)?.as_bytes()))
}

/// Appends the canonical text of a JSON value.
pub(crate) fn write_value(value: &Value, out: &mut String) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => write_number(number, out)?,
        Value::String(text) => write_text(text, out)?,
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push('{');
            for (index, (name, field)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(name, out)?;
                out.push(':');
                write_value(field, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_number(number: &Number, out: &mut String) -> Result<(), NotCanonical> {
    if let Some(float) = number.as_f64().filter(|_| number.is_f64()) {
        if !float.is_finite() {
            return Err(NotCanonical::NotFinite(float));
        }
        // Minus zero and zero are one value to every kind.
        let float = if float == 0.0 { 0.0 } else { float };
        out.push_str(&serde_json::to_string(&float)?);
    } else {
        let _ = write!(out, "{number}");
    }
    Ok(())
}

/// Appends a JSON string.
pub(crate) fn write_text(text: &str, out: &mut String) -> Result<(), NotCanonical> {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\' && byte != 0x7f;
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_and_numbers_short() {
        let value = json!({"b": [1, 1.0, 1e-3, -0.0], "a": {"한": "글", "A": null}});
        assert_eq!(
            to_string(&value).unwrap(),
            r#"{"a":{"A":null,"한":"글"},"b":[1,1.0,0.001,0.0]}"#
        );
    }

    #[test]
    fn order_of_insertion_is_forgotten() {
        let one: Value = serde_json::from_str(r#"{"x":1,"y":2}"#).unwrap();
        let two: Value = serde_json::from_str(r#"{"y":2,"x":1}"#).unwrap();
        assert_eq!(digest(&one).unwrap(), digest(&two).unwrap());
    }
}
