//! Moves between registers, packing, selection and `setp` (PTX ISA, "mov", "selp", "setp", "set").

use super::{Decoder, Opcode, Result, floats, integers};
use crate::instruction::Operation;
use crate::rows::row;
use crate::syntax::{Class, Operand};

fn is_float(kind: &str) -> bool {
    kind.contains('f')
}

pub(super) fn decode(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result<bool> {
    match (opcode.base, operands) {
        ("mov", [target, source]) => movement(decoder, opcode, target, source)?,
        ("selp", _) => {
            let operation = match opcode.kind {
                "pred" => row!(|x: bool, y: bool, p: bool| -> bool { if p { x } else { y } }),
                "b64" | "u64" | "s64" | "f64" => row!(|x: u64, y: u64, p: bool| -> u64 { if p { x } else { y } }),
                _ => row!(|x: u32, y: u32, p: bool| -> u32 { if p { x } else { y } }),
            };
            decoder.compute(operation, operands, false)?;
        }
        ("slct", _) => {
            let operation = match (opcode.parts.first().copied().unwrap_or(""), opcode.kind) {
                ("b64" | "u64" | "s64" | "f64", "s32") => {
                    row!(|x: u64, y: u64, c: i32| -> u64 { if c >= 0 { x } else { y } })
                }
                ("b64" | "u64" | "s64" | "f64", _) => {
                    row!(|x: u64, y: u64, c: f32| -> u64 { if c >= 0.0 { x } else { y } })
                }
                (_, "s32") => row!(|x: u32, y: u32, c: i32| -> u32 { if c >= 0 { x } else { y } }),
                _ => row!(|x: u32, y: u32, c: f32| -> u32 { if c >= 0.0 { x } else { y } }),
            };
            decoder.compute(operation, operands, false)?;
        }
        ("testp", _) => decoder.compute(floats::test(opcode)?, operands, false)?,
        ("setp", [targets, a, b, rest @ ..]) => set_predicates(decoder, opcode, targets, [a, b], rest.first())?,
        ("set", [target, a, b]) => {
            let flag = compare(decoder, opcode, a, b)?;
            let operation = match opcode.parts.iter().rev().nth(1).copied().unwrap_or("") {
                "f32" => row!(|p: bool| -> f32 { if p { 1.0 } else { 0.0 } }),
                _ => row!(|p: bool| -> u32 { if p { u32::MAX } else { 0 } }),
            };
            let target = decoder.result(Class::Narrow, target, false)?;
            decoder.emit(Operation::Rows(operation.function), &[target], &[flag]);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The comparison of a `setp` or `set`, in a temporary.
fn compare(decoder: &mut Decoder, opcode: &Opcode, a: &Operand, b: &Operand) -> Result<u32> {
    let name = opcode.parts.first().copied().unwrap_or("");
    let operation =
        if is_float(opcode.kind) { floats::comparison(opcode, name)? } else { integers::comparison(opcode, name)? };
    let (a, b) = (decoder.source(operation.sources[0], a)?, decoder.source(operation.sources[1], b)?);
    Ok(decoder.helper(operation, &[a, b]))
}

/// `setp.CMP[.BOOL].type p|q, a, b, c`: p is (a CMP b) BOOL c, and q (not (a CMP b)) BOOL c.
fn set_predicates(
    decoder: &mut Decoder,
    opcode: &Opcode,
    targets: &Operand,
    [a, b]: [&Operand; 2],
    c: Option<&Operand>,
) -> Result {
    let combine = match opcode.which(&["and", "or", "xor"]) {
        Some("and") => Some(row!(|x: bool, c: bool| -> bool { x & c })),
        Some("or") => Some(row!(|x: bool, c: bool| -> bool { x | c })),
        Some(_) => Some(row!(|x: bool, c: bool| -> bool { x ^ c })),
        None => None,
    };
    let name = opcode.parts.first().copied().unwrap_or("");
    if let (Operand::Register(_), None) = (targets, combine) {
        // The common case, in one step.
        let operation =
            if is_float(opcode.kind) { floats::comparison(opcode, name)? } else { integers::comparison(opcode, name)? };
        return decoder.compute(operation, &[targets.clone(), a.clone(), b.clone()], false);
    }
    let flag = compare(decoder, opcode, a, b)?;
    let (first, second) = match targets {
        Operand::Pair(first, second) => (&**first, Some(&**second)),
        other => (other, None),
    };
    let c = match c {
        Some(c) => Some(decoder.predicate(c)?),
        None => None,
    };
    let mut results = Vec::new();
    for (target, inverted) in [(Some(first), false), (second, true)] {
        let Some(target) = target else { continue };
        let invert = row!(|x: bool| -> bool { !x });
        let mut value = if inverted { decoder.helper(invert, &[flag]) } else { flag };
        if let (Some(combine), Some(c)) = (combine, c) {
            value = decoder.helper(combine, &[value, c]);
        }
        results.push((decoder.result(Class::Predicate, target, false)?, value));
    }
    for (target, value) in results {
        decoder.emit(Operation::Rows(row!(|x: bool| -> bool { x }).function), &[target], &[value]);
    }
    Ok(())
}

fn movement(decoder: &mut Decoder, opcode: &Opcode, target: &Operand, source: &Operand) -> Result {
    match (target, source) {
        (Operand::Vector(parts), source) => unpack(decoder, opcode, parts, source),
        (target, Operand::Vector(parts)) => pack(decoder, opcode, target, parts),
        (target, source) => {
            let operation = match target {
                Operand::Register(register) => match register.class {
                    Class::Predicate => row!(|x: bool| -> bool { x }),
                    Class::Narrow => row!(|x: u32| -> u32 { x }),
                    Class::Wide => row!(|x: u64| -> u64 { x }),
                },
                other => return Err(format!("{other:?} cannot hold a result")),
            };
            decoder.compute(operation, &[target.clone(), source.clone()], false)?;
            if let Some(last) = decoder.code.instructions.last_mut() {
                last.is_move = matches!(source, Operand::Register(_));
            }
            Ok(())
        }
    }
}

/// `mov.b64 {a, b}, x`: the low part first.
fn unpack(decoder: &mut Decoder, opcode: &Opcode, parts: &[Operand], source: &Operand) -> Result {
    let class = if opcode.kind == "b64" { Class::Wide } else { Class::Narrow };
    let source = decoder.source(class, source)?;
    for (place, part) in parts.iter().enumerate() {
        if *part == Operand::Sink {
            continue;
        }
        let operation = match (opcode.kind, parts.len(), place) {
            ("b64", 2, 0) => row!(|x: u64| -> u32 { x as u32 }),
            ("b64", 2, 1) => row!(|x: u64| -> u32 { (x >> 32) as u32 }),
            ("b64", 4, 0) => row!(|x: u64| -> u16 { x as u16 }),
            ("b64", 4, 1) => row!(|x: u64| -> u16 { (x >> 16) as u16 }),
            ("b64", 4, 2) => row!(|x: u64| -> u16 { (x >> 32) as u16 }),
            ("b64", 4, 3) => row!(|x: u64| -> u16 { (x >> 48) as u16 }),
            ("b32", 2, 0) => row!(|x: u32| -> u16 { x as u16 }),
            ("b32", 2, 1) => row!(|x: u32| -> u16 { (x >> 16) as u16 }),
            ("b32", 4, 0) => row!(|x: u32| -> u8 { x as u8 }),
            ("b32", 4, 1) => row!(|x: u32| -> u8 { (x >> 8) as u8 }),
            ("b32", 4, 2) => row!(|x: u32| -> u8 { (x >> 16) as u8 }),
            ("b32", 4, 3) => row!(|x: u32| -> u8 { (x >> 24) as u8 }),
            ("b16", 2, 0) => row!(|x: u16| -> u8 { x as u8 }),
            ("b16", 2, 1) => row!(|x: u16| -> u8 { (x >> 8) as u8 }),
            _ => return opcode.unknown(),
        };
        let target = decoder.result(Class::Narrow, part, false)?;
        decoder.emit(Operation::Rows(operation.function), &[target], &[source]);
    }
    Ok(())
}

/// `mov.b64 x, {a, b}`
fn pack(decoder: &mut Decoder, opcode: &Opcode, target: &Operand, parts: &[Operand]) -> Result {
    let operation = match (opcode.kind, parts.len()) {
        ("b64", 2) => row!(|a: u32, b: u32| -> u64 { u64::from(b) << 32 | u64::from(a) }),
        ("b64", 4) => row!(|a: u16, b: u16, c: u16, d: u16| -> u64 {
            u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
        }),
        ("b32", 2) => row!(|a: u16, b: u16| -> u32 { u32::from(b) << 16 | u32::from(a) }),
        ("b32", 4) => row!(|a: u8, b: u8, c: u8, d: u8| -> u32 { u32::from_le_bytes([a, b, c, d]) }),
        ("b16", 2) => row!(|a: u8, b: u8| -> u16 { u16::from_le_bytes([a, b]) }),
        _ => return opcode.unknown(),
    };
    let mut operands = vec![target.clone()];
    operands.extend(parts.iter().cloned());
    decoder.compute(operation, &operands, false)
}
