//! Matrix instructions (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions", "Asynchronous Warpgroup Level Matrix
//! Multiply-Accumulate Instructions").

use super::{Decoder, Opcode, Result};
use crate::instruction::{Element, NONE, Operation, Wgmma};
use crate::syntax::Operand;

pub(super) fn decode(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result<bool> {
    match (opcode.base, operands) {
        ("ldmatrix", [targets, address]) if opcode.kind == "b16" && opcode.has("m8n8") => {
            let (base, address) = decoder.address(address)?;
            let targets = decoder.narrow_all(targets)?;
            check_count(targets.len())?;
            let operation =
                Operation::LoadMatrix { transpose: opcode.has("trans"), count: targets.len() as u8, address };
            decoder.emit(operation, &targets, &[base]);
        }
        ("stmatrix", [address, sources]) if opcode.kind == "b16" && opcode.has("m8n8") => {
            let (base, address) = decoder.address(address)?;
            let mut registers = vec![base];
            registers.extend(decoder.narrow_all(sources)?);
            check_count(registers.len() - 1)?;
            let operation = Operation::StoreMatrix { transpose: opcode.has("trans"), address };
            decoder.emit(operation, &[], &registers);
        }
        ("mma", [d, a, b, c]) => mma(decoder, opcode, [d, a, b, c])?,
        ("wgmma", _) if opcode.has("fence") => {
            decoder.emit(Operation::WgmmaFence, &[], &[]);
        }
        ("wgmma", _) if opcode.has("commit_group") => {
            decoder.emit(Operation::WgmmaCommit, &[], &[]);
        }
        ("wgmma", [Operand::Integer(pending)]) if opcode.has("wait_group") => {
            decoder.emit(Operation::WgmmaWait(*pending as u32), &[], &[]);
        }
        ("wgmma", _) if opcode.has("mma_async") && !opcode.has("sp") => wgmma(decoder, opcode, operands)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// `ldmatrix` and `stmatrix` move 1, 2 or 4 matrices.
fn check_count(count: usize) -> Result {
    if matches!(count, 1 | 2 | 4) { Ok(()) } else { Err(format!("{count} matrices")) }
}

fn element(kind: &str) -> Option<Element> {
    Some(match kind {
        "bf16" => Element::Bf16,
        "f16" => Element::F16,
        "tf32" => Element::Tf32,
        _ => return None,
    })
}

/// `mma.sync.aligned.m16n8kK.row.col.d.a.b.c`
fn mma(decoder: &mut Decoder, opcode: &Opcode, [d, a, b, c]: [&Operand; 4]) -> Result {
    let [.., result, of_a, of_b, sum] = opcode.parts[..] else { return opcode.unknown() };
    let shape = opcode.which(&["m16n8k4", "m16n8k8", "m16n8k16"]);
    let (Some(shape), Some(element), true) = (shape, element(of_a), of_a == of_b) else { return opcode.unknown() };
    if result != sum || !matches!(result, "f32" | "f16") || !opcode.has("row") || !opcode.has("col") {
        return opcode.unknown();
    }
    let k: u8 = shape["m16n8k".len()..].parse().map_err(|_| shape.to_owned())?;
    let half_sums = result == "f16";
    let (a, b, c) = (decoder.narrow_all(a)?, decoder.narrow_all(b)?, decoder.narrow_all(c)?);
    let d = decoder.narrow_all(d)?;
    let words = if element == Element::Tf32 { k / 4 } else { k / 8 } as usize;
    let sums = if half_sums { 2 } else { 4 };
    if (d.len(), a.len(), b.len(), c.len()) != (sums, 2 * words, words, sums) {
        return Err("the fragments do not have the sizes of this shape".into());
    }
    let sources: Vec<u32> = a.into_iter().chain(b).chain(c).collect();
    decoder.emit(Operation::Mma { k, element, half_sums }, &d, &sources);
    Ok(())
}

/// `wgmma.mma_async.sync.aligned.m64nNk16.d.a.b d, a, b, scale-d, scale-a, scale-b[, trans-a, trans-b]`
fn wgmma(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    let [.., result, of_a, of_b] = opcode.parts[..] else { return opcode.unknown() };
    let shape = opcode.parts.iter().find_map(|part| part.strip_prefix("m64n"));
    let sizes = shape.and_then(|shape| {
        let (n, k) = shape.split_once('k')?;
        Some((n.parse::<usize>().ok()?, k.parse::<usize>().ok()?))
    });
    let (Some((n, k)), Some(element), true) = (sizes, element(of_a), of_a == of_b) else { return opcode.unknown() };
    let half_sums = result == "f16";
    if !n.is_multiple_of(8) || !(8..=256).contains(&n) || k != 16 || element == Element::Tf32 || result == "s32" {
        return opcode.unknown();
    }
    let [d, a, b, scale_d, numbers @ ..] = operands else { return opcode.unknown() };
    let numbers = numbers
        .iter()
        .map(|operand| match operand {
            Operand::Integer(value) => Ok(*value as i64),
            other => Err(format!("{other:?} where a number is wanted")),
        })
        .collect::<Result<Vec<i64>>>()?;
    let from_registers = matches!(a, Operand::Vector(_));
    let (signs, transpose) = match (from_registers, &numbers[..]) {
        (true, [a, b]) => ([*a, *b], [false, false]),
        (true, [a, b, transpose]) => ([*a, *b], [false, *transpose != 0]),
        (false, [a, b]) => ([*a, *b], [false, false]),
        (false, [a, b, first, second]) => ([*a, *b], [*first != 0, *second != 0]),
        _ => return Err(format!("{} numbers behind scale-d", numbers.len())),
    };
    if signs.iter().any(|sign| sign.abs() != 1) {
        return Err("a scale that is neither 1 nor -1".into());
    }
    let accumulators = decoder.narrow_all(d)?;
    if accumulators.len() != if half_sums { n / 4 } else { n / 2 } {
        return Err(format!("{} accumulators for n = {n}", accumulators.len()));
    }
    let (a, descriptor) = match a {
        Operand::Vector(_) => (decoder.narrow_all(a)?, NONE),
        other => (Vec::new(), decoder.wide(other)?),
    };
    if from_registers && a.len() != 4 {
        return Err(format!("{} registers of A", a.len()));
    }
    let b = decoder.wide(b)?;
    let (scale, negate_scale) = match scale_d {
        Operand::Not(register) => (decoder.register(*register), true),
        other => (decoder.predicate(other)?, false),
    };
    let mut sources = a;
    sources.extend([descriptor, b, scale]);
    let sign = (signs[0] * signs[1]) as f32;
    let wgmma = Wgmma { n, element, half_sums, from_registers, negate_scale, sign, transpose };
    decoder.emit(Operation::Wgmma(Box::new(wgmma)), &accumulators, &sources).updates = true;
    Ok(())
}
