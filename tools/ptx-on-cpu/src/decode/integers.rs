//! Integer arithmetic, comparison, logic and shifts (PTX ISA, "Integer Arithmetic Instructions", "Comparison and Selection",
//! "Logic and Shift Instructions").

use super::{Decoder, Opcode, Result};
use crate::instruction::Operation;
use crate::rows::{RowOperation, row};
use crate::syntax::{Class, Operand};

/// A row function for each integer type.
macro_rules! integer {
    ($opcode:expr, |$($x:ident),+| $body:expr) => {
        match $opcode.kind {
            "u16" | "b16" => row!(|$($x: u16),+| -> u16 { $body }),
            "s16" => row!(|$($x: i16),+| -> i16 { $body }),
            "u32" | "b32" => row!(|$($x: u32),+| -> u32 { $body }),
            "s32" => row!(|$($x: i32),+| -> i32 { $body }),
            "u64" | "b64" => row!(|$($x: u64),+| -> u64 { $body }),
            "s64" => row!(|$($x: i64),+| -> i64 { $body }),
            _ => return $opcode.unknown(),
        }
    };
}

/// A row function for types of bits, signs aside.
macro_rules! bits {
    ($opcode:expr, |$($x:ident),+| $body:expr) => {
        match $opcode.kind {
            "b16" | "u16" | "s16" => row!(|$($x: u16),+| -> u16 { $body }),
            "b32" | "u32" | "s32" => row!(|$($x: u32),+| -> u32 { $body }),
            "b64" | "u64" | "s64" => row!(|$($x: u64),+| -> u64 { $body }),
            _ => return $opcode.unknown(),
        }
    };
}

/// A comparison for each integer type.
macro_rules! compare {
    ($opcode:expr, |$x:ident, $y:ident| $body:expr) => {
        match $opcode.kind {
            "u16" | "b16" => row!(|$x: u16, $y: u16| -> bool { $body }),
            "s16" => row!(|$x: i16, $y: i16| -> bool { $body }),
            "u32" | "b32" => row!(|$x: u32, $y: u32| -> bool { $body }),
            "s32" => row!(|$x: i32, $y: i32| -> bool { $body }),
            "u64" | "b64" => row!(|$x: u64, $y: u64| -> bool { $body }),
            "s64" => row!(|$x: i64, $y: i64| -> bool { $body }),
            _ => return $opcode.unknown(),
        }
    };
}

fn is_integer(kind: &str) -> bool {
    matches!(kind, "b16" | "u16" | "s16" | "b32" | "u32" | "s32" | "b64" | "u64" | "s64")
}

/// `prmt.b32` (PTX ISA, "prmt"): bytes of the pair {b, a}, a sign bit in place of a byte where bit 3 of its selector is set.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |result, place| {
        let select = selector >> (4 * place) & 15;
        let byte = (bytes >> (8 * (select & 7))) as u32 & 0xff;
        let byte = if select & 8 == 0 { byte } else { (byte >> 7) * 0xff };
        result | byte << (8 * place)
    })
}

/// `bfe`: `length` bits from `position`, the sign beyond the end.
fn extract(value: i64, width: u32, position: u32, length: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let top = (position + length - 1).min(width - 1);
    let sign = if signed && value >> top & 1 == 1 { u64::MAX } else { 0 };
    let field = if position >= width { sign } else { (value as u64) >> position };
    if top < position {
        return sign;
    }
    let count = top - position + 1;
    let mask = if count >= 64 { u64::MAX } else { (1 << count) - 1 };
    field & mask | sign & !mask
}

/// `bfi`: `length` bits of `a` put into `b` at `position`.
fn insert(a: u64, b: u64, width: u32, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if position >= width || length == 0 {
        return b;
    }
    let mask = if length >= 64 { u64::MAX } else { (1 << length) - 1 } << position;
    a << position & mask | b & !mask
}

/// Operations of one result whose types say everything.
pub(super) fn operation(opcode: &Opcode) -> Result<Option<RowOperation>> {
    let kind = opcode.kind;
    if kind == "pred" {
        return Ok(Some(match opcode.base {
            "and" => row!(|x: bool, y: bool| -> bool { x & y }),
            "or" => row!(|x: bool, y: bool| -> bool { x | y }),
            "xor" => row!(|x: bool, y: bool| -> bool { x ^ y }),
            "not" => row!(|x: bool| -> bool { !x }),
            _ => return Ok(None),
        }));
    }
    if opcode.base == "prmt" {
        return permutation(opcode).map(Some);
    }
    if matches!(opcode.base, "dp4a" | "dp2a") {
        return dot(opcode).map(Some);
    }
    if !is_integer(kind) || opcode.has("cc") {
        return Ok(None);
    }
    Ok(Some(match opcode.base {
        "add" if opcode.has("sat") => row!(|x: i32, y: i32| -> i32 { x.saturating_add(y) }),
        "sub" if opcode.has("sat") => row!(|x: i32, y: i32| -> i32 { x.saturating_sub(y) }),
        "add" => bits!(opcode, |x, y| x.wrapping_add(y)),
        "sub" => bits!(opcode, |x, y| x.wrapping_sub(y)),
        "mul" if opcode.has("lo") => bits!(opcode, |x, y| x.wrapping_mul(y)),
        "mad" if opcode.has("lo") => bits!(opcode, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        "mul" | "mad" => return product(opcode).map(Some),
        "mul24" if opcode.has("lo") => integer24(opcode),
        "sad" => integer!(opcode, |x, y, z| if x < y { y.wrapping_sub(x) } else { x.wrapping_sub(y) }.wrapping_add(z)),
        // What a division by 0 gives is unspecified; a GPU answers with all ones.
        "div" => integer!(opcode, |x, y| if y == 0 { !0 } else { x.wrapping_div(y) }),
        "rem" => integer!(opcode, |x, y| if y == 0 { !0 } else { x.wrapping_rem(y) }),
        "abs" => match kind {
            "s16" => row!(|x: i16| -> i16 { x.wrapping_abs() }),
            "s32" => row!(|x: i32| -> i32 { x.wrapping_abs() }),
            "s64" => row!(|x: i64| -> i64 { x.wrapping_abs() }),
            _ => return opcode.unknown(),
        },
        "neg" => bits!(opcode, |x| x.wrapping_neg()),
        "min" => integer!(opcode, |x, y| x.min(y)),
        "max" => integer!(opcode, |x, y| x.max(y)),
        "and" => bits!(opcode, |x, y| x & y),
        "or" => bits!(opcode, |x, y| x | y),
        "xor" => bits!(opcode, |x, y| x ^ y),
        "not" => bits!(opcode, |x| !x),
        "cnot" => bits!(opcode, |x| if x == 0 { 1 } else { 0 }),
        "shl" => match kind {
            "b16" => row!(|x: u16, n: u32| -> u16 { x.checked_shl(n).unwrap_or(0) }),
            "b32" => row!(|x: u32, n: u32| -> u32 { x.checked_shl(n).unwrap_or(0) }),
            _ => row!(|x: u64, n: u32| -> u64 { x.checked_shl(n).unwrap_or(0) }),
        },
        "shr" => match kind {
            "s16" => row!(|x: i16, n: u32| -> i16 { x >> n.min(15) }),
            "s32" => row!(|x: i32, n: u32| -> i32 { x >> n.min(31) }),
            "s64" => row!(|x: i64, n: u32| -> i64 { x >> n.min(63) }),
            "u16" | "b16" => row!(|x: u16, n: u32| -> u16 { x.checked_shr(n).unwrap_or(0) }),
            "u32" | "b32" => row!(|x: u32, n: u32| -> u32 { x.checked_shr(n).unwrap_or(0) }),
            _ => row!(|x: u64, n: u32| -> u64 { x.checked_shr(n).unwrap_or(0) }),
        },
        "shf" => match (opcode.has("l"), opcode.has("clamp")) {
            (true, true) => row!(|a: u32, b: u32, n: u32| -> u32 { (pair(a, b) << n.min(32) >> 32) as u32 }),
            (true, false) => row!(|a: u32, b: u32, n: u32| -> u32 { (pair(a, b) << (n & 31) >> 32) as u32 }),
            (false, true) => row!(|a: u32, b: u32, n: u32| -> u32 { (pair(a, b) >> n.min(32)) as u32 }),
            (false, false) => row!(|a: u32, b: u32, n: u32| -> u32 { (pair(a, b) >> (n & 31)) as u32 }),
        },
        "bfe" => match kind {
            "u32" => row!(|x: u32, p: u32, n: u32| -> u32 { extract(i64::from(x), 32, p, n, false) as u32 }),
            "s32" => row!(|x: i32, p: u32, n: u32| -> u32 { extract(i64::from(x), 32, p, n, true) as u32 }),
            "u64" => row!(|x: i64, p: u32, n: u32| -> u64 { extract(x, 64, p, n, false) }),
            _ => row!(|x: i64, p: u32, n: u32| -> u64 { extract(x, 64, p, n, true) }),
        },
        "bfi" if kind == "b64" => row!(|a: u64, b: u64, p: u32, n: u32| -> u64 { insert(a, b, 64, p, n) }),
        "bfi" => row!(|a: u32, b: u32, p: u32, n: u32| -> u32 { insert(u64::from(a), u64::from(b), 32, p, n) as u32 }),
        "bmsk" if opcode.has("clamp") => {
            row!(|p: u32, n: u32| -> u32 { (if p > 31 { 0 } else { ((1u64 << n.min(32)) - 1) << p }) as u32 })
        }
        "bmsk" => row!(|p: u32, n: u32| -> u32 { (((1u64 << (n & 31)) - 1) << (p & 31)) as u32 }),
        "popc" if kind == "b64" => row!(|x: u64| -> u32 { x.count_ones() }),
        "popc" => row!(|x: u32| -> u32 { x.count_ones() }),
        "clz" if kind == "b64" => row!(|x: u64| -> u32 { x.leading_zeros() }),
        "clz" => row!(|x: u32| -> u32 { x.leading_zeros() }),
        "brev" => match kind {
            "b64" => row!(|x: u64| -> u64 { x.reverse_bits() }),
            _ => row!(|x: u32| -> u32 { x.reverse_bits() }),
        },
        "bfind" => highest(opcode)?,
        "set" | "setp" | "slct" | "selp" | "lop3" | "mov" | "cvt" | "addc" | "subc" | "madc" => return Ok(None),
        _ => return Ok(None),
    }))
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn integer24(opcode: &Opcode) -> RowOperation {
    if opcode.is_signed() {
        row!(|x: i32, y: i32| -> i32 { (x << 8 >> 8).wrapping_mul(y << 8 >> 8) })
    } else {
        row!(|x: u32, y: u32| -> u32 { (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff) })
    }
}

/// `mul.hi`, `mul.wide`, `mad.hi`, `mad.wide`.
fn product(opcode: &Opcode) -> Result<RowOperation> {
    Ok(match (opcode.base, opcode.has("wide"), opcode.kind) {
        ("mul", true, "u16") => row!(|x: u16, y: u16| -> u32 { u32::from(x) * u32::from(y) }),
        ("mul", true, "s16") => row!(|x: i16, y: i16| -> i32 { i32::from(x) * i32::from(y) }),
        ("mul", true, "u32") => row!(|x: u32, y: u32| -> u64 { u64::from(x) * u64::from(y) }),
        ("mul", true, "s32") => row!(|x: i32, y: i32| -> i64 { i64::from(x) * i64::from(y) }),
        ("mad", true, "u16") => row!(|x: u16, y: u16, z: u32| -> u32 { (u32::from(x) * u32::from(y)).wrapping_add(z) }),
        ("mad", true, "s16") => row!(|x: i16, y: i16, z: i32| -> i32 { (i32::from(x) * i32::from(y)).wrapping_add(z) }),
        ("mad", true, "u32") => row!(|x: u32, y: u32, z: u64| -> u64 { (u64::from(x) * u64::from(y)).wrapping_add(z) }),
        ("mad", true, "s32") => row!(|x: i32, y: i32, z: i64| -> i64 { (i64::from(x) * i64::from(y)).wrapping_add(z) }),
        ("mul", false, "u16") => row!(|x: u16, y: u16| -> u16 { (u32::from(x) * u32::from(y) >> 16) as u16 }),
        ("mul", false, "s16") => row!(|x: i16, y: i16| -> i16 { (i32::from(x) * i32::from(y) >> 16) as i16 }),
        ("mul", false, "u32") => row!(|x: u32, y: u32| -> u32 { (u64::from(x) * u64::from(y) >> 32) as u32 }),
        ("mul", false, "s32") => row!(|x: i32, y: i32| -> i32 { (i64::from(x) * i64::from(y) >> 32) as i32 }),
        ("mul", false, "u64") => row!(|x: u64, y: u64| -> u64 { (u128::from(x) * u128::from(y) >> 64) as u64 }),
        ("mul", false, "s64") => row!(|x: i64, y: i64| -> i64 { (i128::from(x) * i128::from(y) >> 64) as i64 }),
        ("mad", false, "u32") => {
            row!(|x: u32, y: u32, z: u32| -> u32 { ((u64::from(x) * u64::from(y) >> 32) as u32).wrapping_add(z) })
        }
        ("mad", false, "s32") => {
            row!(|x: i32, y: i32, z: i32| -> i32 { ((i64::from(x) * i64::from(y) >> 32) as i32).wrapping_add(z) })
        }
        ("mad", false, "u64") => {
            row!(|x: u64, y: u64, z: u64| -> u64 { ((u128::from(x) * u128::from(y) >> 64) as u64).wrapping_add(z) })
        }
        _ => return opcode.unknown(),
    })
}

/// `prmt` and its modes.
fn permutation(opcode: &Opcode) -> Result<RowOperation> {
    Ok(match opcode.which(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
        None => row!(|a: u32, b: u32, s: u32| -> u32 { permute(a, b, s) }),
        Some("f4e") => row!(|a: u32, b: u32, s: u32| -> u32 { (pair(a, b) >> (8 * (s & 3))) as u32 }),
        Some("b4e") => row!(|a: u32, b: u32, s: u32| -> u32 {
            let s = s & 3;
            permute(a, b, (0..4).fold(0, |all, i| all | (s.wrapping_sub(i) & 7) << (4 * i)))
        }),
        Some("rc8") => row!(|a: u32, _b: u32, s: u32| -> u32 { (a >> (8 * (s & 3)) & 0xff) * 0x0101_0101 }),
        Some("rc16") => row!(|a: u32, _b: u32, s: u32| -> u32 { (a >> (16 * (s & 1)) & 0xffff) * 0x1_0001 }),
        _ => return opcode.unknown(),
    })
}

fn highest(opcode: &Opcode) -> Result<RowOperation> {
    fn find(value: u64) -> u32 {
        value.checked_ilog2().unwrap_or(u32::MAX)
    }
    Ok(match (opcode.kind, opcode.has("shiftamt")) {
        ("u32", false) => row!(|x: u32| -> u32 { find(u64::from(x)) }),
        ("s32", false) => row!(|x: i32| -> u32 { find(u64::from((x ^ x >> 31) as u32)) }),
        ("u64", false) => row!(|x: u64| -> u32 { find(x) }),
        ("s64", false) => row!(|x: i64| -> u32 { find((x ^ x >> 63) as u64) }),
        ("u32", true) => row!(|x: u32| -> u32 { if x == 0 { u32::MAX } else { x.leading_zeros() } }),
        _ => return opcode.unknown(),
    })
}

/// `dp4a` and `dp2a`: dot products of bytes.
fn dot(opcode: &Opcode) -> Result<RowOperation> {
    fn sum(a: u32, b: u32, signed: [bool; 2]) -> i32 {
        let byte = |word: u32, place: u32, signed| {
            let byte = (word >> (8 * place)) as u8;
            if signed { i32::from(byte as i8) } else { i32::from(byte) }
        };
        (0..4).map(|place| byte(a, place, signed[0]) * byte(b, place, signed[1])).sum()
    }
    Ok(match (opcode.base, &opcode.parts[..]) {
        ("dp4a", ["u32", "u32"]) => row!(|a: u32, b: u32, c: i32| -> i32 { c.wrapping_add(sum(a, b, [false, false])) }),
        ("dp4a", ["s32", "u32"]) => row!(|a: u32, b: u32, c: i32| -> i32 { c.wrapping_add(sum(a, b, [true, false])) }),
        ("dp4a", ["u32", "s32"]) => row!(|a: u32, b: u32, c: i32| -> i32 { c.wrapping_add(sum(a, b, [false, true])) }),
        ("dp4a", ["s32", "s32"]) => row!(|a: u32, b: u32, c: i32| -> i32 { c.wrapping_add(sum(a, b, [true, true])) }),
        _ => return opcode.unknown(),
    })
}

/// Comparison of integers, for `setp` and `set`.
pub(super) fn comparison(opcode: &Opcode, compare: &str) -> Result<RowOperation> {
    Ok(match compare {
        "eq" => compare!(opcode, |x, y| x == y),
        "ne" => compare!(opcode, |x, y| x != y),
        "lt" | "lo" => compare!(opcode, |x, y| x < y),
        "le" | "ls" => compare!(opcode, |x, y| x <= y),
        "gt" | "hi" => compare!(opcode, |x, y| x > y),
        "ge" | "hs" => compare!(opcode, |x, y| x >= y),
        _ => return opcode.unknown(),
    })
}

/// `lop3`, and arithmetic with carry.
pub(super) fn special(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result<bool> {
    if opcode.base == "lop3" {
        let [target, a, b, c, Operand::Integer(table)] = operands else { return opcode.unknown() };
        let table = Operand::Integer(*table);
        let operation = row!(|a: u32, b: u32, c: u32, table: u32| -> u32 {
            (0..8).fold(0, |result, term| {
                let side = |value: u32, bit: u32| if term >> bit & 1 == 1 { value } else { !value };
                let chosen = if table >> term & 1 == 1 { u32::MAX } else { 0 };
                result | side(a, 2) & side(b, 1) & side(c, 0) & chosen
            })
        });
        let operands = [target.clone(), a.clone(), b.clone(), c.clone(), table];
        decoder.compute(operation, &operands, false)?;
        return Ok(true);
    }
    let carries = matches!(opcode.base, "addc" | "subc" | "madc");
    if !(carries || opcode.has("cc")) || !matches!(opcode.base, "add" | "sub" | "mad" | "addc" | "subc" | "madc") {
        return Ok(false);
    }
    extended(decoder, opcode, operands, carries)?;
    Ok(true)
}

/// Extended-precision arithmetic (PTX ISA, "Extended-Precision Integer Arithmetic Instructions"): the carry is a predicate.
fn extended(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand], carries: bool) -> Result {
    let [target, a, b, rest @ ..] = operands else { return opcode.unknown() };
    let class = if opcode.is_wide() { Class::Wide } else { Class::Narrow };
    let wide = opcode.is_wide();
    let (mut a, mut b) = (decoder.source(class, a)?, decoder.source(class, b)?);
    if opcode.base.starts_with("mad") {
        let [c] = rest else { return opcode.unknown() };
        let half = Opcode { base: "mul", text: opcode.text, parts: opcode.parts.clone(), kind: opcode.kind };
        let multiply = if opcode.has("hi") { product(&half)? } else { bits!(opcode, |x, y| x.wrapping_mul(y)) };
        a = decoder.helper(multiply, &[a, b]);
        b = decoder.source(class, c)?;
    }
    let carry = match decoder.carry {
        Some(carry) => carry,
        None => *decoder.carry.insert({
            decoder.code.classes.push(Class::Predicate);
            decoder.code.classes.len() as u32 - 1
        }),
    };
    let taken = if carries { carry } else { decoder.predicate(&Operand::Integer(0))? };
    let subtract = opcode.base.starts_with("sub");
    let (value, flag) = match (wide, subtract) {
        (false, false) => (
            row!(|x: u32, y: u32, c: bool| -> u32 { x.wrapping_add(y).wrapping_add(u32::from(c)) }),
            row!(|x: u32, y: u32, c: bool| -> bool { u64::from(x) + u64::from(y) + u64::from(c) >> 32 != 0 }),
        ),
        (true, false) => (
            row!(|x: u64, y: u64, c: bool| -> u64 { x.wrapping_add(y).wrapping_add(u64::from(c)) }),
            row!(|x: u64, y: u64, c: bool| -> bool { u128::from(x) + u128::from(y) + u128::from(c) >> 64 != 0 }),
        ),
        (false, true) => (
            row!(|x: u32, y: u32, c: bool| -> u32 { x.wrapping_sub(y).wrapping_sub(u32::from(c)) }),
            row!(|x: u32, y: u32, c: bool| -> bool { u64::from(x) < u64::from(y) + u64::from(c) }),
        ),
        (true, true) => (
            row!(|x: u64, y: u64, c: bool| -> u64 { x.wrapping_sub(y).wrapping_sub(u64::from(c)) }),
            row!(|x: u64, y: u64, c: bool| -> bool { u128::from(x) < u128::from(y) + u128::from(c) }),
        ),
    };
    // Both from the sources as they were: the result may be one of them.
    let sum = decoder.helper(value, &[a, b, taken]);
    if opcode.has("cc") {
        decoder.emit(Operation::Rows(flag.function), &[carry], &[a, b, taken]);
    }
    let target = decoder.result(class, target, false)?;
    let copy = if wide { row!(|x: u64| -> u64 { x }) } else { row!(|x: u32| -> u32 { x }) };
    decoder.emit(Operation::Rows(copy.function), &[target], &[sum]);
    Ok(())
}
