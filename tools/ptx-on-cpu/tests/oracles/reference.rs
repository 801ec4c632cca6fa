//! What the oracles compute, written plainly in f64 over the values that the kernels were given.

use std::collections::BTreeMap;

use crate::manifest::{Element, Oracle, Role};

/// Numbers of every buffer, row-major.
pub type Values = BTreeMap<String, Vec<f64>>;

/// An output as it ought to be.
pub struct Expected {
    pub value: Vec<f64>,
    /// What is added up for each number, as absolute values: rounding on the way is in proportion to it.
    pub magnitude: Vec<f64>,
}

impl Expected {
    fn new(len: usize) -> Expected {
        Expected { value: vec![0.0; len], magnitude: vec![0.0; len] }
    }

    fn add(&mut self, at: usize, term: f64) {
        self.value[at] += term;
        self.magnitude[at] += term.abs();
    }

    fn exact(value: Vec<f64>) -> Expected {
        let magnitude = vec![0.0; value.len()];
        Expected { value, magnitude }
    }
}

/// Numbers in [-1, 1), the same on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> f64 {
        // Knuth's linear congruential generator; its high bits are good enough for inputs.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    }
}

/// Random inputs, each a number of its type.
pub fn inputs(oracle: &Oracle) -> Values {
    let mut random =
        Random::new(oracle.name.bytes().fold(17u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))));
    let inputs = oracle.buffers.iter().filter(|(_, buffer)| buffer.role == Role::Input);
    inputs
        .map(|(name, buffer)| {
            let scale = match buffer.element {
                Element::Bf16 => 1.0,
                Element::F32 | Element::F64 => 2.0,
                Element::I32 | Element::I64 => 1000.0,
            };
            if !buffer.values.is_empty() {
                return (name.clone(), buffer.values.clone());
            }
            let element = buffer.element;
            let values = (0..buffer.len()).map(|_| element.decode(&element.encode(random.next() * scale))).collect();
            (name.clone(), values)
        })
        .collect()
}

/// The outputs, by name. Inputs that another kernel would have computed (attention's log-sum-exp before its gradients) are filled in.
pub fn outputs(oracle: &Oracle, inputs: &mut Values) -> BTreeMap<String, Expected> {
    let named: Vec<(&str, Expected)> = match oracle.formula.as_str() {
        "matmul" => vec![("c", matmul(oracle, inputs))],
        "attention" => {
            let (output, log_sum_exp) = attention(oracle, inputs);
            vec![("output", output), ("log_sum_exp", log_sum_exp)]
        }
        "attention_backward_keys" => {
            let (d_key, d_value) = attention_backward_keys(oracle, inputs);
            vec![("d_key", d_key), ("d_value", d_value)]
        }
        "layernorm" => layernorm(oracle, inputs),
        "softmax" => vec![("y", softmax(oracle, inputs))],
        "integers" => integers(oracle, inputs),
        "doubles" => doubles(oracle, inputs),
        "none" => vec![],
        "philox" => vec![("bits", philox(oracle))],
        other => panic!("{}: no formula {other}", oracle.name),
    };
    named.into_iter().map(|(name, expected)| (name.to_owned(), expected)).collect()
}

fn matmul(oracle: &Oracle, inputs: &Values) -> Expected {
    let (m, n, k) = (oracle.size("m"), oracle.size("n"), oracle.size("k"));
    let (a, b) = (&inputs["a"], &inputs["b"]);
    let b: Vec<f64> = match oracle.flag("transpose_b") {
        true => (0..k * n).map(|at| b[at % n * k + at / n]).collect(),
        false => b.clone(),
    };
    let mut c = Expected::new(m * n);
    for row in 0..m {
        let (values, magnitudes) = (&mut c.value[row * n..][..n], &mut c.magnitude[row * n..][..n]);
        for depth in 0..k {
            let mut x = if oracle.flag("transpose_a") { a[depth * m + row] } else { a[row * k + depth] };
            if oracle.flag("relu_a") {
                x = x.max(0.0);
            }
            for ((value, magnitude), y) in values.iter_mut().zip(magnitudes.iter_mut()).zip(&b[depth * n..][..n]) {
                *value += x * y;
                *magnitude += (x * y).abs();
            }
        }
    }
    if let Some(addend) = inputs.get("addend") {
        let beta = oracle.number("beta");
        addend.iter().enumerate().for_each(|(at, x)| c.add(at, beta * x));
    }
    c
}

/// The probabilities of a head's query, and the log-sum-exp of its scores, in the base that the kernel counts in.
struct Row {
    probabilities: Vec<f64>,
    log_sum_exp: f64,
    /// The largest sum of absolute products behind a score.
    magnitude: f64,
}

fn attention_row(oracle: &Oracle, inputs: &Values, head: usize, row: usize) -> Row {
    let (tokens, head_dim) = (oracle.size("tokens"), oracle.size("head_dim"));
    let natural = oracle.flag("natural");
    let scale = if natural { 1.0 / (head_dim as f64).sqrt() } else { f64::from(oracle.number("scale") as f32) };
    let exp = |x: f64| if natural { x.exp() } else { x.exp2() };
    let log = |x: f64| if natural { x.ln() } else { x.log2() };
    let vector = |of: &str, token: usize| inputs[of][(head * tokens + token) * head_dim..][..head_dim].to_vec();
    let query = vector("query", row);
    let keys = if oracle.flag("causal") { row + 1 } else { tokens };
    let mut magnitude = 0.0f64;
    let scores: Vec<f64> = (0..keys)
        .map(|token| {
            let products: Vec<f64> = vector("key", token).iter().zip(&query).map(|(k, q)| scale * k * q).collect();
            magnitude = magnitude.max(products.iter().map(|x| x.abs()).sum());
            products.iter().sum()
        })
        .collect();
    let top = scores.iter().fold(f64::NEG_INFINITY, |top, score| top.max(*score));
    let sum: f64 = scores.iter().map(|score| exp(score - top)).sum();
    let probabilities = scores.iter().map(|score| exp(score - top) / sum).collect();
    Row { probabilities, log_sum_exp: top + log(sum), magnitude }
}

fn attention(oracle: &Oracle, inputs: &Values) -> (Expected, Expected) {
    let (heads, tokens, head_dim) = (oracle.size("heads"), oracle.size("tokens"), oracle.size("head_dim"));
    let mut output = Expected::new(heads * tokens * head_dim);
    let mut log_sum_exp = Expected::new(heads * tokens);
    for head in 0..heads {
        for row in 0..tokens {
            let attended = attention_row(oracle, inputs, head, row);
            let at = head * tokens + row;
            log_sum_exp.value[at] = attended.log_sum_exp;
            log_sum_exp.magnitude[at] = attended.magnitude + 1.0;
            for (token, p) in attended.probabilities.iter().enumerate() {
                for x in 0..head_dim {
                    output.add(at * head_dim + x, p * inputs["value"][(head * tokens + token) * head_dim + x]);
                }
            }
        }
    }
    (output, log_sum_exp)
}

fn attention_backward_keys(oracle: &Oracle, inputs: &mut Values) -> (Expected, Expected) {
    let (heads, tokens, head_dim) = (oracle.size("heads"), oracle.size("tokens"), oracle.size("head_dim"));
    let rounded = |x: f64| f64::from(x as f32);
    let (output, log_sum_exp) = attention(oracle, inputs);
    inputs.insert("log_sum_exp".into(), log_sum_exp.value.iter().map(|x| rounded(*x)).collect());
    let delta = |row: usize| {
        (0..head_dim).map(|x| inputs["d_output"][row * head_dim + x] * output.value[row * head_dim + x]).sum()
    };
    let delta: Vec<f64> = (0..heads * tokens).map(|row| rounded(delta(row))).collect();
    inputs.insert("delta".into(), delta);

    let mut d_key = Expected::new(heads * tokens * head_dim);
    let mut d_value = Expected::new(heads * tokens * head_dim);
    for head in 0..heads {
        for row in 0..tokens {
            let attended = attention_row(oracle, inputs, head, row);
            let row = head * tokens + row;
            let vector = |of: &str, row: usize| inputs[of][row * head_dim..][..head_dim].to_vec();
            let (d_output, query) = (vector("d_output", row), vector("query", row));
            for (token, p) in attended.probabilities.iter().enumerate() {
                let token = head * tokens + token;
                let d_p: f64 = vector("value", token).iter().zip(&d_output).map(|(v, d)| v * d).sum();
                let delta = inputs["delta"][row];
                for x in 0..head_dim {
                    let at = token * head_dim + x;
                    d_value.add(at, p * d_output[x]);
                    d_key.value[at] += p * (d_p - delta) * query[x];
                    // The difference is of numbers that were rounded before.
                    d_key.magnitude[at] += (p * (d_p.abs() + delta.abs()) * query[x]).abs();
                }
            }
        }
    }
    (d_key, d_value)
}

fn layernorm(oracle: &Oracle, inputs: &Values) -> Vec<(&'static str, Expected)> {
    let (rows, columns) = (oracle.size("rows"), oracle.size("columns"));
    let (mut y, mut mean, mut inverse) = (Expected::new(rows * columns), Expected::new(rows), Expected::new(rows));
    for row in 0..rows {
        let x = &inputs["x"][row * columns..][..columns];
        x.iter().for_each(|x| mean.add(row, x / columns as f64));
        let mu = mean.value[row];
        let variance = x.iter().map(|x| (x - mu) * (x - mu)).sum::<f64>() / columns as f64;
        let scale = 1.0 / (variance + oracle.number("eps")).sqrt();
        inverse.value[row] = scale;
        for (at, x) in x.iter().enumerate() {
            let (gamma, beta) = (inputs["gamma"][at], inputs["beta"][at]);
            y.value[row * columns + at] = (x - mu) * scale * gamma + beta;
            y.magnitude[row * columns + at] = ((x.abs() + mu.abs()) * scale * gamma).abs() + beta.abs();
        }
    }
    vec![("y", y), ("mean", mean), ("inverse", inverse)]
}

fn softmax(oracle: &Oracle, inputs: &Values) -> Expected {
    let columns = oracle.size("columns");
    let mut y = Expected::new(inputs["x"].len());
    for (x, y) in inputs["x"].chunks(columns).zip(y.value.chunks_mut(columns)) {
        let top = x.iter().fold(f64::NEG_INFINITY, |top, x| top.max(*x));
        let sum: f64 = x.iter().map(|x| (x - top).exp()).sum();
        y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - top).exp() / sum);
    }
    y
}

fn integers(oracle: &Oracle, inputs: &Values) -> Vec<(&'static str, Expected)> {
    let columns = oracle.size("columns");
    let divisor = oracle.number("divisor") as i64;
    let (mut prefix, mut least, mut histogram, mut quotient, mut remainder) =
        (vec![], vec![], vec![0.0; 16], vec![], vec![]);
    for x in inputs["x"].chunks(columns) {
        let mut sum = 0.0;
        least.push(x.iter().fold(f64::INFINITY, |least, x| least.min(*x)));
        for x in x {
            sum += x;
            prefix.push(sum);
            histogram[*x as i64 as usize & 15] += 1.0;
            let wide = *x as i64 * 10_000_000_000;
            quotient.push((wide / divisor) as f64);
            remainder.push((wide % divisor) as f64);
        }
    }
    [("prefix", prefix), ("least", least), ("histogram", histogram), ("quotient", quotient), ("remainder", remainder)]
        .map(|(name, value)| (name, Expected::exact(value)))
        .into()
}

fn doubles(oracle: &Oracle, inputs: &Values) -> Vec<(&'static str, Expected)> {
    let columns = oracle.size("columns");
    let y: Vec<f64> = inputs["x"].iter().map(|x| (x * x + 1.0).sqrt() / (x + 3.0)).collect();
    let mut total = Expected::new(oracle.size("rows"));
    y.iter().enumerate().for_each(|(at, y)| total.add(at / columns, *y));
    vec![("y", Expected::exact(y)), ("total", total)]
}

/// Philox 4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
fn philox(oracle: &Oracle) -> Expected {
    let (seed, count) = (oracle.size("seed") as u64, oracle.size("count"));
    let mut bits = vec![0.0; 4 * count];
    for at in 0..count {
        let mut counter = [at as u32, 0, 0, 0];
        let mut key = [seed as u32, (seed >> 32) as u32];
        for _ in 0..10 {
            let a = u64::from(counter[0]) * 0xd251_1f53;
            let b = u64::from(counter[2]) * 0xcd9e_8d57;
            counter =
                [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        for (word, value) in counter.iter().enumerate() {
            bits[word * count + at] = f64::from(*value as i32);
        }
    }
    Expected::exact(bits)
}
