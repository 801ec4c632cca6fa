//! TensorBoard's event files, read by a second implementation of the format. (`tools/check_tensorboard.py` asks TensorBoard itself.)

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json;

/// CRC-32C by long division, bit by bit, masked as TFRecord does.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & 0u32.wrapping_sub(crc & 1));
        }
    }
    let crc = !crc;
    crc.rotate_left(17).wrapping_add(0xA282_EAD8)
}

/// The whole records of a file; a torn one at the end is left out, as readers do.
fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while rest.len() >= 16 {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), masked_crc(&rest[..8]), "checksum of a length");
        if rest.len() < 16 + length {
            break;
        }
        let data = &rest[12..12 + length];
        let crc = u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap());
        assert_eq!(crc, masked_crc(data), "checksum of a record");
        records.push(data.to_vec());
        rest = &rest[16 + length..];
    }
    records
}

enum Field {
    Varint(u64),
    Fixed64(u64),
    Bytes(Vec<u8>),
    Fixed32(u32),
}

/// The fields of a protocol-buffers message, in order.
fn fields(mut data: &[u8]) -> Vec<(u64, Field)> {
    fn varint(data: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = data[0];
            *data = &data[1..];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut data)),
            1 => {
                let (value, rest) = data.split_at(8);
                data = rest;
                Field::Fixed64(u64::from_le_bytes(value.try_into().unwrap()))
            }
            2 => {
                let length = varint(&mut data) as usize;
                let (value, rest) = data.split_at(length);
                data = rest;
                Field::Bytes(value.to_vec())
            }
            5 => {
                let (value, rest) = data.split_at(4);
                data = rest;
                Field::Fixed32(u32::from_le_bytes(value.try_into().unwrap()))
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

/// The event files of a run, in the order in which TensorBoard takes them.
fn files(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().contains("tfevents")).collect();
    files.sort();
    files
}

/// The curves of a run: (name, step) to value. A session's start forgets what comes from its step on.
fn curves(run: &Path) -> BTreeMap<(String, u64), f32> {
    let mut curves = BTreeMap::new();
    for file in files(run) {
        let records = records(&fs::read(&file).unwrap());
        let version = fields(&records[0]);
        assert!(
            version
                .iter()
                .any(|(number, field)| *number == 3 && matches!(field, Field::Bytes(text) if text == b"brain.Event:2"))
        );
        for record in &records {
            let (mut step, mut summary) = (0, None);
            for (number, field) in fields(record) {
                match (number, field) {
                    (1, Field::Fixed64(time)) => assert!(f64::from_bits(time) > 1.7e9, "seconds since 1970"),
                    (2, Field::Varint(value)) => step = value,
                    (5, Field::Bytes(value)) => summary = Some(value),
                    (7, Field::Bytes(session)) => {
                        assert_eq!(session, [8, 1], "a session's start");
                        curves.retain(|(_, other): &(String, u64), _| *other < step);
                    }
                    _ => {}
                }
            }
            for (_, point) in fields(&summary.unwrap_or_default()) {
                let Field::Bytes(point) = point else { panic!("a summary holds messages") };
                let (mut name, mut value) = (String::new(), f32::NAN);
                for (number, field) in fields(&point) {
                    match (number, field) {
                        (1, Field::Bytes(text)) => name = String::from_utf8(text).unwrap(),
                        (2, Field::Fixed32(bits)) => value = f32::from_bits(bits),
                        _ => panic!("field {number} of a point"),
                    }
                }
                assert!(curves.insert((name, step), value).is_none(), "a point twice");
            }
        }
    }
    curves
}

/// The numbers of `metrics.jsonl` in the same form.
fn metrics(run: &Path) -> BTreeMap<(String, u64), f32> {
    let mut curves = BTreeMap::new();
    for line in fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let step = line["step"].as_u64().unwrap();
        for (name, value) in line.as_object().unwrap() {
            match value {
                Value::Object(inner) => {
                    for (part, value) in inner {
                        curves.insert((format!("{name}/{part}"), step), value.as_f64().unwrap() as f32);
                    }
                }
                value if name != "step" => {
                    value.as_f64().map(|value| curves.insert((name.clone(), step), value as f32));
                }
                _ => {}
            }
        }
    }
    curves
}

#[test]
fn curves_are_the_metrics_across_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out = run.to_str().unwrap();
    let genome = format!("{}/sample/grch37_X_46M-56M.2bit", env!("CARGO_MANIFEST_DIR"));
    let tiny = "--k 3 --layers 1 --hidden 32 --heads 2 --intermediate 48 --max-length 40 --tokens-per-step 96 --log-every 1 \
                --save-every 4 --eval-every 4 --eval-batches 1 --hold-out X_46000001_56000000:9,000,001-10,000,000 --steps 8 \
                --device cpu";
    let pretrain = [&["pretrain", "--genome", &genome, "--out", out], &tiny.split_whitespace().collect::<Vec<_>>()[..]];
    json(&pretrain.concat());
    let whole = curves(&run);
    assert_eq!(whole, metrics(&run));
    for name in ["loss", "masked_accuracy", "learning_rate", "gradient_norm", "tokens_per_second", "mfu"] {
        let steps: Vec<u64> = whole.keys().filter(|key| key.0 == name).map(|key| key.1).collect();
        assert_eq!(steps, (1..=8).collect::<Vec<_>>(), "{name}");
    }
    assert!(whole.contains_key(&("evaluation/loss".into(), 8)));
    // Both are over the seconds of the step, and the arithmetic of a token varies with the masks alone.
    let at = |name: &str, step: u64| f64::from(whole[&(name.to_owned(), step)]);
    let ratios: Vec<f64> = (1..=8).map(|step| at("mfu", step) / at("tokens_per_second", step)).collect();
    let (least, most) =
        ratios.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), &r| (low.min(r), high.max(r)));
    assert!(least > 0.0 && most < 2.0 * least, "{ratios:?}");

    // A crash tears the last record and loses the last checkpoint: the next session takes over from step 4.
    fs::remove_dir_all(run.join("checkpoint-00000008")).unwrap();
    fs::remove_file(run.join("model.safetensors")).unwrap();
    let first = files(&run).remove(0);
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 5]).unwrap();
    json(&["pretrain", "--resume", "--out", out]);
    assert_eq!(files(&run).len(), 2);
    let again = curves(&run);
    assert_eq!(again, metrics(&run));
    assert_eq!(again.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    let losses = |curves: &BTreeMap<(String, u64), f32>| -> Vec<f32> {
        curves.iter().filter(|(key, _)| key.0 == "loss").map(|(_, &value)| value).collect()
    };
    assert_eq!(losses(&again), losses(&whole));

    // Killed before its first checkpoint, and begun anew in the same folder: each point is there once, with the new run's value.
    for entry in fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        if entry.is_dir() {
            fs::remove_dir_all(&entry).unwrap();
        } else if !name.contains("tfevents") && name != "metrics.jsonl" && name != "config.toml" {
            fs::remove_file(&entry).unwrap();
        }
    }
    json(&[&pretrain.concat()[..], &["--seed", "7"]].concat());
    assert_eq!(files(&run).len(), 3);
    assert_eq!(curves(&run), metrics(&run));
    assert_ne!(losses(&curves(&run)), losses(&whole));
}
