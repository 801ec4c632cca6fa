//! Which parameter lies where in the flat buffer.
//!
//! Matrices come first (they take weight decay), then biases and LayerNorm (they do not). Query, key and value lie end
//! to end, so that one product computes all three. Groups start at multiples of [`ALIGNMENT`] elements; the gaps hold
//! zeros that never change.

use super::{Config, Head};
use crate::autograd::{Matrix, Spec, Vector};
use crate::ops::Normalisation;

/// Elements: 256 bytes of f32, 128 of bf16.
const ALIGNMENT: usize = 64;

/// A linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub weight: Matrix,
    pub bias: Vector,
}

/// One encoder layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Query, key and value as one: `[3 hidden, hidden]`.
    pub qkv: Linear,
    pub attention_output: Linear,
    pub attention_norm: Normalisation,
    pub intermediate: Linear,
    pub output: Linear,
    pub output_norm: Normalisation,
}

/// The parameters of a head.
#[derive(Clone, Debug)]
pub enum HeadLayout {
    MaskedLm { transform: Linear, norm: Normalisation, bias: Vector },
    Cls { pooler: Linear, classifier: Linear },
    Site { dense: Option<Linear>, classifier: Linear },
    Encoder,
}

/// All parameters of a model.
#[derive(Clone, Debug)]
pub struct Layout {
    pub specs: Vec<Spec>,
    pub decayed: usize,
    /// Word, position and type.
    pub embeddings: [Matrix; 3],
    pub embedding_norm: Normalisation,
    pub layers: Vec<Layer>,
    pub head: HeadLayout,
}

impl Layout {
    pub fn new(config: &Config, head: &Head) -> Self {
        // Vectors lie behind the matrices, so the matrices are counted in a first walk.
        let mut sizes = Builder::default();
        build(&mut sizes, config, head);
        let mut builder = Builder { vector_start: sizes.matrix_end.next_multiple_of(ALIGNMENT), ..Builder::default() };
        let mut layout = build(&mut builder, config, head);
        let Builder { mut matrices, vectors, vector_start, .. } = builder;
        matrices.extend(vectors);
        layout.specs = matrices;
        layout.decayed = vector_start;
        layout
    }
}

#[derive(Default)]
struct Builder {
    matrices: Vec<Spec>,
    vectors: Vec<Spec>,
    matrix_end: usize,
    vector_start: usize,
    vector_end: usize,
}

impl Builder {
    /// Matrices `[rows, columns]` that lie end to end.
    fn matrices(&mut self, names: &[String], rows: usize, columns: usize) -> Matrix {
        self.matrix_end = self.matrix_end.next_multiple_of(ALIGNMENT);
        let offset = self.matrix_end;
        for name in names {
            self.matrices.push(Spec { name: name.clone(), shape: vec![rows, columns], offset: self.matrix_end });
            self.matrix_end += rows * columns;
        }
        Matrix { offset, rows: names.len() * rows, columns }
    }

    /// Vectors `[len]` that lie end to end.
    fn vectors(&mut self, names: &[String], len: usize) -> Vector {
        self.vector_end = self.vector_end.next_multiple_of(ALIGNMENT);
        let offset = self.vector_start + self.vector_end;
        for name in names {
            let offset = self.vector_start + self.vector_end;
            self.vectors.push(Spec { name: name.clone(), shape: vec![len], offset });
            self.vector_end += len;
        }
        Vector { offset, len: names.len() * len }
    }

    fn linears(&mut self, names: &[String], output: usize, input: usize) -> Linear {
        let of = |suffix: &str| names.iter().map(|name| format!("{name}.{suffix}")).collect::<Vec<_>>();
        Linear { weight: self.matrices(&of("weight"), output, input), bias: self.vectors(&of("bias"), output) }
    }

    fn linear(&mut self, name: &str, output: usize, input: usize) -> Linear {
        self.linears(&[name.to_owned()], output, input)
    }

    fn norm(&mut self, name: &str, config: &Config) -> Normalisation {
        let gamma = self.vectors(&[format!("{name}.weight")], config.hidden_size);
        let beta = self.vectors(&[format!("{name}.bias")], config.hidden_size);
        Normalisation { gamma, beta, eps: config.layer_norm_eps }
    }
}

fn build(builder: &mut Builder, config: &Config, head: &Head) -> Layout {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let tables = [
        ("word", config.vocab_size),
        ("position", config.max_position_embeddings),
        ("token_type", config.type_vocab_size),
    ];
    let embeddings = tables.map(|(name, entries)| {
        builder.matrices(&[format!("bert.embeddings.{name}_embeddings.weight")], entries, hidden)
    });
    let embedding_norm = builder.norm("bert.embeddings.LayerNorm", config);
    let layers = (0..config.num_hidden_layers)
        .map(|layer| {
            let name = |part: &str| format!("bert.encoder.layer.{layer}.{part}");
            let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
            Layer {
                qkv: builder.linears(&qkv, hidden, hidden),
                attention_output: builder.linear(&name("attention.output.dense"), hidden, hidden),
                attention_norm: builder.norm(&name("attention.output.LayerNorm"), config),
                intermediate: builder.linear(&name("intermediate.dense"), intermediate, hidden),
                output: builder.linear(&name("output.dense"), hidden, intermediate),
                output_norm: builder.norm(&name("output.LayerNorm"), config),
            }
        })
        .collect();
    let head = match *head {
        Head::MaskedLm => HeadLayout::MaskedLm {
            transform: builder.linear("cls.predictions.transform.dense", hidden, hidden),
            norm: builder.norm("cls.predictions.transform.LayerNorm", config),
            bias: builder.vectors(&["cls.predictions.bias".to_owned()], config.vocab_size),
        },
        Head::Cls { labels } => HeadLayout::Cls {
            pooler: builder.linear("bert.pooler.dense", hidden, hidden),
            classifier: builder.linear("classifier", labels, hidden),
        },
        Head::Site { labels, hidden: None } => {
            HeadLayout::Site { dense: None, classifier: builder.linear("classifier", labels, hidden) }
        }
        Head::Site { labels, hidden: Some(width) } => HeadLayout::Site {
            dense: Some(builder.linear("classifier.dense", width, hidden)),
            classifier: builder.linear("classifier.out_proj", labels, width),
        },
        Head::Encoder { pooler } => {
            if pooler {
                builder.linear("bert.pooler.dense", hidden, hidden);
            }
            HeadLayout::Encoder
        }
    };
    Layout { specs: Vec::new(), decayed: 0, embeddings, embedding_norm, layers, head }
}
