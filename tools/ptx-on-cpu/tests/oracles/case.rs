//! An oracle with its inputs and what must come out, apart from the engine that runs it.

#![allow(dead_code, reason = "one of the tests that share this only wants to know whether two runs agree")]

use std::collections::BTreeMap;

use crate::manifest::{Map, Oracle, Parameter, Role};
use crate::reference::{self, Expected};

pub struct Case {
    pub oracle: Oracle,
    /// What is in each buffer before the launch: outputs and scratch memory are poisoned with NaN.
    pub before: BTreeMap<String, Vec<u8>>,
    expected: BTreeMap<String, Expected>,
}

impl Case {
    pub fn new(oracle: Oracle) -> Case {
        let mut inputs = reference::inputs(&oracle);
        let expected = reference::outputs(&oracle, &mut inputs);
        let before = oracle.buffers.iter().map(|(name, buffer)| {
            let bytes = match buffer.role {
                Role::Input => inputs[name].iter().flat_map(|value| buffer.element.encode(*value)).collect(),
                Role::Output | Role::Scratch => vec![0xff; buffer.len() * buffer.element.bytes()],
                Role::ZeroedOutput => vec![0; buffer.len() * buffer.element.bytes()],
            };
            (name.clone(), bytes)
        });
        Case { before: before.collect(), expected, oracle }
    }

    /// The parameters as bytes, given where buffers are and how the engine writes a tensor map (of elements of that many bytes).
    pub fn parameters(
        &self,
        address: &dyn Fn(&str) -> u64,
        encode: &dyn Fn(&Map, u64, usize) -> Vec<u8>,
    ) -> Vec<Vec<u8>> {
        self.oracle.parameters.iter().map(|parameter| self.parameter(parameter, address, encode)).collect()
    }

    fn parameter(
        &self,
        parameter: &Parameter,
        address: &dyn Fn(&str) -> u64,
        encode: &dyn Fn(&Map, u64, usize) -> Vec<u8>,
    ) -> Vec<u8> {
        match parameter {
            Parameter::Pointer { pointer } => address(pointer).to_le_bytes().to_vec(),
            Parameter::I32 { i32: value } => value.to_le_bytes().to_vec(),
            Parameter::I64 { i64: value } => value.to_le_bytes().to_vec(),
            Parameter::F32 { f32: value } => value.to_le_bytes().to_vec(),
            Parameter::Map(map) => encode(map, address(&map.map), self.oracle.buffers[&map.map].element.bytes()),
            Parameter::Struct { bytes, places } => {
                let digits = |at: usize| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap();
                let mut bytes: Vec<u8> = (0..bytes.len()).step_by(2).map(digits).collect();
                for place in places {
                    let value = self.parameter(&place.what, address, encode);
                    bytes[place.at..place.at + value.len()].copy_from_slice(&value);
                }
                bytes
            }
        }
    }

    /// Every output is as near to the reference as the manifest says. Nothing but that passes: a NaN is never near.
    pub fn check(&self, after: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        for (name, expected) in &self.expected {
            let buffer = &self.oracle.buffers[name];
            let [of_value, of_magnitude] = self.oracle.tolerance[name];
            let numbers = after[name].chunks(buffer.element.bytes()).map(|bytes| buffer.element.decode(bytes));
            let (mut wrong, mut first) = (0, None);
            for (at, got) in numbers.enumerate() {
                let wanted = expected.value[at];
                let allowed = of_value * wanted.abs() + of_magnitude * expected.magnitude[at];
                let near = (got - wanted).abs() <= allowed;
                if !near {
                    wrong += 1;
                    first.get_or_insert(format!("the first, at {at}, is {got}, not {wanted} to within {allowed:e}"));
                }
            }
            if let Some(first) = first {
                return Err(format!("{} of {} numbers of {name} are wrong; {first}", wrong, expected.value.len()));
            }
        }
        Ok(())
    }

    /// The largest error of all outputs in parts of what is allowed: how tight the tolerances are.
    pub fn share_of_tolerance(&self, after: &BTreeMap<String, Vec<u8>>) -> f64 {
        let mut share = 0.0f64;
        for (name, expected) in &self.expected {
            let buffer = &self.oracle.buffers[name];
            let [of_value, of_magnitude] = self.oracle.tolerance[name];
            for (at, bytes) in after[name].chunks(buffer.element.bytes()).enumerate() {
                let wanted = expected.value[at];
                let error = (buffer.element.decode(bytes) - wanted).abs();
                let allowed = of_value * wanted.abs() + of_magnitude * expected.magnitude[at];
                share = share.max(if error > 0.0 { error / allowed } else { 0.0 });
            }
        }
        share
    }
}
