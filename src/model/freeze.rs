//! What of a model is not trained.

use std::str::FromStr;

use super::{Config, Lora};

/// What is frozen: the embeddings, and so many layers above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// The embeddings alone.
    Embeddings,
    /// The embeddings and the first so many layers.
    Layers(usize),
    /// The embeddings and all layers: what is trained is the head.
    Encoder,
}

impl Freeze {
    /// Layers of a model of these sizes that are frozen, besides the embeddings.
    pub fn layers(self, config: &Config) -> usize {
        match self {
            Self::Embeddings => 0,
            Self::Layers(layers) => layers,
            Self::Encoder => config.num_hidden_layers,
        }
    }
}

/// What of a model is trained.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Trained {
    /// All of it.
    #[default]
    Everything,
    /// What stands above the embeddings and so many layers.
    Above(usize),
    /// Adapters of the encoder, and the head.
    Adapters(Lora),
}

impl Trained {
    /// Layers through which nothing goes back; `None` if something goes back to the embeddings.
    pub fn unrecorded(&self) -> Option<usize> {
        match self {
            Self::Everything => None,
            Self::Above(layers) => Some(*layers),
            Self::Adapters(_) => Some(0),
        }
    }

    /// Whether the parameters of layer `layer` (from 0) are frozen.
    pub fn freezes(&self, layer: usize) -> bool {
        match self {
            Self::Everything => false,
            Self::Above(layers) => layer < *layers,
            Self::Adapters(_) => true,
        }
    }

    /// The adapters, where these are trained.
    pub fn lora(&self) -> Option<&Lora> {
        match self {
            Self::Adapters(lora) => Some(lora),
            Self::Everything | Self::Above(_) => None,
        }
    }
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("embeddings", _) => Ok(Self::Embeddings),
            ("encoder", _) => Ok(Self::Encoder),
            (_, Ok(layers @ 1..)) => Ok(Self::Layers(layers)),
            _ => Err("give embeddings, encoder, or a number of layers from 1".into()),
        }
    }
}

impl std::fmt::Display for Freeze {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embeddings => f.write_str("embeddings"),
            Self::Layers(layers) => write!(f, "{layers}"),
            Self::Encoder => f.write_str("encoder"),
        }
    }
}

impl serde::Serialize for Freeze {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
