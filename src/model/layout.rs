//! Which parameter lies where in the flat buffer.
//!
//! Matrices come first (they take weight decay), then biases and LayerNorm (they do not). Query, key and value lie end
//! to end, so that one product computes all three. Adapters lie among the matrices. Parameters that are frozen come last, matrices and vectors alike: gradients and
//! moments end before them. Groups start at multiples of [`ALIGNMENT`] elements; the gaps hold zeros that never change.

use super::lora::Product;
use super::{Config, EmbeddingEnd, Family, Head, NormPlace, Trained};
use crate::autograd::{Matrix, Spec, Vector};
use crate::ops::{Adapters, Normalisation};

/// Elements: 256 bytes of f32, 128 of bf16.
const ALIGNMENT: usize = 64;

/// A linear layer, with a bias where the family has one.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub weight: Matrix,
    pub bias: Option<Vector>,
}

/// One encoder layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Query, key and value as one: `[3 hidden, hidden]`.
    pub qkv: Linear,
    pub attention_output: Linear,
    /// Missing in the first layer of families without.
    pub attention_norm: Option<Normalisation>,
    pub up: Linear,
    pub down: Linear,
    pub output_norm: Normalisation,
    pub adapters: LayerAdapters,
}

/// What is trained beside the matrices of a layer, where these are frozen.
#[derive(Clone, Debug, Default)]
pub struct LayerAdapters {
    pub qkv: Option<Adapters>,
    pub attention_output: Option<Adapters>,
    pub up: Option<Adapters>,
    pub down: Option<Adapters>,
}

impl LayerAdapters {
    /// Elements of those of the first product, and of the others.
    pub fn weights(&self) -> [usize; 2] {
        let of = |adapters: &[&Option<Adapters>]| {
            let each = adapters.iter().copied().flatten();
            let b = |adapters: &Adapters| adapters.b.iter().map(|(b, _)| b.range().len()).sum::<usize>();
            each.map(|adapters| adapters.a.range().len() + b(adapters)).sum()
        };
        [of(&[&self.qkv]), of(&[&self.attention_output, &self.up, &self.down])]
    }
}

/// What stands before the decoder of a masked-LM head: a linear layer, GELU, a LayerNorm.
#[derive(Clone, Copy, Debug)]
pub struct Transform {
    pub dense: Linear,
    pub norm: Normalisation,
}

/// The parameters of a head.
#[derive(Clone, Debug)]
pub enum HeadLayout {
    MaskedLm {
        transform: Transform,
        decoder: Linear,
    },
    Cls {
        pooler: Linear,
        classifier: Linear,
    },
    Site {
        dense: Option<Linear>,
        classifier: Linear,
    },
    /// Of ModernBERT, whose classifiers begin as its masked-LM head does, on whichever token.
    Transformed {
        transform: Transform,
        classifier: Linear,
    },
    Encoder,
}

/// All parameters of a model.
#[derive(Clone, Debug)]
pub struct Layout {
    pub specs: Vec<Spec>,
    pub decayed: usize,
    /// Elements before this index are trained.
    pub trained: usize,
    /// Word, position and type; the family may lack the last two.
    pub embeddings: [Option<Matrix>; 3],
    pub embedding_norm: Option<Normalisation>,
    pub layers: Vec<Layer>,
    /// Behind the last layer, where LayerNorm stands before the blocks.
    pub last_norm: Option<Normalisation>,
    pub head: HeadLayout,
}

impl Layout {
    /// Of a model of which this is trained.
    pub fn new(config: &Config, head: &Head, trained: &Trained) -> Self {
        // What lies behind others starts where they end, so sizes are counted in a first walk.
        let mut sizes = Builder::default();
        build(&mut sizes, config, head, trained);
        let vectors = sizes.matrices.end.next_multiple_of(ALIGNMENT);
        let last = vectors + sizes.vectors.end;
        let mut builder = Builder {
            vectors: Area::from(vectors),
            frozen: Area::from(last.next_multiple_of(ALIGNMENT)),
            ..Builder::default()
        };
        let mut layout = build(&mut builder, config, head, trained);
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

    fn linears(&mut self, names: &[String], output: usize, input: usize, has_bias: bool) -> Linear {
        let of = |suffix: &str| names.iter().map(|name| format!("{name}.{suffix}")).collect::<Vec<_>>();
        let weight = self.matrices(&of("weight"), output, input);
        Linear { weight, bias: has_bias.then(|| self.vectors(&of("bias"), output)) }
    }

    fn linear(&mut self, name: &str, output: usize, input: usize, has_bias: bool) -> Linear {
        self.linears(&[name.to_owned()], output, input, has_bias)
    }

    fn norm(&mut self, name: &str, config: &Config) -> Normalisation {
        let gamma = self.vectors(&[format!("{name}.weight")], config.hidden_size);
        let has_bias = config.architecture.norm_bias;
        let beta = has_bias.then(|| self.vectors(&[format!("{name}.bias")], config.hidden_size));
        Normalisation { gamma, beta, eps: config.layer_norm_eps }
    }

    fn transform(&mut self, config: &Config) -> Transform {
        let (hidden, names) = (config.hidden_size, config.architecture.family.names());
        let dense = self.linear(names.transform, hidden, hidden, config.architecture.transform_bias);
        Transform { dense, norm: self.norm(names.transform_norm, config) }
    }
}

impl Builder {
    /// The adapters of a layer, which are trained.
    fn adapters(&mut self, config: &Config, layer: usize, trained: &Trained) -> LayerAdapters {
        let Some(lora) = trained.lora() else { return LayerAdapters::default() };
        self.freezes = false;
        let all = lora.adapters(config, layer);
        let mut of = |product: Product| {
            let adapters: Vec<_> = all.iter().filter(|adapter| adapter.product == product).collect();
            let names: Vec<_> = adapters.iter().map(|adapter| adapter.parameters()).collect();
            let a: Vec<String> = names.iter().map(|[a, _]| a.clone()).collect();
            let a = self.matrices(&a, lora.rank, adapters.first()?.columns);
            let b = adapters.iter().zip(names);
            let b = b.map(|(adapter, [_, b])| (self.matrices(&[b], adapter.rows, lora.rank), adapter.column));
            Some(Adapters { a, b: b.collect(), scale: lora.scale(), dropout: lora.dropout })
        };
        LayerAdapters {
            qkv: of(Product::Qkv),
            attention_output: of(Product::AttentionOutput),
            up: of(Product::Up),
            down: of(Product::Down),
        }
    }
}

fn build(builder: &mut Builder, config: &Config, head: &Head, trained: &Trained) -> Layout {
    let (hidden, intermediate, architecture) = (config.hidden_size, config.intermediate_size, config.architecture);
    let names = architecture.family.names();
    builder.freezes = trained.unrecorded().is_some();
    let mut tables = config.table_names().into_iter().zip(config.table_rows());
    let embeddings = [(); 3].map(|()| {
        let (name, rows) = tables.next()?;
        (rows > 0).then(|| builder.matrices(&[name], rows, hidden))
    });
    let embedding_norm =
        (architecture.embedding_end != EmbeddingEnd::Plain).then(|| builder.norm(names.embedding_norm, config));
    let layers = (0..config.num_hidden_layers)
        .map(|layer| {
            builder.freezes = trained.freezes(layer);
            let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
            let qkv: Vec<String> = names.qkv.iter().map(|part| name(part)).collect();
            let (of_attention, [of_up, of_down]) = (architecture.attention_bias, architecture.feed_forward_bias);
            let has_norm = layer > 0 || architecture.first_norm;
            Layer {
                qkv: builder.linears(&qkv, 3 * hidden / qkv.len(), hidden, of_attention),
                attention_output: builder.linear(&name(names.attention_output), hidden, hidden, of_attention),
                attention_norm: has_norm.then(|| builder.norm(&name(names.attention_norm), config)),
                up: builder.linear(&name(names.up), config.up_rows(), hidden, of_up),
                down: builder.linear(&name(names.down), hidden, intermediate, of_down),
                output_norm: builder.norm(&name(names.output_norm), config),
                adapters: builder.adapters(config, layer, trained),
            }
        })
        .collect();
    builder.freezes = trained.freezes(config.num_hidden_layers - 1);
    let last_norm = (architecture.norm == NormPlace::Pre).then(|| builder.norm(names.last_norm, config));
    builder.freezes = false;
    let head = match *head {
        Head::MaskedLm => {
            let transform = builder.transform(config);
            let words = embeddings[0].filter(|_| architecture.tied_decoder);
            let weight =
                words.unwrap_or_else(|| builder.matrices(&[names.decoder.to_owned()], config.vocab_size, hidden));
            let bias = Some(builder.vectors(&[names.decoder_bias.to_owned()], config.vocab_size));
            HeadLayout::MaskedLm { transform, decoder: Linear { weight, bias } }
        }
        Head::Cls { labels } | Head::Site { labels, hidden: None } if architecture.family == Family::ModernBert => {
            let transform = builder.transform(config);
            let classifier = builder.linear(names.classifier[1], labels, hidden, true);
            HeadLayout::Transformed { transform, classifier }
        }
        Head::Cls { labels } => HeadLayout::Cls {
            pooler: builder.linear(names.classifier[0], hidden, hidden, true),
            classifier: builder.linear(names.classifier[1], labels, hidden, true),
        },
        Head::Site { labels, hidden: None } => {
            HeadLayout::Site { dense: None, classifier: builder.linear("classifier", labels, hidden, true) }
        }
        Head::Site { labels, hidden: Some(width) } => HeadLayout::Site {
            dense: Some(builder.linear("classifier.dense", width, hidden, true)),
            classifier: builder.linear("classifier.out_proj", labels, width, true),
        },
        Head::Encoder { pooler } => {
            if pooler {
                builder.linear(names.pooler, hidden, hidden, true);
            }
            HeadLayout::Encoder
        }
    };
    Layout { specs: Vec::new(), decayed: 0, trained: 0, embeddings, embedding_norm, layers, last_norm, head }
}
