//! Whether two files are the same up to rounding: results of two numeric environments (a CPU and a GPU, two
//! instruction sets) agree in value, not in bytes.

use std::path::Path;

use kbuild_engine::kind::{Kinds, Likeness};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

/// Largest relative error, in the norm of a tensor. Training amplifies rounding: f32 sums in another order differ by
/// 1e-6 after a step and by some 1e-4 after hundreds.
const TENSORS: f64 = 1e-3;
/// Largest relative error of a number in a report.
const NUMBERS: f64 = 1e-3;

/// The table of kinds with a comparison for every format that holds numbers.
pub fn comparisons(kinds: Kinds) -> Kinds {
    let tensors = [
        "model",
        "reward-model",
        "optimizer-state",
        "importance",
        "log-probabilities",
    ];
    let numbers = ["report", "metrics", "choice"];
    let kinds = tensors.iter().fold(kinds, |kinds, format| {
        kinds.comparing(format, compare_tensors)
    });
    numbers.iter().fold(kinds, |kinds, format| {
        kinds.comparing(format, compare_numbers)
    })
}

/// Files of weights tensor by tensor; what lies beside them must be equal.
fn compare_tensors(name: &str, a: &Path, b: &Path) -> Result<Likeness, String> {
    // An artifact that is one file has no name of its own.
    if !(name.is_empty() || name.ends_with(".safetensors")) {
        return Err("other bytes".to_owned());
    }
    let (a, b) = (read(a)?, read(b)?);
    let (a, b) = (open(&a)?, open(&b)?);
    if a.names().len() != b.names().len() {
        return Err("other tensors".to_owned());
    }
    let mut worst = (0.0, String::new());
    for (name, tensor) in a.tensors() {
        let other = b
            .tensor(&name)
            .map_err(|_| format!("`{name}` is in one of them alone"))?;
        if tensor.shape() != other.shape() {
            return Err(format!("`{name}` has another shape"));
        }
        let error = distance(&values(&tensor)?, &values(&other)?);
        if error > worst.0 || error.is_nan() {
            worst = (error, name);
        }
    }
    let (error, name) = worst;
    Ok(Likeness {
        is_close: error <= TENSORS,
        detail: format!(
            "{} tensors, relative error at most {error:.1e} (`{name}`); {TENSORS:.0e} is allowed",
            a.names().len()
        ),
    })
}

/// JSON, or lines of JSON: equal but for the rounding of numbers.
fn compare_numbers(_: &str, a: &Path, b: &Path) -> Result<Likeness, String> {
    let (a, b) = (read(a)?, read(b)?);
    let (a, b) = (documents(&a)?, documents(&b)?);
    let mut worst = (0.0, String::new());
    if a.len() != b.len() {
        return Err("other numbers of lines".to_owned());
    }
    for (a, b) in a.iter().zip(&b) {
        far_apart("", a, b, &mut worst)?;
    }
    let (error, path) = worst;
    Ok(Likeness {
        is_close: error <= NUMBERS,
        detail: format!("relative error at most {error:.1e} (`{path}`); {NUMBERS:.0e} is allowed"),
    })
}

fn far_apart(path: &str, a: &Value, b: &Value, worst: &mut (f64, String)) -> Result<(), String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            for (name, a) in a {
                let b = b
                    .get(name)
                    .ok_or_else(|| format!("`{path}.{name}` is in one alone"))?;
                far_apart(&format!("{path}.{name}"), a, b, worst)?;
            }
            Ok(())
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                far_apart(&format!("{path}[{index}]"), a, b, worst)?;
            }
            Ok(())
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (
                a.as_f64().unwrap_or(f64::NAN),
                b.as_f64().unwrap_or(f64::NAN),
            );
            let scale = a.abs().max(b.abs());
            let error = if scale == 0.0 {
                0.0
            } else {
                (a - b).abs() / scale
            };
            if error > worst.0 {
                *worst = (error, path.trim_start_matches('.').to_owned());
            }
            Ok(())
        }
        (a, b) if a == b => Ok(()),
        _ => Err(format!("`{}` differs", path.trim_start_matches('.'))),
    }
}

/// ‖a − b‖ / ‖b‖ in f64.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = squares(&mut a.iter().zip(b).map(|(a, b)| a - b));
    let norm = squares(&mut b.iter().copied());
    if difference == 0.0 {
        0.0
    } else {
        difference / norm
    }
}

fn values(tensor: &TensorView<'_>) -> Result<Vec<f64>, String> {
    let bytes = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::F32 => numbers(bytes, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
        Dtype::F64 => numbers(bytes, f64::from_le_bytes),
        Dtype::BF16 => numbers(bytes, |b: [u8; 2]| half::bf16::from_le_bytes(b).to_f64()),
        Dtype::F16 => numbers(bytes, |b: [u8; 2]| half::f16::from_le_bytes(b).to_f64()),
        Dtype::I64 => numbers(bytes, |b: [u8; 8]| i64::from_le_bytes(b) as f64),
        Dtype::I32 => numbers(bytes, |b: [u8; 4]| f64::from(i32::from_le_bytes(b))),
        Dtype::U32 => numbers(bytes, |b: [u8; 4]| f64::from(u32::from_le_bytes(b))),
        Dtype::U8 => numbers(bytes, |b: [u8; 1]| f64::from(b[0])),
        other => return Err(format!("tensors of type {other:?} are not compared")),
    })
}

fn numbers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| read(*chunk)).collect()
}

fn documents(bytes: &[u8]) -> Result<Vec<Value>, String> {
    serde_json::Deserializer::from_slice(bytes)
        .into_iter::<Value>()
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn open(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    SafeTensors::deserialize(bytes).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(folder: &Path, name: &str, values: &[f32]) -> std::path::PathBuf {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let tensor = TensorView::new(Dtype::F32, vec![values.len()], &bytes).unwrap();
        let path = folder.join(name);
        safetensors::serialize_to_file([("w", tensor)], None, &path).unwrap();
        path
    }

    #[test]
    fn tensors_agree_up_to_rounding() {
        let folder = tempfile::tempdir().unwrap();
        let near = |name, third| weights(folder.path(), name, &[1.0, 2.0, third]);
        let (a, b, c) = (near("a", 3.0), near("b", 3.0001), near("c", 3.1));
        assert!(compare_tensors("", &a, &b).unwrap().is_close);
        let far = compare_tensors("model.safetensors", &a, &c).unwrap();
        assert!(!far.is_close && far.detail.contains("`w`"), "{far:?}");
        let nan = near("d", f32::NAN);
        assert!(!compare_tensors("", &a, &nan).unwrap().is_close);
        assert!(compare_tensors("config.json", &a, &b).is_err());
        let shorter = weights(folder.path(), "e", &[1.0]);
        assert!(compare_tensors("", &a, &shorter).is_err());
    }

    #[test]
    fn reports_agree_up_to_rounding_and_in_every_word() {
        let folder = tempfile::tempdir().unwrap();
        let report = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let a = report("a", r#"{"kind": "evaluate", "loss": [2.0, 0]}"#);
        let b = report("b", r#"{"kind": "evaluate", "loss": [2.0001, 0]}"#);
        let c = report("c", r#"{"kind": "other", "loss": [2.0, 0]}"#);
        assert!(compare_numbers("", &a, &b).unwrap().is_close);
        assert_eq!(
            compare_numbers("", &a, &c),
            Err("`kind` differs".to_owned())
        );
    }
}
