//! A packed batch: sequences laid end to end, no padding.

/// How large a batch is: what the host has to know of one that a device makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Tokens in all sequences together.
    pub tokens: usize,
    /// Where each sequence starts, and where the last ends, `[sequences + 1]`.
    pub cu_seqlens: Vec<i32>,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Pairs of tokens that attend to each other: the sum of the squared lengths.
    pub pairs: u64,
    /// Rows that the head reads: hidden tokens.
    pub rows: usize,
}

/// Sequences of tokens laid end to end, with the rows that a head reads and their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[total_tokens]`; every sequence is `[CLS] k-mers [SEP]`.
    pub tokens: Vec<i32>,
    /// Position of each token inside its sequence, `[total_tokens]`.
    pub positions: Vec<i32>,
    /// Token types, `[total_tokens]`; DNABERT uses type 0 throughout.
    pub token_types: Vec<i32>,
    /// Where each sequence starts, and where the last ends, `[sequences + 1]`.
    pub cu_seqlens: Vec<i32>,
    /// The rows (token indices) that the head reads, ascending: masked tokens, `[CLS]` tokens or the tokens at a site.
    pub rows: Vec<i32>,
    /// The class or token id that each of `rows` should get, `[rows]`.
    pub labels: Vec<i32>,
}

impl Batch {
    /// An empty batch, to be filled by [`Batch::push`].
    pub fn new() -> Self {
        Self { cu_seqlens: vec![0], ..Self::default() }
    }

    /// Appends one sequence of type 0 and returns the row of its first token.
    pub fn push(&mut self, sequence: &[i32]) -> i32 {
        let start = self.tokens.len() as i32;
        self.tokens.extend_from_slice(sequence);
        self.positions.extend(0..sequence.len() as i32);
        self.token_types.resize(self.tokens.len(), 0);
        self.cu_seqlens.push(self.tokens.len() as i32);
        start
    }

    /// Tokens in all sequences together.
    pub fn total_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// Pairs of tokens that attend to each other: the sum of the squared lengths of the sequences.
    pub fn pairs(&self) -> u64 {
        self.cu_seqlens.windows(2).map(|pair| ((pair[1] - pair[0]) as u64).pow(2)).sum()
    }

    /// Length of the longest sequence, in tokens.
    pub fn max_length(&self) -> usize {
        self.cu_seqlens.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }
}
