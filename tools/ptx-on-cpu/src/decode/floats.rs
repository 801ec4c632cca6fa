//! Floating-point arithmetic and comparison (PTX ISA, "Floating Point Instructions", "Half Precision Floating Point
//! Instructions"). Approximations (`ex2`, `rcp`, `tanh`, ...) are computed as exactly as the host can: a GPU's differ in their
//! last bits.

use half::{bf16, f16};

use super::{Decoder, Opcode, Result};
use crate::instruction::Operation;
use crate::rows::{RowOperation, row};
use crate::syntax::{Class, Operand};

/// A row function for each type; halves are computed in f32 and rounded once more, which changes nothing for one operation.
macro_rules! float {
    ($opcode:expr, |$($x:ident),+| $body:expr) => {
        match ($opcode.kind, $opcode.has("ftz")) {
            ("f32", false) => row!(|$($x: f32),+| -> f32 { $body }),
            ("f32", true) => row!(|$($x: f32),+| -> f32 { $(let $x = flush($x);)+ flush($body) }),
            ("f64", _) => row!(|$($x: f64),+| -> f64 { $body }),
            _ => half!($opcode, |$($x),+| $body),
        }
    };
}

macro_rules! half {
    ($opcode:expr, |$($x:ident),+| $body:expr) => {
        match $opcode.kind {
            "f16" => row!(|$($x: f16),+| -> f16 { $(let $x = $x.to_f32();)+ f16::from_f32($body) }),
            "bf16" => row!(|$($x: bf16),+| -> bf16 { $(let $x = $x.to_f32();)+ to_bf16($body) }),
            "f16x2" => row!(|$($x: [f16; 2]),+| -> [f16; 2] {
                let one = |$($x: f16),+| { $(let $x = $x.to_f32();)+ f16::from_f32($body) };
                [one($($x[0]),+), one($($x[1]),+)]
            }),
            "bf16x2" => row!(|$($x: [bf16; 2]),+| -> [bf16; 2] {
                let one = |$($x: bf16),+| { $(let $x = $x.to_f32();)+ to_bf16($body) };
                [one($($x[0]),+), one($($x[1]),+)]
            }),
            _ => return $opcode.unknown(),
        }
    };
}

/// f32 with a direction of rounding, from the rounded result and the sign of what it lacks.
macro_rules! directed {
    ($opcode:expr, |$($x:ident),+| $near:expr, $error:expr) => {
        match $opcode.which(&["rz", "rm", "rp"]) {
            Some("rz") => row!(|$($x: f32),+| -> f32 { let near = $near; toward_zero(near, $error(near)) }),
            Some("rm") => row!(|$($x: f32),+| -> f32 { let near = $near; down(near, $error(near)) }),
            _ => row!(|$($x: f32),+| -> f32 { let near = $near; up(near, $error(near)) }),
        }
    };
}

/// Subnormal numbers to zero of the same sign: `.ftz`.
#[inline(always)]
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}

/// To nearest even; NaN is 0x7fff, as `cvt.rn.bf16.f32` has it.
#[inline(always)]
pub(super) fn to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    bf16::from_bits(if x.is_nan() { 0x7fff } else { rounded })
}

#[inline(always)]
fn down(near: f32, lacks: f64) -> f32 {
    if lacks < 0.0 && near > f32::NEG_INFINITY { near.next_down() } else { near }
}

#[inline(always)]
fn up(near: f32, lacks: f64) -> f32 {
    if lacks > 0.0 && near < f32::INFINITY { near.next_up() } else { near }
}

#[inline(always)]
pub(super) fn toward_zero(near: f32, lacks: f64) -> f32 {
    if near > 0.0 { down(near, lacks) } else { up(near, lacks) }
}

/// What `near` lacks of `a + b`, in the sign at least (Knuth's two-sum in f64).
#[inline(always)]
fn lacks(a: f64, b: f64, near: f32) -> f64 {
    if !near.is_finite() {
        return 0.0;
    }
    let sum = a + b;
    let of_b = sum - a;
    let error = (a - (sum - of_b)) + (b - of_b);
    (sum - f64::from(near)) + error
}

/// `min`: the number where one is NaN; -0 is below +0.
macro_rules! extreme {
    ($x:expr, $y:expr, $less:tt) => {{
        let (x, y) = ($x, $y);
        if x.is_nan() { y } else if y.is_nan() || x $less y || (x == y && (0 $less 1) == x.is_sign_negative()) { x } else { y }
    }};
}

/// The same where a NaN is passed on: `.NaN`.
macro_rules! extreme_nan {
    ($x:expr, $y:expr, $less:tt) => {{
        let (x, y) = ($x, $y);
        if x.is_nan() || y.is_nan() { x + y } else { extreme!(x, y, $less) }
    }};
}

fn is_float(kind: &str) -> bool {
    matches!(kind, "f32" | "f64" | "f16" | "bf16" | "f16x2" | "bf16x2")
}

/// Operations of one result whose types say everything.
pub(super) fn operation(opcode: &Opcode) -> Result<Option<RowOperation>> {
    if !is_float(opcode.kind) {
        return Ok(None);
    }
    let direction = opcode.which(&["rz", "rm", "rp"]).is_some();
    if direction && matches!(opcode.base, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt") {
        return directed(opcode).map(Some);
    }
    if opcode.has("xorsign") || opcode.has("relu") && opcode.base != "fma" && opcode.base != "cvt" {
        return opcode.unknown();
    }
    Ok(Some(match opcode.base {
        "add" => float!(opcode, |x, y| x + y),
        "sub" => float!(opcode, |x, y| x - y),
        "mul" => float!(opcode, |x, y| x * y),
        "fma" if opcode.has("relu") => half!(opcode, |x, y, z| relu(x.mul_add(y, z))),
        "fma" | "mad" => match opcode.kind {
            // Two roundings would not be one: the sum is taken in f64.
            "f16" => row!(|x: f16, y: f16, z: f16| -> f16 { f16::from_f64(x.to_f64() * y.to_f64() + z.to_f64()) }),
            _ => float!(opcode, |x, y, z| x.mul_add(y, z)),
        },
        "div" => float!(opcode, |x, y| x / y),
        "abs" => float!(opcode, |x| x.abs()),
        "neg" => float!(opcode, |x| -x),
        "min" if opcode.has("NaN") => float!(opcode, |x, y| extreme_nan!(x, y, <)),
        "max" if opcode.has("NaN") => float!(opcode, |x, y| extreme_nan!(x, y, >)),
        "min" => float!(opcode, |x, y| extreme!(x, y, <)),
        "max" => float!(opcode, |x, y| extreme!(x, y, >)),
        "rcp" => float!(opcode, |x| 1.0 / x),
        "sqrt" => float!(opcode, |x| x.sqrt()),
        "rsqrt" => match (opcode.kind, opcode.has("ftz")) {
            ("f32", true) => row!(|x: f32| -> f32 { flush((1.0 / f64::from(flush(x)).sqrt()) as f32) }),
            ("f32", _) => row!(|x: f32| -> f32 { (1.0 / f64::from(x).sqrt()) as f32 }),
            _ => row!(|x: f64| -> f64 { 1.0 / x.sqrt() }),
        },
        "ex2" => float!(opcode, |x| x.exp2()),
        "lg2" => float!(opcode, |x| x.log2()),
        "sin" => float!(opcode, |x| x.sin()),
        "cos" => float!(opcode, |x| x.cos()),
        "tanh" => float!(opcode, |x| x.tanh()),
        "copysign" => match opcode.kind {
            "f64" => row!(|x: f64, y: f64| -> f64 { y.copysign(x) }),
            _ => row!(|x: f32, y: f32| -> f32 { y.copysign(x) }),
        },
        _ => return Ok(None),
    }))
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 || x.is_nan() { x } else { 0.0 }
}

fn directed(opcode: &Opcode) -> Result<RowOperation> {
    if opcode.kind != "f32" || opcode.has("ftz") {
        return opcode.unknown();
    }
    Ok(match opcode.base {
        "add" => directed!(opcode, |x, y| x + y, |near| lacks(f64::from(x), f64::from(y), near)),
        "sub" => directed!(opcode, |x, y| x - y, |near| lacks(f64::from(x), -f64::from(y), near)),
        "mul" => directed!(opcode, |x, y| x * y, |near| lacks(f64::from(x) * f64::from(y), 0.0, near)),
        "fma" | "mad" => {
            directed!(opcode, |x, y, z| x.mul_add(y, z), |near| lacks(f64::from(x) * f64::from(y), f64::from(z), near))
        }
        // The remainder x - near * y is exact, and lacks the sign of y.
        "div" => directed!(opcode, |x, y| x / y, |near: f32| quotient(f64::from(x), f64::from(y), near)),
        "rcp" => directed!(opcode, |x| 1.0 / x, |near: f32| quotient(1.0, f64::from(x), near)),
        "sqrt" => directed!(opcode, |x| x.sqrt(), |near: f32| f64::from(x) - f64::from(near) * f64::from(near)),
        _ => return opcode.unknown(),
    })
}

#[inline(always)]
fn quotient(x: f64, y: f64, near: f32) -> f64 {
    if near.is_finite() { (x - f64::from(near) * y) * y.signum() } else { 0.0 }
}

/// `.sat`: to [0, 1], NaN to 0, behind the operation.
pub(super) fn saturate(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    let operation = match opcode.kind {
        "f32" => row!(|x: f32| -> f32 { if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) } }),
        "f16" => row!(|x: f16| -> f16 { if x.is_nan() { f16::ZERO } else { x.max(f16::ZERO).min(f16::ONE) } }),
        "s32" => return Ok(()),
        _ => return opcode.unknown(),
    };
    let Some(target) = operands.first() else { return opcode.unknown() };
    let target = decoder.result(Class::Narrow, target, false)?;
    decoder.emit(Operation::Rows(operation.function), &[target], &[target]);
    Ok(())
}

/// A comparison for each type.
macro_rules! compare {
    ($opcode:expr, |$x:ident, $y:ident| $body:expr) => {
        match ($opcode.kind, $opcode.has("ftz")) {
            ("f32", false) => row!(|$x: f32, $y: f32| -> bool { $body }),
            ("f32", true) => row!(|$x: f32, $y: f32| -> bool {
                let ($x, $y) = (flush($x), flush($y));
                $body
            }),
            ("f64", _) => row!(|$x: f64, $y: f64| -> bool { $body }),
            ("f16", _) => row!(|$x: f16, $y: f16| -> bool {
                let ($x, $y) = ($x.to_f32(), $y.to_f32());
                $body
            }),
            ("bf16", _) => row!(|$x: bf16, $y: bf16| -> bool {
                let ($x, $y) = ($x.to_f32(), $y.to_f32());
                $body
            }),
            _ => return $opcode.unknown(),
        }
    };
}

/// Comparison of floats, ordered and unordered (PTX ISA, "Floating Point Comparisons").
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "an unordered comparison is the negation of an ordered one")]
pub(super) fn comparison(opcode: &Opcode, compare: &str) -> Result<RowOperation> {
    Ok(match compare {
        "eq" => compare!(opcode, |x, y| x == y),
        "ne" => compare!(opcode, |x, y| !x.is_nan() && !y.is_nan() && x != y),
        "lt" => compare!(opcode, |x, y| x < y),
        "le" => compare!(opcode, |x, y| x <= y),
        "gt" => compare!(opcode, |x, y| x > y),
        "ge" => compare!(opcode, |x, y| x >= y),
        "equ" => compare!(opcode, |x, y| x.is_nan() || y.is_nan() || x == y),
        "neu" => compare!(opcode, |x, y| x != y),
        "ltu" => compare!(opcode, |x, y| !(x >= y)),
        "leu" => compare!(opcode, |x, y| !(x > y)),
        "gtu" => compare!(opcode, |x, y| !(x <= y)),
        "geu" => compare!(opcode, |x, y| !(x < y)),
        "num" => compare!(opcode, |x, y| !x.is_nan() && !y.is_nan()),
        "nan" => compare!(opcode, |x, y| x.is_nan() || y.is_nan()),
        _ => return opcode.unknown(),
    })
}

/// `testp`
pub(super) fn test(opcode: &Opcode) -> Result<RowOperation> {
    let Some(property) = opcode.parts.first() else { return opcode.unknown() };
    macro_rules! property {
        (|$x:ident| $body:expr) => {
            if opcode.kind == "f64" { row!(|$x: f64| -> bool { $body }) } else { row!(|$x: f32| -> bool { $body }) }
        };
    }
    Ok(match *property {
        "finite" => property!(|x| x.is_finite()),
        "infinite" => property!(|x| x.is_infinite()),
        "number" => property!(|x| !x.is_nan()),
        "notanumber" => property!(|x| x.is_nan()),
        "normal" => property!(|x| x.is_normal()),
        "subnormal" => property!(|x| x.is_subnormal()),
        _ => return opcode.unknown(),
    })
}
