//! Every kernel, run by the emulator, against the CPU device: random shapes, both dtypes, dropout on and off, several
//! thread schedules. What must hold is written at [`harness::Tolerance`]. `HELIXGRAD_TEST_DEVICE=cuda` runs the same tests
//! on a GPU, kernel by kernel ([`machine`]).

#[path = "../devices/emulated.rs"]
mod emulated;
mod harness;
mod machine;

mod adamw;
mod attention;
mod attention_sm90;
mod bias_gelu;
mod binary_cross_entropy;
mod column_sums;
mod cross_entropy;
mod dropout;
mod elementwise;
mod embedding;
mod gated;
mod gather;
mod gemm;
mod gemm_sm90;
mod layernorm;
mod mean_squared_error;
mod norm;
mod residual;
mod rotary;
mod sampling;
mod skip_gram;
mod softsign;
mod tanh;
