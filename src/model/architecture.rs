//! How the families of encoders differ: choices that go together freely, and one row for each family that was released.

use serde::Serialize;

use super::Head;

/// Whose encoder it is: what names tensors have, and what the words of `config.json` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// DNABERT (Ji et al., 2021): BERT over overlapping k-mers.
    #[default]
    Dnabert,
    /// DNABERT-2 (Zhou et al., 2023, arXiv 2306.15006): MosaicBERT over byte-pair tokens.
    Dnabert2,
    /// Nucleotide Transformer, version 1 (Dalla-Torre et al., 2023): ESM over 6-mers.
    NucleotideTransformer,
    /// Nucleotide Transformer, version 2.
    #[serde(rename = "nucleotide-transformer-v2")]
    NucleotideTransformerV2,
    /// BigBird (Zaheer et al., 2020, arXiv 2007.14062), as GENA-LM has it over DNA.
    BigBird,
    /// ModernBERT (Warner et al., 2024, arXiv 2412.13663), as modernGENA has it over DNA.
    ModernBert,
}

/// Where LayerNorm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormPlace {
    /// Behind each block and its residual: `x = LN(x + f(x))`.
    Post,
    /// Before each block, and once behind the last layer: `x = x + f(LN(x))`.
    Pre,
}

/// What happens to the words' embeddings before the first layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddingEnd {
    /// LayerNorm, then dropout.
    NormDropout,
    /// Dropout, then LayerNorm.
    DropoutNorm,
    /// Nothing: their sum goes into the first layer.
    Plain,
}

/// How a model knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Positions {
    /// A learned row for each, the first of them at `offset` of the table.
    Learned {
        /// Rows of the table before that of the first token.
        offset: usize,
    },
    /// ALiBi (Press et al., 2022): scores fall with the distance of query and key.
    Alibi,
    /// Rotary embeddings (Su et al., 2021, arXiv 2104.09864): queries and keys are rotated by their position.
    Rotary {
        /// The base of the angles in layers that attend to all.
        base: f64,
        /// In the others.
        window_base: f64,
    },
}

/// The block behind attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForward {
    /// `gelu(x U^T + a) W^T`, GELU by the error function.
    Gelu,
    /// The same with GELU by its tanh approximation.
    GeluTanh,
    /// `(gelu(x U^T) * x V^T) W^T` (Shazeer, 2020, arXiv 2002.05202).
    Geglu,
    /// `(silu(x U^T) * x V^T) W^T`.
    Swiglu,
}

impl FeedForward {
    /// Whether the first product is twice as wide as what comes of it.
    pub fn is_gated(self) -> bool {
        matches!(self, Self::Geglu | Self::Swiglu)
    }
}

/// Which pairs of tokens see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Attending {
    /// All of a sequence.
    Full,
    /// BigBird's blocks: those around, the first and the last, and some at random. Sequences of at most `5 + 2 random` blocks see themselves whole.
    BlockSparse {
        /// Tokens in a block.
        block: usize,
        /// Random blocks for each.
        random: usize,
    },
    /// Tokens that are near, but in every few layers all of a sequence.
    Window {
        /// Tokens to each side, beside the own one.
        reach: usize,
        /// The first layer attends to all, and so does each that comes so many behind one that does.
        full_every: usize,
    },
}

/// What an encoder is made of, beside its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Architecture {
    /// Whose it is.
    pub family: Family,
    /// Where LayerNorm stands.
    pub norm: NormPlace,
    /// Whether LayerNorm has a bias.
    pub norm_bias: bool,
    /// Whether a LayerNorm stands before the attention of the first layer too, where they stand before blocks.
    pub first_norm: bool,
    /// What happens to the embeddings before the first layer.
    pub embedding_end: EmbeddingEnd,
    /// How a token's place is known.
    pub positions: Positions,
    /// Whether there is a table of token types.
    pub token_types: bool,
    /// Which pairs of tokens see each other.
    pub attending: Attending,
    /// Whether query, key and value, and what follows attention, have biases.
    pub attention_bias: bool,
    /// The block behind attention.
    pub feed_forward: FeedForward,
    /// Whether its first and its last product have a bias.
    pub feed_forward_bias: [bool; 2],
    /// The token whose embedding is zero, while the others of its sequence are scaled up for it (ESM's token dropout): the mask.
    pub hidden_by: Option<i32>,
    /// Whether the first layer of the masked-LM head has a bias, and where its classifiers begin with that layer.
    pub transform_bias: bool,
    /// Whether the masked-LM head's decoder is the table of words.
    pub tied_decoder: bool,
    /// The row of the table of words that learns nothing from being looked up.
    pub padding: usize,
}

impl Default for Architecture {
    fn default() -> Self {
        Family::default().architecture()
    }
}

impl Architecture {
    /// How many tokens to each side those of a layer (from 0) see; `None`: all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        match self.attending {
            Attending::Window { reach, full_every } => (!layer.is_multiple_of(full_every)).then_some(reach),
            Attending::Full | Attending::BlockSparse { .. } => None,
        }
    }

    /// The base of a layer's rotary positions, if it has them.
    pub fn rotary_base(&self, layer: usize) -> Option<f64> {
        match self.positions {
            Positions::Rotary { base, window_base } => {
                Some(if self.window(layer).is_some() { window_base } else { base })
            }
            Positions::Learned { .. } | Positions::Alibi => None,
        }
    }
}

/// All families.
pub const FAMILIES: [Family; 6] = [
    Family::Dnabert,
    Family::Dnabert2,
    Family::NucleotideTransformer,
    Family::NucleotideTransformerV2,
    Family::BigBird,
    Family::ModernBert,
];

impl Family {
    /// What its released models are made of.
    pub const fn architecture(self) -> Architecture {
        let bert = Architecture {
            family: Self::Dnabert,
            norm: NormPlace::Post,
            norm_bias: true,
            first_norm: true,
            embedding_end: EmbeddingEnd::NormDropout,
            positions: Positions::Learned { offset: 0 },
            token_types: true,
            attending: Attending::Full,
            attention_bias: true,
            feed_forward: FeedForward::Gelu,
            feed_forward_bias: [true, true],
            hidden_by: None,
            transform_bias: true,
            tied_decoder: true,
            padding: 0,
        };
        let esm = Architecture {
            family: Self::NucleotideTransformer,
            norm: NormPlace::Pre,
            embedding_end: EmbeddingEnd::Plain,
            positions: Positions::Learned { offset: 2 },
            token_types: false,
            hidden_by: Some(2),
            tied_decoder: false,
            padding: 1,
            ..bert
        };
        match self {
            Self::Dnabert => bert,
            // Its config.json leaves padding to a default, which is [UNK] in its vocabulary.
            Self::Dnabert2 => Architecture {
                family: self,
                positions: Positions::Alibi,
                feed_forward: FeedForward::Geglu,
                feed_forward_bias: [false, true],
                ..bert
            },
            Self::NucleotideTransformer => esm,
            Self::NucleotideTransformerV2 => Architecture {
                family: self,
                positions: Positions::Rotary { base: 10_000.0, window_base: 10_000.0 },
                feed_forward: FeedForward::Swiglu,
                feed_forward_bias: [false, false],
                hidden_by: None,
                ..esm
            },
            Self::BigBird => Architecture {
                family: self,
                embedding_end: EmbeddingEnd::DropoutNorm,
                attending: Attending::BlockSparse { block: 64, random: 3 },
                feed_forward: FeedForward::GeluTanh,
                ..bert
            },
            // What transformers fills in where config.json says nothing.
            Self::ModernBert => Architecture {
                family: self,
                norm: NormPlace::Pre,
                norm_bias: false,
                first_norm: false,
                positions: Positions::Rotary { base: 160_000.0, window_base: 10_000.0 },
                token_types: false,
                attending: Attending::Window { reach: 64, full_every: 3 },
                attention_bias: false,
                feed_forward: FeedForward::Geglu,
                feed_forward_bias: [false, false],
                transform_bias: false,
                ..bert
            },
        }
    }

    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dnabert => "DNABERT",
            Self::Dnabert2 => "DNABERT-2",
            Self::NucleotideTransformer => "Nucleotide Transformer",
            Self::NucleotideTransformerV2 => "Nucleotide Transformer v2",
            Self::BigBird => "BigBird",
            Self::ModernBert => "ModernBERT",
        }
    }

    /// The class of transformers, or of the family's own code, that has this head; `None` for the site head with a hidden layer, which they lack.
    pub fn class(self, head: &Head) -> Option<&'static str> {
        let [model, masked, sequence, token] = match self {
            Self::Dnabert | Self::Dnabert2 => {
                ["BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForTokenClassification"]
            }
            Self::NucleotideTransformer | Self::NucleotideTransformerV2 => {
                ["EsmModel", "EsmForMaskedLM", "EsmForSequenceClassification", "EsmForTokenClassification"]
            }
            Self::BigBird => [
                "BigBirdModel",
                "BigBirdForMaskedLM",
                "BigBirdForSequenceClassification",
                "BigBirdForTokenClassification",
            ],
            Self::ModernBert => [
                "ModernBertModel",
                "ModernBertForMaskedLM",
                "ModernBertForSequenceClassification",
                "ModernBertForTokenClassification",
            ],
        };
        match head {
            Head::MaskedLm => Some(masked),
            Head::Cls { .. } => Some(sequence),
            Head::Site { hidden: None, .. } => Some(token),
            Head::Site { hidden: Some(_), .. } => None,
            Head::Encoder { .. } => Some(model),
        }
    }

    /// What stands before the names of the encoder's tensors, and is missing where the encoder was saved alone.
    pub fn prefix(self) -> &'static str {
        self.names().embeddings.trim_end_matches("embeddings")
    }

    /// Whether a tensor is one of the encoder's: of its tables and layers, but no pooler.
    pub fn is_of_encoder(self, name: &str) -> bool {
        name.starts_with(self.prefix()) && !name.starts_with(self.pooler())
    }

    /// The name of the table of words.
    pub fn words(self) -> String {
        format!("{}.{}.weight", self.names().embeddings, self.names().tables[0])
    }

    /// What stands before the numbers of the layers in names.
    pub fn layers(self) -> &'static str {
        self.names().layers
    }

    /// The name of the pooler over the first token, without `.weight` and `.bias`.
    pub fn pooler(self) -> &'static str {
        self.names().pooler
    }

    /// The name of the first layer of a masked-LM head, without `.weight` and `.bias`.
    pub fn transform(self) -> &'static str {
        self.names().transform
    }

    /// The name of a masked-LM head's last matrix; where that is the table of words, what else it is called.
    pub fn decoder(self) -> &'static str {
        self.names().decoder
    }

    /// The name of a masked-LM head's bias.
    pub fn decoder_bias(self) -> &'static str {
        self.names().decoder_bias
    }

    pub(super) const fn names(self) -> &'static Names {
        match self {
            Self::Dnabert => &BERT,
            Self::Dnabert2 => &MOSAIC_BERT,
            Self::NucleotideTransformer | Self::NucleotideTransformerV2 => &ESM,
            Self::BigBird => &BIG_BIRD,
            Self::ModernBert => &MODERN_BERT,
        }
    }
}

/// What a family calls its parameters; those of linear layers and LayerNorms without `.weight` and `.bias`.
pub(super) struct Names {
    pub embeddings: &'static str,
    /// Words, positions, token types.
    pub tables: [&'static str; 3],
    pub embedding_norm: &'static str,
    /// What the number of a layer stands behind.
    pub layers: &'static str,
    /// Query, key and value, or all three as one.
    pub qkv: &'static [&'static str],
    pub attention_output: &'static str,
    pub attention_norm: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub output_norm: &'static str,
    pub last_norm: &'static str,
    pub pooler: &'static str,
    pub transform: &'static str,
    pub transform_norm: &'static str,
    /// The decoder's weight, which may be the table of words.
    pub decoder: &'static str,
    pub decoder_bias: &'static str,
    /// The two layers of a classifier on the first token. Of ModernBERT the first is that of the masked-LM head, with its LayerNorm.
    pub classifier: [&'static str; 2],
}

const BERT: Names = Names {
    embeddings: "bert.embeddings",
    tables: ["word_embeddings", "position_embeddings", "token_type_embeddings"],
    embedding_norm: "bert.embeddings.LayerNorm",
    layers: "bert.encoder.layer",
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
    last_norm: "",
    pooler: "bert.pooler.dense",
    transform: "cls.predictions.transform.dense",
    transform_norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder.weight",
    decoder_bias: "cls.predictions.bias",
    classifier: ["bert.pooler.dense", "classifier"],
};

const MOSAIC_BERT: Names = Names {
    qkv: &["attention.self.Wqkv"],
    up: "mlp.gated_layers",
    down: "mlp.wo",
    output_norm: "mlp.layernorm",
    decoder_bias: "cls.predictions.decoder.bias",
    ..BERT
};

const BIG_BIRD: Names =
    Names { pooler: "bert.pooler", classifier: ["classifier.dense", "classifier.out_proj"], ..BERT };

const ESM: Names = Names {
    embeddings: "esm.embeddings",
    embedding_norm: "",
    layers: "esm.encoder.layer",
    attention_norm: "attention.LayerNorm",
    output_norm: "LayerNorm",
    last_norm: "esm.encoder.emb_layer_norm_after",
    pooler: "esm.pooler.dense",
    transform: "lm_head.dense",
    transform_norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder.weight",
    decoder_bias: "lm_head.bias",
    classifier: ["classifier.dense", "classifier.out_proj"],
    ..BERT
};

const MODERN_BERT: Names = Names {
    embeddings: "model.embeddings",
    tables: ["tok_embeddings", "", ""],
    embedding_norm: "model.embeddings.norm",
    layers: "model.layers",
    qkv: &["attn.Wqkv"],
    attention_output: "attn.Wo",
    attention_norm: "attn_norm",
    up: "mlp.Wi",
    down: "mlp.Wo",
    output_norm: "mlp_norm",
    last_norm: "model.final_norm",
    // It has none.
    pooler: "model.pooler",
    transform: "head.dense",
    transform_norm: "head.norm",
    decoder: "decoder.weight",
    decoder_bias: "decoder.bias",
    classifier: ["head.dense", "classifier"],
};
