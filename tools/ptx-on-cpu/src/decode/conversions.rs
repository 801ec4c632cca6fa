//! `cvt`, `cvta`, `isspacep` (PTX ISA, "Data Movement and Conversion Instructions").

use half::{bf16, f16};

use super::floats::{flush, to_bf16, toward_zero};
use super::{Decoder, Opcode, Result};
use crate::memory::window;
use crate::rows::{RowOperation, row};
use crate::syntax::{Operand, Space};

/// A row function from any of the number types, `$x` as it is.
macro_rules! from_any {
    ($opcode:expr, $from:expr, $to:ty, |$x:ident| $body:expr) => {
        match $from {
            "u8" => row!(|$x: u8| -> $to { $body }),
            "s8" => row!(|$x: i8| -> $to { $body }),
            "u16" => row!(|$x: u16| -> $to { $body }),
            "s16" => row!(|$x: i16| -> $to { $body }),
            "u32" => row!(|$x: u32| -> $to { $body }),
            "s32" => row!(|$x: i32| -> $to { $body }),
            "u64" => row!(|$x: u64| -> $to { $body }),
            "s64" => row!(|$x: i64| -> $to { $body }),
            _ => return $opcode.unknown(),
        }
    };
}

/// Float to integer: rounded as the opcode says, then kept within the type; NaN is 0 (PTX ISA, "cvt").
macro_rules! to_integer {
    ($opcode:expr, $from:ty, |$x:ident| $wide:expr) => {{
        macro_rules! rounded {
            ($type:ty) => {
                match $opcode.which(&["rni", "rzi", "rmi", "rpi"]) {
                    Some("rni") => row!(|$x: $from| -> $type { ($wide).round_ties_even() as $type }),
                    Some("rmi") => row!(|$x: $from| -> $type { ($wide).floor() as $type }),
                    Some("rpi") => row!(|$x: $from| -> $type { ($wide).ceil() as $type }),
                    _ => row!(|$x: $from| -> $type { ($wide) as $type }),
                }
            };
        }
        match $opcode.parts[$opcode.parts.len() - 2] {
            "u8" => rounded!(u8),
            "s8" => rounded!(i8),
            "u16" => rounded!(u16),
            "s16" => rounded!(i16),
            "u32" => rounded!(u32),
            "s32" => rounded!(i32),
            "u64" => rounded!(u64),
            "s64" => rounded!(i64),
            _ => return $opcode.unknown(),
        }
    }};
}

fn is_integer(kind: &str) -> bool {
    matches!(kind, "u8" | "s8" | "u16" | "s16" | "u32" | "s32" | "u64" | "s64")
}

/// Between integers: extended by the source's sign, cut to the target; kept within it with `.sat`.
fn integers(opcode: &Opcode, to: &str, from: &str) -> Result<RowOperation> {
    macro_rules! target {
        ($type:ty) => {
            if opcode.has("sat") {
                from_any!(opcode, from, $type, |x| {
                    (x as i128).clamp(<$type>::MIN as i128, <$type>::MAX as i128) as $type
                })
            } else {
                from_any!(opcode, from, $type, |x| x as $type)
            }
        };
    }
    Ok(match to {
        "u8" => target!(u8),
        "s8" => target!(i8),
        "u16" => target!(u16),
        "s16" => target!(i16),
        "u32" => target!(u32),
        "s32" => target!(i32),
        "u64" => target!(u64),
        "s64" => target!(i64),
        _ => return opcode.unknown(),
    })
}

/// f64 to f32 with a direction.
fn narrowed(x: f64, direction: u8) -> f32 {
    let near = x as f32;
    if !near.is_finite() {
        return near;
    }
    let lacks = x - f64::from(near);
    match direction {
        0 => toward_zero(near, lacks),
        1 if lacks < 0.0 => near.next_down(),
        2 if lacks > 0.0 => near.next_up(),
        _ => near,
    }
}

/// From one float type to another, or to the same rounded to an integer.
fn floats(opcode: &Opcode, to: &str, from: &str) -> Result<RowOperation> {
    let ftz = opcode.has("ftz");
    let rounding = opcode.which(&["rni", "rzi", "rmi", "rpi"]);
    if opcode.has("relu") || opcode.has("rs") || opcode.has("satfinite") {
        return opcode.unknown();
    }
    Ok(match (to, from) {
        ("f32", "f32") if opcode.has("sat") => {
            row!(|x: f32| -> f32 { if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) } })
        }
        ("f32", "f32") => match rounding {
            Some("rni") => row!(|x: f32| -> f32 { x.round_ties_even() }),
            Some("rzi") => row!(|x: f32| -> f32 { x.trunc() }),
            Some("rmi") => row!(|x: f32| -> f32 { x.floor() }),
            Some("rpi") => row!(|x: f32| -> f32 { x.ceil() }),
            _ if ftz => row!(|x: f32| -> f32 { flush(x) }),
            _ => row!(|x: f32| -> f32 { x }),
        },
        ("f64", "f64") => match rounding {
            Some("rni") => row!(|x: f64| -> f64 { x.round_ties_even() }),
            Some("rzi") => row!(|x: f64| -> f64 { x.trunc() }),
            Some("rmi") => row!(|x: f64| -> f64 { x.floor() }),
            Some("rpi") => row!(|x: f64| -> f64 { x.ceil() }),
            _ => row!(|x: f64| -> f64 { x }),
        },
        ("f64", "f32") => row!(|x: f32| -> f64 { f64::from(x) }),
        ("f32", "f64") => match opcode.which(&["rz", "rm", "rp"]) {
            Some("rz") => row!(|x: f64| -> f32 { narrowed(x, 0) }),
            Some("rm") => row!(|x: f64| -> f32 { narrowed(x, 1) }),
            Some("rp") => row!(|x: f64| -> f32 { narrowed(x, 2) }),
            _ => row!(|x: f64| -> f32 { x as f32 }),
        },
        ("f32", "f16") => row!(|x: f16| -> f32 { x.to_f32() }),
        ("f32", "bf16") => row!(|x: bf16| -> f32 { x.to_f32() }),
        ("f64", "f16") => row!(|x: f16| -> f64 { x.to_f64() }),
        ("f64", "bf16") => row!(|x: bf16| -> f64 { x.to_f64() }),
        ("f16", "f64") => row!(|x: f64| -> f16 { f16::from_f64(x) }),
        ("f16", "f32") if opcode.has("rz") => row!(|x: f32| -> f16 { half_toward_zero(x) }),
        ("f16", "f32") => row!(|x: f32| -> f16 { f16::from_f32(x) }),
        ("bf16", "f32") if opcode.has("rz") => row!(|x: f32| -> bf16 { brain_toward_zero(x) }),
        ("bf16", "f32") => row!(|x: f32| -> bf16 { to_bf16(x) }),
        ("f16", "f16") => match rounding {
            Some("rni") => row!(|x: f16| -> f16 { f16::from_f32(x.to_f32().round_ties_even()) }),
            Some("rzi") => row!(|x: f16| -> f16 { f16::from_f32(x.to_f32().trunc()) }),
            Some("rmi") => row!(|x: f16| -> f16 { f16::from_f32(x.to_f32().floor()) }),
            Some("rpi") => row!(|x: f16| -> f16 { f16::from_f32(x.to_f32().ceil()) }),
            _ => row!(|x: f16| -> f16 { x }),
        },
        // Kept in the upper 19 bits; `rna` rounds halves away from zero.
        ("tf32", "f32") if opcode.has("rna") => {
            row!(|x: u32| -> u32 { if f32::from_bits(x).is_finite() { x.wrapping_add(0x1000) & !0x1fff } else { x } })
        }
        ("tf32", "f32") if opcode.has("rn") => row!(|x: u32| -> u32 {
            if f32::from_bits(x).is_finite() { x.wrapping_add(0xfff + (x >> 13 & 1)) & !0x1fff } else { x }
        }),
        _ => return opcode.unknown(),
    })
}

fn half_toward_zero(x: f32) -> f16 {
    let near = f16::from_f32(x);
    // Bits of the same sign count up with the magnitude.
    if near.to_f32().abs() > x.abs() { f16::from_bits(near.to_bits() - 1) } else { near }
}

fn brain_toward_zero(x: f32) -> bf16 {
    if x.is_nan() { bf16::from_bits(0x7fff) } else { bf16::from_bits((x.to_bits() >> 16) as u16) }
}

/// Two f32 to a pair, the first one above.
fn pair(opcode: &Opcode) -> Result<RowOperation> {
    let relu = opcode.has("relu");
    Ok(match (opcode.parts[opcode.parts.len() - 2], opcode.has("rz"), relu) {
        ("bf16x2", false, false) => row!(|high: f32, low: f32| -> [bf16; 2] { [to_bf16(low), to_bf16(high)] }),
        ("bf16x2", true, false) => {
            row!(|high: f32, low: f32| -> [bf16; 2] { [brain_toward_zero(low), brain_toward_zero(high)] })
        }
        ("bf16x2", false, true) => row!(|high: f32, low: f32| -> [bf16; 2] {
            let relu = |x: f32| if x > 0.0 || x.is_nan() { x } else { 0.0 };
            [to_bf16(relu(low)), to_bf16(relu(high))]
        }),
        ("f16x2", false, false) => {
            row!(|high: f32, low: f32| -> [f16; 2] { [f16::from_f32(low), f16::from_f32(high)] })
        }
        ("f16x2", true, false) => {
            row!(|high: f32, low: f32| -> [f16; 2] { [half_toward_zero(low), half_toward_zero(high)] })
        }
        ("f16x2", false, true) => row!(|high: f32, low: f32| -> [f16; 2] {
            let relu = |x: f32| if x > 0.0 || x.is_nan() { x } else { 0.0 };
            [f16::from_f32(relu(low)), f16::from_f32(relu(high))]
        }),
        _ => return opcode.unknown(),
    })
}

fn conversion(opcode: &Opcode, operands: &[Operand]) -> Result<RowOperation> {
    let &[.., to, from] = &opcode.parts[..] else { return opcode.unknown() };
    if operands.len() == 3 {
        return pair(opcode);
    }
    if is_integer(to) && is_integer(from) {
        return integers(opcode, to, from);
    }
    if is_integer(to) {
        return Ok(match from {
            "f32" if opcode.has("ftz") => to_integer!(opcode, f32, |x| flush(x)),
            "f32" => to_integer!(opcode, f32, |x| x),
            "f64" => to_integer!(opcode, f64, |x| x),
            "f16" => to_integer!(opcode, f16, |x| x.to_f32()),
            "bf16" => to_integer!(opcode, bf16, |x| x.to_f32()),
            _ => return opcode.unknown(),
        });
    }
    if !is_integer(from) {
        return floats(opcode, to, from);
    }
    let direction = opcode.which(&["rz", "rm", "rp"]);
    Ok(match (to, direction) {
        ("f32", None) => from_any!(opcode, from, f32, |x| x as f32),
        // 64 bits do not fit f64: the exact comparison is of integers.
        ("f32", Some("rz")) => from_any!(opcode, from, f32, |x| {
            let near = x as f32;
            toward_zero(near, ((x as i128) - (near as i128)) as f64)
        }),
        ("f32", Some("rm")) => from_any!(opcode, from, f32, |x| {
            let near = x as f32;
            if (near as i128) > (x as i128) { near.next_down() } else { near }
        }),
        ("f32", Some("rp")) => from_any!(opcode, from, f32, |x| {
            let near = x as f32;
            if (near as i128) < (x as i128) { near.next_up() } else { near }
        }),
        ("f64", None) => from_any!(opcode, from, f64, |x| x as f64),
        // Through f64, which holds what an f16 can.
        ("f16", None) => from_any!(opcode, from, f16, |x| f16::from_f64(x as f64)),
        ("bf16", None) => from_any!(opcode, from, bf16, |x| to_bf16(x as f32)),
        _ => return opcode.unknown(),
    })
}

/// Between the generic window of a state space and the space's own addresses.
fn address(opcode: &Opcode) -> RowOperation {
    match (opcode.space(), opcode.has("to"), opcode.kind) {
        (Space::Shared, false, _) => row!(|x: u64| -> u64 { x & 0xffff_ffff | window::SHARED }),
        (Space::Param, false, _) => row!(|x: u64| -> u64 { x & 0xffff_ffff | window::PARAM }),
        (Space::Local, false, _) => row!(|x: u64| -> u64 { x & 0xffff_ffff | window::LOCAL }),
        (Space::Shared | Space::Param | Space::Local, true, _) => row!(|x: u64| -> u64 { x & 0xffff_ffff }),
        _ => row!(|x: u64| -> u64 { x }),
    }
}

fn is_in(space: Space) -> RowOperation {
    match space {
        Space::Shared => row!(|x: u64| -> bool { x >> 32 == window::SHARED >> 32 }),
        Space::Param => row!(|x: u64| -> bool { x >> 32 == window::PARAM >> 32 }),
        Space::Local => row!(|x: u64| -> bool { x >> 32 == window::LOCAL >> 32 }),
        _ => row!(|x: u64| -> bool { !(window::SHARED >> 32..=window::LOCAL >> 32).contains(&(x >> 32)) }),
    }
}

pub(super) fn decode(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result<bool> {
    match opcode.base {
        "cvt" if !opcode.has("pack") => {
            let operation = conversion(opcode, operands)?;
            let signed = opcode.parts.iter().rev().nth(1).is_some_and(|to| to.starts_with('s'));
            decoder.compute(operation, operands, signed)?;
        }
        "cvta" => decoder.compute(address(opcode), operands, false)?,
        "isspacep" => decoder.compute(is_in(opcode.space()), operands, false)?,
        _ => return Ok(false),
    }
    Ok(true)
}
