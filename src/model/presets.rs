//! Named model sizes.

use super::{Config, Family};
use crate::{Error, Result};

/// A named model size.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whose encoder it is.
    pub family: Family,
    /// What its tokens are.
    pub tokens: Tokens,
    /// Encoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f64,
    /// The longest sequence that the released model takes, in tokens; `None`: as long as is asked for.
    pub longest: Option<usize>,
    /// What it is.
    pub about: &'static str,
}

/// What the tokens of a model are, and so how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Overlapping k-mers.
    Kmers(usize),
    /// 6-mers side by side, single bases, and so many special tokens.
    Blocks {
        /// Special tokens: 4 in version 1, 6 in version 2.
        specials: usize,
    },
    /// Byte-pair encoding with so many entries.
    BytePairs(usize),
}

impl Tokens {
    /// Entries of the vocabulary.
    pub fn len(self) -> usize {
        match self {
            Self::Kmers(k) => 4usize.pow(k as u32) + 5,
            Self::Blocks { specials } => specials + 4096 + 5,
            Self::BytePairs(entries) => entries,
        }
    }

    /// Whether there are none: never.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A preset of DNABERT's shape, with layers, hidden size, heads and feed-forward width.
const fn bert(name: &'static str, k: usize, sizes: [usize; 4], about: &'static str) -> Preset {
    let [layers, hidden, heads, intermediate] = sizes;
    let (family, tokens) = (Family::Dnabert, Tokens::Kmers(k));
    Preset { name, family, tokens, layers, hidden, heads, intermediate, layer_norm_eps: 1e-12, longest: None, about }
}

const fn nucleotide_transformer(
    name: &'static str,
    family: Family,
    [layers, hidden, heads, intermediate]: [usize; 4],
    about: &'static str,
) -> Preset {
    let (specials, longest) = match family {
        Family::NucleotideTransformer => (4, 1000),
        _ => (6, 2048),
    };
    Preset {
        name,
        family,
        tokens: Tokens::Blocks { specials },
        layers,
        hidden,
        heads,
        intermediate,
        layer_norm_eps: 1e-12,
        longest: Some(longest),
        about,
    }
}

const DNABERT: [usize; 4] = [12, 768, 12, 3072];
/// Of ModernBERT's shape and length. modernGENA's own config.json was not at hand: its numbers of parameters, 135 and 377 million, are those of these sizes
/// with its vocabulary.
const fn modern_gena(name: &'static str, sizes: [usize; 4], about: &'static str) -> Preset {
    let (family, tokens, longest) = (Family::ModernBert, Tokens::BytePairs(32_000), Some(8192));
    Preset { family, tokens, layer_norm_eps: 1e-5, longest, ..bert(name, 6, sizes, about) }
}

const NT: Family = Family::NucleotideTransformer;
const NT2: Family = Family::NucleotideTransformerV2;

/// All presets.
pub const PRESETS: [Preset; 18] = [
    bert("dnabert-3", 3, DNABERT, "DNABERT over 3-mers, 86 M parameters"),
    bert("dnabert-4", 4, DNABERT, "DNABERT over 4-mers, 86 M parameters"),
    bert("dnabert-5", 5, DNABERT, "DNABERT over 5-mers, 87 M parameters"),
    bert("dnabert-6", 6, DNABERT, "DNABERT over 6-mers, 89 M parameters"),
    Preset { layer_norm_eps: 1e-5, ..bert("bionemo-xsmall", 3, [6, 256, 4, 2048], "BioNeMo's xsmall, 8 M parameters") },
    bert("mini", 6, [4, 256, 4, 1024], "4 layers of 256, 4 M parameters: for benchmarks on a laptop"),
    bert("splice-small", 3, [3, 128, 4, 512], "3 layers of 128, 0.7 M parameters: the demo's splice model"),
    // Rotary positions: a site is one wherever it stands in a window.
    Preset {
        family: NT2,
        ..bert(
            "splice-tokens",
            6,
            [4, 128, 4, 256],
            "4 layers of 128 with rotary positions, 1.2 M parameters: for finetune --head tokens",
        )
    },
    Preset {
        family: Family::Dnabert2,
        tokens: Tokens::BytePairs(4096),
        ..bert("dnabert2-117m", 6, DNABERT, "DNABERT-2 over byte-pair tokens, 117 M parameters")
    },
    nucleotide_transformer("nt-500m", NT, [24, 1280, 20, 5120], "Nucleotide Transformer, 486 M parameters"),
    nucleotide_transformer("nt-2.5b", NT, [32, 2560, 20, 10240], "Nucleotide Transformer, 2.5 G parameters"),
    nucleotide_transformer("nt-v2-50m", NT2, [12, 512, 16, 2048], "Nucleotide Transformer v2, 55 M parameters"),
    nucleotide_transformer("nt-v2-100m", NT2, [22, 512, 16, 2048], "Nucleotide Transformer v2, 97 M parameters"),
    nucleotide_transformer("nt-v2-250m", NT2, [24, 768, 16, 3072], "Nucleotide Transformer v2, 234 M parameters"),
    nucleotide_transformer("nt-v2-500m", NT2, [29, 1024, 16, 4096], "Nucleotide Transformer v2, 496 M parameters"),
    Preset {
        family: Family::BigBird,
        tokens: Tokens::BytePairs(32_000),
        longest: Some(4096),
        ..bert("bigbird-dna-4096", 6, DNABERT, "BigBird over byte-pair tokens, 113 M parameters")
    },
    modern_gena("moderngena-base", [22, 768, 12, 1152], "ModernBERT over byte-pair tokens, 136 M parameters"),
    modern_gena("moderngena-large", [28, 1024, 16, 2624], "ModernBERT over byte-pair tokens, 377 M parameters"),
];

/// The preset called `name`.
///
/// # Errors
/// [`Error::Usage`] listing the names there are.
pub fn preset(name: &str) -> Result<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        Error::usage(format!("no preset is called {name:?}"), format!("choose one of {}", names.join(", ")))
    })
}

impl Preset {
    /// Bases in a token, where tokens are overlapping k-mers.
    pub fn k(&self) -> Option<usize> {
        match self.tokens {
            Tokens::Kmers(k) => Some(k),
            Tokens::Blocks { .. } | Tokens::BytePairs(_) => None,
        }
    }

    /// The model's configuration, with room for `max_tokens` tokens a sequence.
    pub fn config(&self, max_tokens: usize) -> Config {
        let (hidden_dropout_prob, attention_probs_dropout_prob) = match self.family {
            Family::Dnabert | Family::BigBird => (0.1, 0.1),
            Family::Dnabert2 => (0.1, 0.0),
            Family::ModernBert => (0.0, 0.0),
            // The released ones are over blocks.
            Family::NucleotideTransformer | Family::NucleotideTransformerV2 if self.k().is_none() => (0.0, 0.0),
            Family::NucleotideTransformer | Family::NucleotideTransformerV2 => (0.1, 0.0),
        };
        Config {
            vocab_size: self.tokens.len(),
            hidden_size: self.hidden,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            intermediate_size: self.intermediate,
            max_position_embeddings: max_tokens,
            type_vocab_size: 2,
            layer_norm_eps: self.layer_norm_eps,
            hidden_dropout_prob,
            attention_probs_dropout_prob,
            initializer_range: 0.02,
            architecture: self.family.architecture(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Head, Model};

    /// Weights of a preset as it was released, from the layout alone.
    fn weights(name: &str, head: &Head) -> usize {
        let preset = preset(name).unwrap();
        let config = preset.config(preset.longest.unwrap_or(512));
        Model::parameter_specs(&config, head).unwrap().iter().map(|spec| spec.len()).sum()
    }

    #[test]
    fn released_models_have_as_many_weights() {
        // Those of Nucleotide Transformer count, in version 2, a table of positions that nothing reads; neither counts ESM's head for
        // contacts in proteins.
        assert_eq!(weights("nt-500m", &Head::MaskedLm), 485_698_825);
        assert_eq!(weights("nt-2.5b", &Head::MaskedLm), 2_547_800_585);
        assert_eq!(weights("nt-v2-50m", &Head::MaskedLm) + 2050 * 512, 55_904_779);
        assert_eq!(weights("nt-v2-100m", &Head::MaskedLm) + 2050 * 512, 97_888_779);
        assert_eq!(weights("nt-v2-250m", &Head::MaskedLm) + 2050 * 768, 235_120_395);
        assert_eq!(weights("nt-v2-500m", &Head::MaskedLm) + 2050 * 1024, 498_344_971);
        assert_eq!(weights("dnabert2-117m", &Head::MaskedLm), 117_074_176);
        assert_eq!(weights("dnabert2-117m", &Head::Encoder { pooler: false }), 116_477_952);
        assert_eq!(weights("dnabert2-117m", &Head::Encoder { pooler: true }), 117_068_544);
        // BigBird's of English: another vocabulary, and a pooler that its masked-LM head does not read.
        let english = (50_358 - 32_000) * (768 + 1);
        assert_eq!(weights("bigbird-dna-4096", &Head::MaskedLm) + english + 768 * 769, 128_111_286);
        // As transformers counts models of ModernBERT's sizes over 32,000 tokens; modernGENA's are said to have 135 and 377 million.
        assert_eq!(weights("moderngena-base", &Head::MaskedLm), 135_530_240);
        assert_eq!(weights("moderngena-large", &Head::MaskedLm), 377_054_464);
    }
}
