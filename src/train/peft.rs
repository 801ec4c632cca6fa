//! Adapters in the layout of peft (Hugging Face, 0.21), which loads them onto the model that training began with: `adapter_config.json` and
//! `adapter_model.safetensors`, with the head beside them, as it is trained in full.

use std::path::Path;

use serde_json::{Map, json};

use super::model_image::{save_tensors, to_json, view};
use crate::autograd::Spec;
use crate::model::{Adapter, Config, Head, Lora, Model};
use crate::output::write_atomic;
use crate::{Error, Result};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What peft puts before the names of a model's parameters.
const PREFIX: &str = "base_model.model.";

/// What a model with adapters is.
pub(super) struct Adapted {
    pub lora: Lora,
    pub config: Config,
    pub head: Head,
}

/// Writes the adapters of a model, and its head, into `folder`.
///
/// # Errors
/// [`Error::Usage`] for a model without adapters; [`Error::Io`]; those of the device.
pub fn save_adapters(folder: &Path, model: &Model) -> Result<()> {
    let Some(lora) = model.lora().cloned() else {
        return Err(Error::usage("a model without adapters", "give it some first (Model::adapt)"));
    };
    let adapted = Adapted { lora, config: model.config.clone(), head: model.head.clone() };
    write(folder, &adapted, &model.parameters.specs, &model.parameters.host_values()?)
}

/// Writes the adapters of a model whose flat buffer is `values`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Failed`] if a parameter is missing.
pub(super) fn write(folder: &Path, adapted: &Adapted, specs: &[Spec], values: &[f32]) -> Result<()> {
    let Adapted { lora, config, .. } = adapted;
    let family = config.architecture.family;
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for layer in 0..config.num_hidden_layers {
        for module in lora.adapters(config, layer).chunk_by(|one, next| one.module == next.module) {
            let [a, b] = of_module(module, lora.rank, config, specs, values)?;
            let (rank, columns) = (a.len() / module[0].columns, module[0].columns);
            let name = format!("{PREFIX}{}", module[0].module);
            tensors.push((format!("{name}.lora_A.weight"), vec![rank, columns], a));
            tensors.push((format!("{name}.lora_B.weight"), vec![b.len() / rank, rank], b));
        }
    }
    let head = specs.iter().filter(|spec| !family.is_of_encoder(&spec.name));
    let head: Vec<&Spec> = head.collect();
    for spec in &head {
        tensors.push((format!("{PREFIX}{}", spec.name), spec.shape.clone(), values[spec.range()].to_vec()));
    }
    let views =
        tensors.iter().map(|(name, shape, values)| Ok((name.as_str(), view(shape, bytemuck::cast_slice(values))?)));
    save_tensors(&folder.join(WEIGHTS_FILE), views.collect::<Result<Vec<_>>>()?)?;
    write_atomic(folder.join(CONFIG_FILE), to_json(&adapter_config(adapted, &head))?)
}

/// A and B of one linear layer. Where it is query, key and value in one, that is an adapter of the sum of their ranks: the As stand end to
/// end, and each B in its rows and columns, between zeros.
fn of_module(
    adapters: &[Adapter],
    rank: usize,
    config: &Config,
    specs: &[Spec],
    values: &[f32],
) -> Result<[Vec<f32>; 2]> {
    let find = |name: &str| {
        let spec = specs.iter().find(|spec| spec.name == name);
        let spec = spec.ok_or_else(|| Error::Failed(format!("the model has no parameter {name}")))?;
        Ok(&values[spec.range()])
    };
    let is_part = adapters.len() > 1 || adapters[0].name != adapters[0].module;
    let rows = if is_part { 3 * config.hidden_size } else { adapters[0].rows };
    let width = rank * adapters.len();
    let (mut a, mut b) = (Vec::new(), vec![0.0; rows * width]);
    for (index, adapter) in adapters.iter().enumerate() {
        let [of_a, of_b] = adapter.parameters();
        a.extend_from_slice(find(&of_a)?);
        for (row, values) in find(&of_b)?.chunks_exact(rank).enumerate() {
            b[(adapter.first + row) * width + index * rank..][..rank].copy_from_slice(values);
        }
    }
    Ok([a, b])
}

fn adapter_config(Adapted { lora, config, head: kind }: &Adapted, head: &[&Spec]) -> serde_json::Value {
    let before = format!("{}.0.", config.architecture.family.layers());
    let adapters = lora.adapters(config, 0);
    let (mut modules, mut ranks, mut alphas) = (Vec::new(), Map::new(), Map::new());
    for module in adapters.chunk_by(|one, next| one.module == next.module) {
        let name = module[0].module.strip_prefix(&before).unwrap_or(&module[0].module);
        modules.push(name);
        if module.len() > 1 {
            // The same scale of a larger rank.
            ranks.insert(name.into(), json!(lora.rank * module.len()));
            alphas.insert(name.into(), json!(lora.alpha * module.len() as f64));
        }
    }
    let mut saved: Vec<&str> = head.iter().map(|spec| saved_module(&spec.name)).collect();
    saved.dedup();
    json!({
        "peft_type": "LORA",
        "task_type": if let Head::Site { .. } = kind { "TOKEN_CLS" } else { "SEQ_CLS" },
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": modules,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "modules_to_save": saved,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "base_model_name_or_path": null,
    })
}

/// The module of a head that is saved as a whole: the pooler, or the classifier.
fn saved_module(name: &str) -> &str {
    if name.starts_with("classifier.") {
        "classifier"
    } else {
        name.rsplit_once('.').map_or(name, |(module, _)| module)
    }
}
