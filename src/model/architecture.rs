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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    Rotary,
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
}

/// What an encoder is made of, beside its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Architecture {
    /// Whose it is.
    pub family: Family,
    /// Where LayerNorm stands.
    pub norm: NormPlace,
    /// What happens to the embeddings before the first layer.
    pub embedding_end: EmbeddingEnd,
    /// How a token's place is known.
    pub positions: Positions,
    /// Whether there is a table of token types.
    pub token_types: bool,
    /// Which pairs of tokens see each other.
    pub attending: Attending,
    /// The block behind attention.
    pub feed_forward: FeedForward,
    /// Whether its first and its last product have a bias.
    pub feed_forward_bias: [bool; 2],
    /// The token whose embedding is zero, while the others of its sequence are scaled up for it (ESM's token dropout): the mask.
    pub hidden_by: Option<i32>,
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

/// All families.
pub const FAMILIES: [Family; 5] = [
    Family::Dnabert,
    Family::Dnabert2,
    Family::NucleotideTransformer,
    Family::NucleotideTransformerV2,
    Family::BigBird,
];

impl Family {
    /// What its released models are made of.
    pub const fn architecture(self) -> Architecture {
        let bert = Architecture {
            family: Self::Dnabert,
            norm: NormPlace::Post,
            embedding_end: EmbeddingEnd::NormDropout,
            positions: Positions::Learned { offset: 0 },
            token_types: true,
            attending: Attending::Full,
            feed_forward: FeedForward::Gelu,
            feed_forward_bias: [true, true],
            hidden_by: None,
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
                positions: Positions::Rotary,
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
        }
    }
}

/// What a family calls its parameters; those of linear layers and LayerNorms without `.weight` and `.bias`.
pub(super) struct Names {
    pub embeddings: &'static str,
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
    /// The decoder's weight, where it is not the table of words.
    pub decoder: &'static str,
    pub decoder_bias: &'static str,
    /// The two layers of a classifier on the first token.
    pub classifier: [&'static str; 2],
}

const BERT: Names = Names {
    embeddings: "bert.embeddings",
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
    decoder: "",
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
