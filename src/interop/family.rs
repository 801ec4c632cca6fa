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
        Some("modernbert") => return Ok(Family::ModernBert),
        None if class.starts_with("ModernBert") => return Ok(Family::ModernBert),
        Some("big_bird") => return Ok(Family::BigBird),
        None if class.starts_with("BigBird") => return Ok(Family::BigBird),
        // Nothing but these tells MosaicBERT's configuration from BERT's.
        Some("bert") | None if json.get("alibi_starting_size").is_some() || code.contains("configuration_bert") => {
            return Ok(Family::Dnabert2);
        }
        Some("bert") | None => return Ok(Family::Dnabert),
        Some(other) => {
            let known = "bert (DNABERT, DNABERT-2), esm (Nucleotide Transformer), big_bird and modernbert are known";
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
        Family::ModernBert => modern_bert(config, &mut architecture, json)?,
    }
    architecture.padding = number("pad_token_id").unwrap_or(architecture.padding);
    if architecture.padding >= config.vocab_size {
        let found = format!("{}, beyond a vocabulary of {}", architecture.padding, config.vocab_size);
        return Err(("pad_token_id", found, "use the config.json that belongs to the model".into()));
    }
    config.architecture = architecture;
    Ok(())
}

/// ModernBERT's words, as of today's transformers and as they were before its version 5.
fn modern_bert(config: &mut Config, architecture: &mut Architecture, json: &Value) -> Result<(), Refusal> {
    let number = |key: &str| json.get(key).and_then(Value::as_f64);
    let flag = |key: &str, default: bool| json.get(key).and_then(Value::as_bool).unwrap_or(default);
    config.layer_norm_eps = number("norm_eps").unwrap_or(1e-5);
    // Words of ours: its own name other places, and are 0 where it was released.
    config.hidden_dropout_prob = number("hidden_dropout_prob").unwrap_or(0.0);
    config.attention_probs_dropout_prob = number("attention_probs_dropout_prob").unwrap_or(0.0);
    for key in ["embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"] {
        if let Some(rate) = number(key).filter(|rate| *rate != 0.0) {
            let remedy = "only 0 is implemented, as ModernBERT was released; 0 changes nothing but a training";
            return Err((key, rate.to_string(), remedy.into()));
        }
    }
    architecture.norm_bias = flag("norm_bias", false);
    architecture.attention_bias = flag("attention_bias", false);
    architecture.transform_bias = flag("classifier_bias", false);
    architecture.tied_decoder = flag("tie_word_embeddings", true);
    let whole = |key: &'static str, default: usize| match json.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(found) => {
            let value = found.as_u64().and_then(|value| usize::try_from(value).ok());
            value.ok_or_else(|| (key, found.to_string(), "give a whole number".into()))
        }
    };
    let reach = whole("local_attention", 128)? / 2;
    let full_every = match json.get("layer_types").and_then(Value::as_array) {
        Some(types) => full_every(types)?,
        None => whole("global_attn_every_n_layers", 3)?,
    };
    architecture.attending = Attending::Window { reach, full_every };
    let of_type = |kind: &str| json.pointer(&format!("/rope_parameters/{kind}"));
    for kind in ["full_attention", "sliding_attention"] {
        let named = of_type(kind).and_then(|of| of.get("rope_type")).and_then(Value::as_str);
        if let Some(other) = named.filter(|named| *named != "default") {
            return Err((
                "rope_parameters",
                format!("{other:?}"),
                "only positions that are not scaled are implemented".into(),
            ));
        }
    }
    let base = |kind: &str, old: &str| of_type(kind).and_then(|of| of.get("rope_theta")?.as_f64()).or(number(old));
    let (of_all, of_window) =
        (base("full_attention", "global_rope_theta"), base("sliding_attention", "local_rope_theta"));
    // A base that is null was, before version 5, that of the layers that attend to all.
    let is_null = json.get("local_rope_theta").is_some_and(Value::is_null);
    let base = of_all.unwrap_or(160_000.0);
    let window_base = of_window.unwrap_or(if is_null { base } else { 10_000.0 });
    architecture.positions = Positions::Rotary { base, window_base };
    Ok(())
}

/// How many layers there are from one that attends to all to the next.
fn full_every(types: &[Value]) -> Result<usize, Refusal> {
    let is_full: Vec<bool> = types.iter().map(|kind| kind == "full_attention").collect();
    let every = is_full.iter().skip(1).position(|full| *full).map_or(types.len().max(1), |place| place + 1);
    let known = types.iter().all(|kind| kind == "full_attention" || kind == "sliding_attention");
    if known && is_full.iter().enumerate().all(|(layer, full)| *full == layer.is_multiple_of(every)) {
        return Ok(every);
    }
    let remedy =
        "known are full_attention in every layer of a number, from the first, and sliding_attention in the others";
    Err(("layer_types", Value::from(types).to_string(), remedy.into()))
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
        Family::ModernBert => &[
            ("hidden_activation", json!("gelu"), exact),
            ("classifier_activation", json!("gelu"), exact),
            ("mlp_bias", json!(false), "a gated feed-forward block with biases is not implemented"),
            ("decoder_bias", json!(true), "a masked-LM head without a bias is not implemented"),
            ("rope_scaling", Value::Null, "only positions that are not scaled are implemented"),
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
    let is_classifier = json.pointer("/architectures/0") == Some(&json!("ModernBertForSequenceClassification"));
    if let Some(pooling) = json.get("classifier_pooling").filter(|pooling| is_classifier && *pooling != "cls") {
        let remedy = "only classifiers on the first token are implemented (\"cls\")";
        return Err(("classifier_pooling", pooling.to_string(), remedy.into()));
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
            "position_embedding_type": if matches!(positions, Positions::Rotary { .. }) { "rotary" } else { "absolute" },
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
                Attending::Full | Attending::Window { .. } => ("original_full", 64, 3),
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
        Family::ModernBert => modern_bert_words(config),
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

/// Words that transformers has read from its first version with ModernBERT to today's.
fn modern_bert_words(config: &Config) -> Value {
    let architecture = config.architecture;
    let (reach, full_every) = match architecture.attending {
        Attending::Window { reach, full_every } => (reach, full_every),
        Attending::Full | Attending::BlockSparse { .. } => (64, 1),
    };
    let [base, window_base] = match architecture.positions {
        Positions::Rotary { base, window_base } => [base, window_base],
        Positions::Learned { .. } | Positions::Alibi => [0.0; 2],
    };
    json!({
        "model_type": "modernbert",
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "classifier_pooling": "cls",
        "norm_eps": config.layer_norm_eps,
        "norm_bias": architecture.norm_bias,
        "attention_bias": architecture.attention_bias,
        "mlp_bias": false,
        "classifier_bias": architecture.transform_bias,
        "decoder_bias": true,
        "local_attention": 2 * reach,
        "global_attn_every_n_layers": full_every,
        "global_rope_theta": base,
        "local_rope_theta": window_base,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "classifier_dropout": 0.0,
        "tie_word_embeddings": architecture.tied_decoder,
    })
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
