//! What `tools/golden.py` wrote: a batch, weights, and what PyTorch computes from them.

use std::fs;
use std::path::Path;

use helixgrad::device::DType;
use helixgrad::interop::ModelConfig;
use helixgrad::interop::family::idle;
use helixgrad::kmer::batch::Batch;
use helixgrad::model::{Config, Head, Model};
use safetensors::SafeTensors;

pub struct Golden {
    bytes: Vec<u8>,
    pub facts: serde_json::Value,
}

impl Golden {
    pub fn read(case: &str) -> Self {
        // With the sources, or below the current folder where the tests were carried to another machine.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let folder = if folder.is_dir() { folder } else { "tests/fixtures".into() };
        let bytes = fs::read(folder.join(format!("golden_{case}.safetensors"))).unwrap();
        // Tables have nothing to be said of them.
        let facts = fs::read_to_string(folder.join(format!("golden_{case}.json"))).unwrap_or_else(|_| "null".into());
        Self { bytes, facts: serde_json::from_str(&facts).unwrap() }
    }

    fn raw(&self, name: &str) -> Vec<[u8; 4]> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("the fixture has no {name}"));
        tensor.data().chunks_exact(4).map(|bytes| bytes.try_into().unwrap()).collect()
    }

    pub fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.bytes).unwrap().names().into_iter().map(str::to_owned).collect()
    }

    pub fn floats(&self, name: &str) -> Vec<f64> {
        self.raw(name).into_iter().map(|bytes| f64::from(f32::from_le_bytes(bytes))).collect()
    }

    pub fn integers(&self, name: &str) -> Vec<i32> {
        self.raw(name).into_iter().map(i32::from_le_bytes).collect()
    }

    pub fn batch(&self) -> Batch {
        let tokens = self.integers("tokens");
        let mut batch = Batch::new();
        for pair in self.integers("cu_seqlens").windows(2) {
            batch.push(&tokens[pair[0] as usize..pair[1] as usize]);
        }
        batch.rows = self.integers("rows");
        batch.labels = self.integers("labels");
        batch
    }

    pub fn config(&self) -> Config {
        read(&with_range(self.facts["config"].clone()))
    }

    pub fn model(&self, head: Head, dtype: DType) -> Model {
        let config = self.config();
        let mut model = Model::zeros(config, head, dtype).unwrap();
        for spec in model.parameters.specs.clone() {
            let weights = self.floats(&format!("weight.{}", spec.name));
            assert_eq!(weights.len(), spec.len(), "{}", spec.name);
            match dtype {
                DType::F32 => {
                    let target = &mut model.parameters.values.slice_mut::<f32>()[spec.range()];
                    target.iter_mut().zip(weights).for_each(|(target, weight)| *target = weight as f32);
                }
                _ => model.parameters.values.slice_mut::<f64>()[spec.range()].copy_from_slice(&weights),
            }
        }
        for name in self.names().iter().filter_map(|name| name.strip_prefix("weight.")) {
            let is_ours = model.parameters.find(name).is_some() || idle(&model.config, name).is_some();
            assert!(is_ours, "{name}: every parameter of PyTorch's model is one of ours, or known to be idle");
        }
        model
    }
}

/// Through `interop`, as config.json is read.
fn read(config: &serde_json::Value) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    ModelConfig::read(&path).unwrap().config
}

fn with_range(mut config: serde_json::Value) -> serde_json::Value {
    config["initializer_range"] = 0.02.into();
    config
}
