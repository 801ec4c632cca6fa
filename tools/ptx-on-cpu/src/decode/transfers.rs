//! Loads, stores, atomics and copies (PTX ISA, "Data Movement and Conversion Instructions", "Parallel Synchronization and
//! Communication Instructions").

use super::{Decoder, Opcode, Result};
use crate::instruction::{Atomic, MapField, NONE, Number, Operation, Reduction};
use crate::syntax::{Class, Operand, Space};

/// Bytes of an element, from its type.
fn element_bytes(opcode: &Opcode) -> Result<u8> {
    let digits = opcode.kind.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    match opcode.kind {
        "f16x2" | "bf16x2" => Ok(4),
        _ => match digits {
            "8" => Ok(1),
            "16" => Ok(2),
            "32" => Ok(4),
            "64" => Ok(8),
            _ => opcode.unknown(),
        },
    }
}

/// Accesses that may be used to synchronise (PTX ISA, "Strong operations").
fn is_strong(opcode: &Opcode) -> bool {
    opcode.which(&["volatile", "relaxed", "acquire", "release"]).is_some()
}

/// Vectors have 2, 4 or 8 elements, as their opcode says.
fn check_vector(opcode: &Opcode, elements: &[Operand]) -> Result {
    let wanted = match opcode.which(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    };
    if elements.len() == wanted {
        Ok(())
    } else {
        Err(format!("{} elements, where {wanted} are wanted", elements.len()))
    }
}

fn class_of(operands: &[Operand], bytes: u8) -> Class {
    let register = operands.iter().find_map(|operand| match operand {
        Operand::Register(register) => Some(register.class),
        _ => None,
    });
    register.unwrap_or(if bytes == 8 { Class::Wide } else { Class::Narrow })
}

/// Parameters of calls and variables of device functions are local memory here.
fn space_of(decoder: &Decoder, opcode: &Opcode, address: &Operand) -> Space {
    match (opcode.space(), address) {
        (Space::Param, Operand::Address(base, _)) => match &**base {
            Operand::Symbol(name, _) => decoder.layout.symbols.get(name).map_or(Space::Param, |symbol| symbol.0),
            _ => Space::Param,
        },
        (space, _) => space,
    }
}

pub(super) fn decode(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result<bool> {
    match (opcode.base, operands) {
        ("ld" | "ldu", [targets, address, ..]) => load(decoder, opcode, targets, address)?,
        ("st", [address, sources, ..]) => store(decoder, opcode, address, sources)?,
        ("atom" | "red", _) if !opcode.has("async") => atomic(decoder, opcode, operands)?,
        ("prefetch" | "prefetchu" | "applypriority" | "discard" | "createpolicy", _) => {
            decoder.emit(Operation::Nothing, &[], &[]);
        }
        ("cp", _) if opcode.has("bulk") => bulk(decoder, opcode, operands)?,
        ("cp", _) if opcode.has("async") => copy_async(decoder, opcode, operands)?,
        ("tensormap", _) => tensor_map(decoder, opcode, operands)?,
        ("mapa", [target, address, rank]) => {
            let wide = opcode.kind == "u64";
            let class = if wide { Class::Wide } else { Class::Narrow };
            let (address, rank) = (decoder.source(class, address)?, decoder.narrow(rank)?);
            let target = decoder.result(class, target, false)?;
            decoder.emit(Operation::MapShared { wide }, &[target], &[address, rank]);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn load(decoder: &mut Decoder, opcode: &Opcode, targets: &Operand, address: &Operand) -> Result {
    let bytes = element_bytes(opcode)?;
    let space = space_of(decoder, opcode, address);
    let (base, address) = decoder.address(address)?;
    let elements = decoder.elements(targets);
    check_vector(opcode, elements)?;
    let class = class_of(elements, bytes);
    if class == Class::Predicate || class == Class::Narrow && bytes == 8 {
        return opcode.unknown();
    }
    let results = elements.iter().map(|element| decoder.result(class, element, false)).collect::<Result<Vec<u32>>>()?;
    let operation = Operation::Load {
        space,
        strong: is_strong(opcode),
        bytes,
        signed: opcode.is_signed(),
        wide: class == Class::Wide,
        count: results.len() as u8,
        address,
    };
    decoder.emit(operation, &results, &[base]);
    Ok(())
}

fn store(decoder: &mut Decoder, opcode: &Opcode, address: &Operand, sources: &Operand) -> Result {
    if opcode.has("async") {
        return opcode.unknown();
    }
    let bytes = element_bytes(opcode)?;
    let space = space_of(decoder, opcode, address);
    let (base, address) = decoder.address(address)?;
    let elements = decoder.elements(sources);
    check_vector(opcode, elements)?;
    let class = class_of(elements, bytes);
    let mut registers = vec![base];
    for element in elements {
        registers.push(decoder.source(class, element)?);
    }
    let count = elements.len() as u8;
    decoder.emit(
        Operation::Store {
            space,
            strong: is_strong(opcode),
            releases: opcode.has("release"),
            bytes,
            wide: class == Class::Wide,
            count,
            address,
        },
        &[],
        &registers,
    );
    Ok(())
}

fn atomic_operation(opcode: &Opcode) -> Result<(Atomic, Number)> {
    let operation = match opcode.which(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"]) {
        Some("add") => Atomic::Add,
        Some("min") => Atomic::Min,
        Some("max") => Atomic::Max,
        Some("and") => Atomic::And,
        Some("or") => Atomic::Or,
        Some("xor") => Atomic::Xor,
        Some("exch") => Atomic::Exchange,
        Some("cas") => Atomic::CompareAndSwap,
        Some("inc") => Atomic::Increment,
        Some("dec") => Atomic::Decrement,
        _ => return opcode.unknown(),
    };
    let number = match opcode.kind {
        "f32" | "f64" => Number::Float,
        "f16" => Number::Half,
        "bf16" => Number::Brain,
        "f16x2" => Number::HalfPair,
        "bf16x2" => Number::BrainPair,
        "s32" | "s64" => Number::Signed,
        _ => Number::Unsigned,
    };
    Ok((operation, number))
}

fn atomic(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    if opcode.which(&["v2", "v4", "v8", "b128"]).is_some() {
        return opcode.unknown();
    }
    let (operation, number) = atomic_operation(opcode)?;
    let bytes = element_bytes(opcode)?;
    let class = if bytes == 8 { Class::Wide } else { Class::Narrow };
    let (target, rest) = match (opcode.base, operands) {
        ("atom", [target, rest @ ..]) => (decoder.result(class, target, false)?, rest),
        (_, rest) => (NONE, rest),
    };
    let [address, a, more @ ..] = rest else { return opcode.unknown() };
    let (base, address) = decoder.address(address)?;
    let a = decoder.source(class, a)?;
    let b = match (operation, more) {
        (Atomic::CompareAndSwap, [b, ..]) => decoder.source(class, b)?,
        (Atomic::CompareAndSwap, []) => return opcode.unknown(),
        _ => NONE,
    };
    let space = opcode.space();
    let releases = opcode.has("release") || opcode.has("acq_rel");
    let operation = Operation::Atomic { space, operation, number, bytes, address, releases };
    decoder.emit(operation, &[target], &[base, a, b]);
    Ok(())
}

fn immediate(opcode: &Opcode, operand: Option<&Operand>) -> Result<u32> {
    match operand {
        Some(Operand::Integer(value)) => Ok(*value as u32),
        _ => opcode.unknown(),
    }
}

/// `cp.async` and its groups.
fn copy_async(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    if opcode.has("mbarrier") {
        let [barrier] = operands else { return opcode.unknown() };
        let (base, address) = decoder.address(barrier)?;
        decoder.emit(Operation::CopyArrive { address, counted: !opcode.has("noinc") }, &[], &[base]);
        return Ok(());
    }
    if opcode.has("commit_group") {
        decoder.emit(Operation::CopyCommit, &[], &[]);
    } else if opcode.has("wait_group") {
        let pending = immediate(opcode, operands.first())?;
        decoder.emit(Operation::CopyWait(pending), &[], &[]);
    } else if opcode.has("wait_all") {
        decoder.emit(Operation::CopyWait(0), &[], &[]);
    } else {
        let [shared, global, bytes, rest @ ..] = operands else { return opcode.unknown() };
        let bytes = immediate(opcode, Some(bytes))?;
        if !matches!(bytes, 4 | 8 | 16) {
            return Err(format!("{bytes} bytes are no size of cp.async"));
        }
        let (to, shared) = decoder.address(shared)?;
        let (from, global) = decoder.address(global)?;
        // A cache policy comes last; what stands before it is the number of bytes to read, or a predicate to read none.
        let policy = usize::from(opcode.parts.iter().any(|part| part.ends_with("cache_hint")));
        let length = match rest.split_at(rest.len().saturating_sub(policy)).0 {
            [] => NONE,
            [Operand::Register(register), ..] if register.class == Class::Predicate => {
                let ignore = decoder.predicate(&rest[0])?;
                let (none, all) = (Operand::Integer(0), Operand::Integer(u64::from(bytes)));
                let (none, all) = (decoder.narrow(&none)?, decoder.narrow(&all)?);
                let select = crate::rows::row!(|x: u32, y: u32, p: bool| -> u32 { if p { x } else { y } });
                decoder.helper(select, &[none, all, ignore])
            }
            [length, ..] => decoder.narrow(length)?,
        };
        decoder.emit(Operation::CopyAsync { bytes, shared, global }, &[], &[to, from, length]);
    }
    Ok(())
}

/// `cp.async.bulk`, `cp.reduce.async.bulk` and their groups.
fn bulk(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    if opcode.has("commit_group") {
        decoder.emit(Operation::BulkCommit, &[], &[]);
        return Ok(());
    }
    if opcode.has("wait_group") {
        let pending = immediate(opcode, operands.first())?;
        decoder.emit(Operation::BulkWait(pending), &[], &[]);
        return Ok(());
    }
    if opcode.has("prefetch") {
        decoder.emit(Operation::Nothing, &[], &[]);
        return Ok(());
    }
    if opcode.which(&["tile::gather4", "tile::scatter4", "cp_mask"]).is_some()
        || opcode.parts.iter().any(|part| part.starts_with("im2col"))
    {
        return opcode.unknown();
    }
    let reduction = match (opcode.has("reduce"), opcode.kind) {
        (false, _) => Reduction::Copy,
        // A tensor's elements have the type of its map, of which maps here know the size only.
        (true, _) if opcode.has("tensor") => return opcode.unknown(),
        (true, "f16" | "bf16" | "b32" | "u32" | "s32" | "f32") => {
            let (operation, number) = atomic_operation(opcode)?;
            Reduction::With(operation, number)
        }
        (true, _) => return opcode.unknown(),
    };
    let multicast = opcode.parts.iter().any(|part| part.starts_with("multicast"));
    // The destination's space comes first.
    let mut spaces = opcode.parts.iter().filter(|part| **part == "global" || part.starts_with("shared"));
    let to_shared = spaces.next().is_some_and(|space| space.starts_with("shared"));
    let from_shared = spaces.next().is_some_and(|space| space.starts_with("shared"));
    if opcode.has("tensor") {
        return tensor_copy(decoder, opcode, operands, to_shared, multicast);
    }
    let [to, from, bytes, rest @ ..] = operands else { return opcode.unknown() };
    let ((to, to_address), (from, from_address)) = (decoder.address(to)?, decoder.address(from)?);
    let bytes = decoder.narrow(bytes)?;
    if !to_shared {
        decoder.emit(
            Operation::BulkStore { global: to_address, shared: from_address, reduction },
            &[],
            &[to, from, bytes],
        );
        return Ok(());
    }
    let [barrier, rest @ ..] = rest else { return opcode.unknown() };
    let (barrier, barrier_address) = decoder.address(barrier)?;
    if from_shared {
        if reduction != Reduction::Copy {
            return opcode.unknown();
        }
        let operation = Operation::BulkPeer { to: to_address, from: from_address, barrier: barrier_address };
        decoder.emit(operation, &[], &[to, from, bytes, barrier]);
        return Ok(());
    }
    let mask = match (multicast, rest) {
        (true, [mask, ..]) => decoder.narrow(mask)?,
        (true, []) => return opcode.unknown(),
        _ => NONE,
    };
    let operation = Operation::BulkLoad { shared: to_address, global: from_address, barrier: barrier_address };
    decoder.emit(operation, &[], &[to, from, bytes, barrier, mask]);
    Ok(())
}

/// `cp.async.bulk.tensor` (PTX ISA, "cp.async.bulk.tensor").
fn tensor_copy(
    decoder: &mut Decoder,
    opcode: &Opcode,
    operands: &[Operand],
    to_shared: bool,
    multicast: bool,
) -> Result {
    let map = operands.iter().find(|operand| matches!(operand, Operand::Tensor(..)));
    let Some(map @ Operand::Tensor(_, coordinates)) = map else { return opcode.unknown() };
    let rank = coordinates.len();
    if !(1..=5).contains(&rank) || !opcode.has(&format!("{rank}d")) {
        return Err(format!("{rank} coordinates"));
    }
    let places = coordinates.iter().map(|coordinate| decoder.narrow(coordinate)).collect::<Result<Vec<_>>>()?;
    let (map_base, map) = decoder.address(map)?;
    if to_shared {
        let [shared, _, barrier, rest @ ..] = operands else { return opcode.unknown() };
        let ((to, shared), (bar, barrier)) = (decoder.address(shared)?, decoder.address(barrier)?);
        let mask = match (multicast, rest) {
            (true, [mask, ..]) => decoder.narrow(mask)?,
            (true, []) => return opcode.unknown(),
            _ => NONE,
        };
        let mut registers = vec![to, map_base, bar, mask];
        registers.extend(places);
        decoder.emit(Operation::TensorLoad { shared, map, barrier }, &[], &registers);
    } else {
        let [_, shared, ..] = operands else { return opcode.unknown() };
        let (from, shared) = decoder.address(shared)?;
        let mut registers = vec![map_base, from];
        registers.extend(places);
        decoder.emit(Operation::TensorStore { map, shared }, &[], &registers);
    }
    Ok(())
}

/// Maps made by a kernel (PTX ISA, "tensormap.replace", "tensormap.cp_fenceproxy").
fn tensor_map(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    if opcode.has("cp_fenceproxy") {
        let [to, from, ..] = operands else { return opcode.unknown() };
        let ((to, to_address), (from, from_address)) = (decoder.address(to)?, decoder.address(from)?);
        decoder.emit(Operation::MapCopy { to: to_address, from: from_address }, &[], &[to, from]);
        return Ok(());
    }
    let field = match opcode.which(&[
        "global_address",
        "rank",
        "box_dim",
        "global_dim",
        "global_stride",
        "element_stride",
        "elemtype",
        "interleave_layout",
        "swizzle_mode",
        "fill_mode",
    ]) {
        Some("global_address") => MapField::Address,
        Some("rank") => MapField::Rank,
        Some("box_dim") => MapField::Box,
        Some("global_dim") => MapField::Dimension,
        Some("global_stride") => MapField::Stride,
        Some("element_stride") => MapField::ElementStride,
        Some("elemtype") => MapField::ElementType,
        Some("interleave_layout") => MapField::Interleave,
        Some("swizzle_mode") => MapField::Swizzle,
        Some("fill_mode") => MapField::Fill,
        _ => return opcode.unknown(),
    };
    let (address, index, value) = match operands {
        [address, value] => (address, 0, value),
        [address, Operand::Integer(index), value] if *index < 5 => (address, *index as u8, value),
        _ => return opcode.unknown(),
    };
    let (base, address) = decoder.address(address)?;
    let wide = opcode.kind == "b64";
    let value = decoder.source(if wide { Class::Wide } else { Class::Narrow }, value)?;
    let space = opcode.space();
    decoder.emit(Operation::MapReplace { field, index, space, address, wide }, &[], &[base, value]);
    Ok(())
}
