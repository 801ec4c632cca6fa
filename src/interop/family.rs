//! The words that each family has in `config.json`: read, written, and what in its files has no use here.

use serde_json::{Map, Value, json};

use crate::model::{Architecture, Attending, Config, Family, Positions};

/// Rows of ESM's table of positions before that of the first token; its configuration counts them.
const ESM_OFFSET: usize = 2;
/// The longest sequence that a family without a table of positions is asked for, in tokens. Its formulas know no limit.
const NO_TABLE: usize = 1 << 16;

/// A word of `config.json` that cannot be followed: its key, what it says, what would help.
pub(super) type Refusal = (&'static str, String, String);

/// Whose configuration it is.
pub(super) fn family_of(json: &Value) -> Result<Family, Refusal> {
    let word = |key: &str| json.get(key).and_then(Value::as_str);
    let class = json.pointer("/architectures/0").and_then(Value::as_str).unwrap_or("");
    let code = json.pointer("/auto_map/AutoConfig").and_then(Value::as_str).unwrap_or("");
    let rotary = word("position_embedding_type") == Some("rotary");
    match word("model_type") {
        Some("esm") => {}
        None if class.starts_with("Esm") || code.contains("esm") => {}
        Some("big_bird") => return Ok(Family::BigBird),
        None if class.starts_with("BigBird") => return Ok(Family::BigBird),
        // Nothing but these tells MosaicBERT's configuration from BERT's.
        Some("bert") | None if json.get("alibi_starting_size").is_some() || code.contains("configuration_bert") => {
            return Ok(Family::Dnabert2);
        }
        Some("bert") | None => return Ok(Family::Dnabert),
        Some(other) => {
            let known = "bert (DNABERT, DNABERT-2), esm (Nucleotide Transformer) and big_bird are known";
            return Err(("model_type", format!("{other:?}"), known.into()));
        }
    }
    Ok(if rotary { Family::NucleotideTransformerV2 } else { Family::NucleotideTransformer })
}

/// Sizes and choices: `config` as read from the words that all families share, and this family's own.
pub(super) fn complete(config: &mut Config, family: Family, json: &Value) -> Result<(), Refusal> {
    let mut architecture = family.architecture();
    expect(family, json)?;
    let number = |key: &str| json.get(key).and_then(Value::as_u64).and_then(|value| usize::try_from(value).ok());
    let flag = |key: &str| json.get(key).and_then(Value::as_bool);
    match family {
        Family::Dnabert => {}
        Family::Dnabert2 => config.max_position_embeddings = config.max_position_embeddings.max(NO_TABLE),
        Family::NucleotideTransformer | Family::NucleotideTransformerV2 => {
            let Some(longest) = config.max_position_embeddings.checked_sub(ESM_OFFSET) else {
                let found = config.max_position_embeddings.to_string();
                return Err(("max_position_embeddings", found, "two more than the longest sequence has tokens".into()));
            };
            config.max_position_embeddings = longest;
            let mask = number("mask_token_id").and_then(|id| i32::try_from(id).ok()).unwrap_or(2);
            architecture.hidden_by = flag("token_dropout").unwrap_or(false).then_some(mask);
            architecture.tied_decoder = flag("tie_word_embeddings").unwrap_or(true);
        }
        Family::BigBird => {
            architecture.attending = match json.get("attention_type").and_then(Value::as_str) {
                Some("original_full") => Attending::Full,
                _ => Attending::BlockSparse {
                    block: number("block_size").unwrap_or(64),
                    random: number("num_random_blocks").unwrap_or(3),
                },
            };
        }
    }
    architecture.padding = number("pad_token_id").unwrap_or(architecture.padding);
    if architecture.padding >= config.vocab_size {
        let found = format!("{}, beyond a vocabulary of {}", architecture.padding, config.vocab_size);
        return Err(("pad_token_id", found, "use the config.json that belongs to the model".into()));
    }
    config.architecture = architecture;
    Ok(())
}

/// Words that must have the value that is implemented, if they are there.
fn expect(family: Family, json: &Value) -> Result<(), Refusal> {
    let exact = "only \"gelu\" (the exact one) is implemented";
    let expected: &[(&'static str, Value, &str)] = match family {
        Family::Dnabert => &[
            ("hidden_act", json!("gelu"), exact),
            ("position_embedding_type", json!("absolute"), "only absolute positions are BERT's"),
        ],
        Family::Dnabert2 => &[("hidden_act", json!("gelu"), exact)],
        Family::NucleotideTransformer => &[
            ("position_embedding_type", json!("absolute"), "absolute (v1) and rotary (v2) positions are known"),
            ("emb_layer_norm_before", json!(false), "no Nucleotide Transformer has a LayerNorm there"),
            ("is_folding_model", json!(false), "protein folding is something else"),
        ],
        Family::NucleotideTransformerV2 => &[
            ("emb_layer_norm_before", json!(false), "no Nucleotide Transformer has a LayerNorm there"),
            ("is_folding_model", json!(false), "protein folding is something else"),
        ],
        Family::BigBird => &[
            (
                "hidden_act",
                json!("gelu_new"),
                "only \"gelu_new\" (GELU by tanh) is implemented, as BigBird was released",
            ),
            ("rescale_embeddings", json!(false), "embeddings that are rescaled are not implemented"),
            ("use_bias", json!(true), "query, key and value without biases are not implemented"),
        ],
    };
    for (key, expected, remedy) in expected {
        if let Some(found) = json.get(key)
            && !found.is_null()
            && found != expected
        {
            return Err((key, found.to_string(), (*remedy).into()));
        }
    }
    // ESM-2, which models proteins, has rotary positions and a plain feed-forward block.
    if family == Family::NucleotideTransformerV2 && json.get("add_bias_fnn") != Some(&json!(false)) {
        let remedy =
            "rotary positions are known of Nucleotide Transformer v2, whose config.json says \"add_bias_fnn\": false";
        return Err((
            "add_bias_fnn",
            json.get("add_bias_fnn").map_or("missing".into(), Value::to_string),
            remedy.into(),
        ));
    }
    Ok(())
}

/// What `config.json` says beside the sizes that all families share.
pub(super) fn words(config: &Config) -> Map<String, Value> {
    let Architecture { family, positions, attending, hidden_by, tied_decoder, padding, .. } = config.architecture;
    let mut words = match family {
        Family::Dnabert => json!({
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
        }),
        Family::Dnabert2 => {
            let code = |name: &str| format!("zhihan1996/DNABERT-2-117M--{name}");
            json!({
                "model_type": "bert",
                "hidden_act": "gelu",
                "position_embedding_type": "absolute",
                "alibi_starting_size": 512,
                // Sizes a buffer only.
                "max_position_embeddings": 512,
                "auto_map": {
                    "AutoConfig": code("configuration_bert.BertConfig"),
                    "AutoModel": code("bert_layers.BertModel"),
                    "AutoModelForMaskedLM": code("bert_layers.BertForMaskedLM"),
                    "AutoModelForSequenceClassification": code("bert_layers.BertForSequenceClassification"),
                },
            })
        }
        Family::NucleotideTransformer | Family::NucleotideTransformerV2 => json!({
            "model_type": "esm",
            "position_embedding_type": if positions == Positions::Rotary { "rotary" } else { "absolute" },
            "max_position_embeddings": config.max_position_embeddings + ESM_OFFSET,
            "emb_layer_norm_before": false,
            "token_dropout": hidden_by.is_some(),
            "mask_token_id": hidden_by.unwrap_or(2),
            "tie_word_embeddings": tied_decoder,
            "is_folding_model": false,
            "esmfold_config": null,
            "vocab_list": null,
        }),
        Family::BigBird => {
            let (kind, block, random) = match attending {
                Attending::Full => ("original_full", 64, 3),
                Attending::BlockSparse { block, random } => ("block_sparse", block, random),
            };
            json!({
                "model_type": "big_bird",
                "hidden_act": "gelu_new",
                "attention_type": kind,
                "block_size": block,
                "num_random_blocks": random,
                "rescale_embeddings": false,
                "use_bias": true,
            })
        }
    };
    if family == Family::NucleotideTransformerV2 {
        let code = |name: &str| format!("InstaDeepAI/nucleotide-transformer-v2-500m-multi-species--{name}");
        words["add_bias_fnn"] = json!(false);
        words["auto_map"] = json!({
            "AutoConfig": code("esm_config.EsmConfig"),
            "AutoModelForMaskedLM": code("modeling_esm.EsmForMaskedLM"),
            "AutoModelForSequenceClassification": code("modeling_esm.EsmForSequenceClassification"),
            "AutoModelForTokenClassification": code("modeling_esm.EsmForTokenClassification"),
        });
    }
    words["pad_token_id"] = json!(padding);
    match words {
        Value::Object(words) => words,
        _ => Map::new(),
    }
}

/// Why a tensor of a released checkpoint has no use here, where that is known.
pub fn idle(config: &Config, name: &str) -> Option<&'static str> {
    let has_table = matches!(config.architecture.positions, Positions::Learned { .. });
    match config.architecture.family {
        _ if name.ends_with("position_ids") || name.ends_with("token_type_ids") => {
            Some("numbers from 0 up, no weights")
        }
        Family::NucleotideTransformer | Family::NucleotideTransformerV2 => match name {
            _ if name.starts_with("esm.contact_head.") => Some("it predicts which residues of a protein touch"),
            _ if name.ends_with("rotary_embeddings.inv_freq") => Some("angles that follow from the size of a head"),
            _ if name.ends_with("position_embeddings.weight") && !has_table => {
                Some("a table of positions that the released code makes and never reads: positions are rotary")
            }
            _ => None,
        },
        Family::BigBird if name.starts_with("cls.seq_relationship.") => {
            Some("it predicts whether one text follows another, which no DNA model is trained for")
        }
        _ => None,
    }
}
