//! Which parameter lies where in the flat buffer.
//!
//! Matrices come first (they take weight decay), then biases and LayerNorm (they do not). Query, key and value lie end
//! to end, so that one product computes all three. Parameters that are frozen come last, matrices and vectors alike: gradients and
//! moments end before them. Groups start at multiples of [`ALIGNMENT`] elements; the gaps hold zeros that never change.

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
    /// Elements before this index are trained.
    pub trained: usize,
    /// Word, position and type.
    pub embeddings: [Matrix; 3],
    pub embedding_norm: Normalisation,
    pub layers: Vec<Layer>,
    pub head: HeadLayout,
}

impl Layout {
    /// With `frozen` layers, and below them the embeddings, that are not trained; `None`: everything is.
    pub fn new(config: &Config, head: &Head, frozen: Option<usize>) -> Self {
        // What lies behind others starts where they end, so sizes are counted in a first walk.
        let mut sizes = Builder::default();
        build(&mut sizes, config, head, frozen);
        let vectors = sizes.matrices.end.next_multiple_of(ALIGNMENT);
        let last = vectors + sizes.vectors.end;
        let mut builder = Builder {
            vectors: Area::from(vectors),
            frozen: Area::from(last.next_multiple_of(ALIGNMENT)),
            ..Builder::default()
        };
        let mut layout = build(&mut builder, config, head, frozen);
        (layout.decayed, layout.trained) = (vectors, builder.vectors.end);
        let Builder { matrices, vectors, frozen, .. } = builder;
        layout.specs = [matrices.specs, vectors.specs, frozen.specs].concat();
        layout
    }
}

/// A stretch of the flat buffer.
#[derive(Default)]
struct Area {
    specs: Vec<Spec>,
    end: usize,
}

impl Area {
    fn from(start: usize) -> Self {
        Self { specs: Vec::new(), end: start }
    }

    /// Parameters of one shape that lie end to end; returns where.
    fn place(&mut self, names: &[String], shape: &[usize]) -> usize {
        self.end = self.end.next_multiple_of(ALIGNMENT);
        let offset = self.end;
        for name in names {
            self.specs.push(Spec { name: name.clone(), shape: shape.to_vec(), offset: self.end });
            self.end += shape.iter().product::<usize>();
        }
        offset
    }
}

#[derive(Default)]
struct Builder {
    matrices: Area,
    vectors: Area,
    frozen: Area,
    /// Whether what comes is frozen.
    freezes: bool,
}

impl Builder {
    /// Matrices `[rows, columns]` that lie end to end.
    fn matrices(&mut self, names: &[String], rows: usize, columns: usize) -> Matrix {
        let area = if self.freezes { &mut self.frozen } else { &mut self.matrices };
        Matrix { offset: area.place(names, &[rows, columns]), rows: names.len() * rows, columns }
    }

    /// Vectors `[len]` that lie end to end.
    fn vectors(&mut self, names: &[String], len: usize) -> Vector {
        let area = if self.freezes { &mut self.frozen } else { &mut self.vectors };
        Vector { offset: area.place(names, &[len]), len: names.len() * len }
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

fn build(builder: &mut Builder, config: &Config, head: &Head, frozen: Option<usize>) -> Layout {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let tables = [
        ("word", config.vocab_size),
        ("position", config.max_position_embeddings),
        ("token_type", config.type_vocab_size),
    ];
    builder.freezes = frozen.is_some();
    let embeddings = tables.map(|(name, entries)| {
        builder.matrices(&[format!("bert.embeddings.{name}_embeddings.weight")], entries, hidden)
    });
    let embedding_norm = builder.norm("bert.embeddings.LayerNorm", config);
    let layers = (0..config.num_hidden_layers)
        .map(|layer| {
            builder.freezes = frozen.is_some_and(|frozen| layer < frozen);
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
    builder.freezes = false;
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
    Layout { specs: Vec::new(), decayed: 0, trained: 0, embeddings, embedding_norm, layers, head }
}
