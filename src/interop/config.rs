//! `config.json`, as transformers reads and writes it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Weights;
use super::family::{Refusal, complete, family_of, words};
use crate::kmer::vocabulary::Vocabulary;
use crate::model::{Classification, Config, Family, Head, Lora, Model, Task};
use crate::small_file;
use crate::tokenizer::{Specials, Tokenizer};
use crate::{Error, Result};

const REMEDY: &str = "use the config.json that belongs to the model";

/// What a `config.json` says.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Sizes and rates.
    pub config: Config,
    /// What stands on the encoder; `None` where the file does not say.
    pub head: Option<Head>,
    /// What the model classifies, if it is a classifier.
    pub classification: Option<Classification>,
    /// Mean and standard deviation of the numbers that a regression of ours was trained on.
    pub standard: Option<Vec<(f64, f64)>>,
    /// Adapters that lie beside the weights, not yet added to them: in checkpoints of a run of ours.
    pub lora: Option<Lora>,
    /// Which program wrote it.
    pub writer: Writer,
}

/// Who wrote a `config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// This program.
    Helixgrad,
    /// transformers of the version given.
    Transformers(String),
    /// A program that leaves no version: transformers before 4, and DNABERT's fork of 2.5.0.
    Unversioned,
}

impl ModelConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for a file that is no JSON, another kind of model, sizes that do not fit together.
    pub fn read(path: &Path) -> Result<Self> {
        let text = small_file::read(path)?;
        let json: Value = serde_json::from_str(&text).map_err(|error| {
            Error::input(path, format!("line {}", error.line()), error.to_string(), "copy or make the checkpoint again")
        })?;
        let wrong = |place: &str, found: String, remedy: &str| Error::input(path, place, found, remedy);
        let refuse = |(key, found, remedy): Refusal| Error::input(path, key, found, remedy);
        let family = family_of(&json).map_err(refuse)?;
        for key in ["is_decoder", "add_cross_attention"] {
            if json.get(key) == Some(&json!(true)) {
                return Err(wrong(key, "true".into(), "only encoders are implemented"));
            }
        }
        let mut config: Config = serde_json::from_value(json.clone())
            .map_err(|error| wrong("", format!("not a configuration of {}: {error}", family.name()), REMEDY))?;
        complete(&mut config, family, &json).map_err(refuse)?;
        config.validate().map_err(|error| wrong("", error.to_string(), REMEDY))?;
        let architecture = json.pointer("/architectures/0").and_then(Value::as_str);
        let ours = json.get("helixgrad");
        let version = json.get("transformers_version").and_then(Value::as_str);
        let mut writer = match (ours, version) {
            (Some(_), _) => Writer::Helixgrad,
            (None, Some(version)) => Writer::Transformers(version.into()),
            (None, None) => Writer::Unversioned,
        };
        if let Some(ours) = ours
            && let Some(head) = ours.get("head")
        {
            let head: Head = serde_json::from_value(head.clone())
                .map_err(|error| wrong("helixgrad.head", error.to_string(), "copy or make the checkpoint again"))?;
            if family.class(&head) == architecture {
                let classification = ours.get("classification").cloned().unwrap_or_default();
                let classification = serde_json::from_value(classification).map_err(|error| {
                    wrong("helixgrad.classification", error.to_string(), "copy or make the checkpoint again")
                })?;
                let standard = ours.get("standard").and_then(|standard| serde_json::from_value(standard.clone()).ok());
                let lora = ours.get("lora").map(|lora| serde_json::from_value::<Lora>(lora.clone()));
                let lora = lora.transpose().map_err(|error| error.to_string()).and_then(|lora| {
                    let checked = lora.as_ref().map_or(Ok(()), |lora| lora.check(&config));
                    checked.map(|()| lora).map_err(|error| error.to_string())
                });
                let lora = lora.map_err(|found| wrong("helixgrad.lora", found, "copy or make the checkpoint again"))?;
                return Ok(Self { config, head: Some(head), classification, standard, lora, writer });
            }
            // transformers keeps our word about a model to which it gave another head.
            writer = Writer::Transformers(version.unwrap_or("of an unknown version").into());
        }
        let labels = label_names(&json);
        let count = labels.len();
        let heads = [
            Head::MaskedLm,
            Head::Cls { labels: count },
            Head::Site { labels: count, hidden: None },
            Head::Encoder { pooler: false },
        ];
        let head = match architecture {
            None => None,
            // With a head over pairs of texts, which no DNA model uses.
            Some("BertForPreTraining" | "BigBirdForPreTraining") => Some(Head::MaskedLm),
            Some(class) => match heads.iter().find(|head| family.class(head) == Some(class)) {
                Some(head) => Some(head.clone()),
                None => {
                    let known: Vec<_> = heads.iter().filter_map(|head| family.class(head)).collect();
                    let remedy = format!("of {}, {} are known", family.name(), known.join(", "));
                    return Err(wrong("architectures", format!("{class:?}"), &remedy));
                }
            },
        };
        let problem = json.get("problem_type").and_then(Value::as_str).and_then(Task::of_problem_type);
        // transformers takes one label for a regression where nobody says what it is.
        let task = problem.unwrap_or(if count == 1 { Task::Regression } else { Task::SingleLabel });
        let classification = Some(Classification { labels, task, ..Classification::default() });
        Ok(Self { config, head, classification, standard: None, lora: None, writer })
    }

    /// The head: the one that the file names, or else the one that the weights are of. Whether the encoder alone has
    /// its pooler is what the weights say, always.
    pub fn head(&self, weights: &Weights) -> Head {
        let has = |name: &str| weights.tensors.contains_key(name);
        let family = self.config.architecture.family;
        let [pooler, transform] = [family.pooler(), family.transform()];
        let pooler = ["weight", "bias"].iter().all(|part| has(&format!("{pooler}.{part}")));
        let classifier =
            ["classifier.weight", "classifier.out_proj.weight"].iter().find_map(|name| weights.tensors.get(*name));
        match (&self.head, classifier) {
            (Some(Head::Encoder { .. }), _) if self.writer != Writer::Helixgrad => Head::Encoder { pooler },
            (Some(head), _) => head.clone(),
            (None, Some(classifier)) => Head::Cls { labels: classifier.shape.first().copied().unwrap_or(0) },
            (None, None) if has(&format!("{transform}.weight")) => Head::MaskedLm,
            (None, None) => Head::Encoder { pooler },
        }
    }

    /// What the model classifies: nothing, unless `head` is a classifier's.
    pub fn classification_of(&self, head: &Head) -> Option<Classification> {
        match *head {
            Head::MaskedLm | Head::Encoder { .. } => None,
            Head::Cls { labels } | Head::Site { labels, .. } => {
                let mut classification = self.classification.clone()?;
                if self.writer != Writer::Helixgrad && classification.labels.len() != labels {
                    classification.labels = (0..labels).map(|label| label.to_string()).collect();
                }
                Some(classification)
            }
        }
    }
}

/// The names in `id2label`, by id; numbers where there are none.
fn label_names(json: &Value) -> Vec<String> {
    let by_id = json.get("id2label").and_then(Value::as_object);
    let count = json.get("num_labels").and_then(Value::as_u64).unwrap_or(2).min(1 << 16) as usize;
    let count = by_id.map_or(count, Map::len);
    let name = |id: usize| by_id?.get(&id.to_string())?.as_str().map(str::to_owned);
    // What transformers calls a class that nobody named says less than its number.
    let told = |id: usize| name(id).filter(|name| *name != format!("LABEL_{id}") && !name.contains(char::is_control));
    (0..count).map(|id| told(id).unwrap_or_else(|| id.to_string())).collect()
}

/// `config.json` as transformers reads it; what it has no word for stands under `helixgrad`.
///
/// # Errors
/// [`Error::Failed`] if a value cannot be written as JSON.
pub fn to_json(model: &Model, vocabulary: &dyn Tokenizer, classification: Option<&Classification>) -> Result<Value> {
    let config = serde_json::to_value(&model.config).map_err(|error| Error::Failed(error.to_string()))?;
    let mut json = Map::new();
    if let Some(architecture) = model.config.architecture.family.class(&model.head) {
        json.insert("architectures".into(), json!([architecture]));
    }
    if let Value::Object(config) = config {
        json.extend(config);
    }
    // A row of the table of families, which each of them has its own words for.
    json.remove("architecture");
    json.extend(words(&model.config));
    if !model.config.architecture.token_types {
        json.remove("type_vocab_size");
    }
    if model.config.architecture.family == Family::ModernBert {
        // transformers would fill in those of another vocabulary.
        let Specials { cls, sep, .. } = vocabulary.specials();
        for (key, id) in
            [("bos_token_id", Some(cls)), ("cls_token_id", Some(cls)), ("eos_token_id", sep), ("sep_token_id", sep)]
        {
            json.insert(key.into(), json!(id));
        }
    }
    if let Some(classification) = classification {
        let names = classification.labels.iter().enumerate();
        let by_id: Map<_, _> = names.clone().map(|(id, name)| (id.to_string(), json!(name))).collect();
        let by_name: Map<_, _> = names.map(|(id, name)| (name.clone(), json!(id))).collect();
        json.insert("id2label".into(), by_id.into());
        json.insert("label2id".into(), by_name.into());
        json.insert("problem_type".into(), json!(classification.task.problem_type()));
    }
    let mut ours =
        json!({ "k": vocabulary.k_mers().map(Vocabulary::k), "head": model.head, "classification": classification });
    if let Some(lora) = model.lora() {
        ours["lora"] = json!(lora);
    }
    json.insert("helixgrad".into(), ours);
    Ok(Value::Object(json))
}
