//! A PTX file as a user sees it: its kernels, and what of them is not understood.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decode::{Layout, SHARED_BASE, decode};
use crate::error::Error;
use crate::instruction::{Code, Operation};
use crate::syntax::{File, Function, Space};
use crate::{allocate, inline, parse};

/// A PTX file. It can be shared between threads; kernels are decoded when they are first asked for.
#[derive(Debug)]
pub struct Module {
    pub(crate) file: File,
    /// Tells modules apart in a [`crate::Memory`].
    pub(crate) number: u64,
    /// Of each function of the file.
    codes: Vec<OnceLock<Code>>,
    pub(crate) globals: Globals,
}

/// Variables of the module: where they are among its bytes.
#[derive(Debug, Default)]
pub(crate) struct Globals {
    places: HashMap<String, u64>,
    pub initial: Vec<u8>,
    pub pointers: Vec<usize>,
}

impl Globals {
    fn new(file: &File) -> Self {
        let mut globals = Self::default();
        let variables = || file.variables.iter().filter(|variable| variable.space == Space::Global);
        for variable in variables() {
            let start = globals.initial.len().next_multiple_of(variable.align.max(1));
            globals.places.insert(variable.name.clone(), start as u64);
            globals.initial.resize(start, 0);
            globals.initial.extend(&variable.initial);
            globals.initial.resize(start + variable.size.max(variable.initial.len()), 0);
        }
        for variable in variables() {
            let start = globals.places[&variable.name] as usize;
            for (offset, symbol) in &variable.pointers {
                let Some(target) = globals.places.get(symbol) else { continue };
                if let Some(word) = globals.initial[start + offset..].first_chunk_mut::<8>() {
                    *word = target.to_le_bytes();
                    globals.pointers.push(start + offset);
                }
            }
        }
        globals
    }
}

impl Module {
    /// Parses PTX text, of any version up to 9.0.
    ///
    /// # Errors
    /// The line, and what was not understood there. An instruction that is not known is no error: it is a fault when a kernel
    /// comes to it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let file = parse::parse(text)?;
        let codes = file.functions.iter().map(|_| OnceLock::new()).collect();
        let globals = Globals::new(&file);
        Ok(Self { file, number: NUMBER.fetch_add(1, Ordering::Relaxed), codes, globals })
    }

    /// The kernels, in the order of the file.
    pub fn kernels(&self) -> impl Iterator<Item = Kernel<'_>> {
        let functions = self.file.functions.iter().enumerate();
        functions.filter(|(_, function)| function.is_kernel && function.has_body).map(|(number, function)| Kernel {
            module: self,
            number,
            function,
        })
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<Kernel<'_>> {
        self.kernels().find(|kernel| kernel.name() == name)
    }
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As the compiler calls it.
    pub name: String,
    /// Type as declared, `u64` or `b8`.
    pub kind: String,
    /// Bytes; an array of `b8` is a structure.
    pub size: usize,
    /// Bytes.
    pub align: usize,
    /// Bytes from the beginning of the parameter block.
    pub offset: usize,
}

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'m> {
    module: &'m Module,
    number: usize,
    function: &'m Function,
}

impl<'m> Kernel<'m> {
    /// As in the PTX: C++ names are mangled.
    pub fn name(&self) -> &'m str {
        &self.function.name
    }

    /// The parameters with their places.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut end = 0usize;
        let place = |variable: &crate::syntax::Variable| {
            let offset = end.next_multiple_of(variable.align.max(1));
            end = offset + variable.size;
            let kind = variable.kind.trim_start_matches('.').to_owned();
            Parameter { name: variable.name.clone(), kind, size: variable.size, align: variable.align, offset }
        };
        self.function.parameters.iter().map(place).collect()
    }

    /// The parameter block of these values, one a parameter.
    ///
    /// # Errors
    /// Not as many values as parameters, or one of another size.
    pub fn pack(&self, values: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, String> {
        let parameters = self.parameters();
        if parameters.len() != values.len() {
            let (name, wanted) = (self.name(), parameters.len());
            return Err(format!("kernel {name} has {wanted} parameters, and {} values are given", values.len()));
        }
        let mut block = vec![0; parameters.last().map_or(0, |last| last.offset + last.size)];
        for (number, (parameter, value)) in parameters.iter().zip(values).enumerate() {
            let value = value.as_ref();
            if value.len() != parameter.size {
                return Err(format!(
                    "parameter {number} of kernel {} has {} bytes, and the value {}",
                    self.name(),
                    parameter.size,
                    value.len()
                ));
            }
            block[parameter.offset..][..parameter.size].copy_from_slice(value);
        }
        Ok(block)
    }

    /// Bytes of shared memory that are not dynamic.
    pub fn shared_bytes(&self) -> usize {
        self.code().shared_end - SHARED_BASE as usize
    }

    fn directive(&self, name: &str) -> Option<[u32; 3]> {
        let values = self.function.directives.get(name)?;
        let value = |at: usize| values.get(at).map_or(1, |value| *value as u32);
        Some([value(0), value(1), value(2)])
    }

    /// `.reqntid`: threads of a block, if the kernel demands a number.
    pub fn required_block(&self) -> Option<[u32; 3]> {
        self.directive(".reqntid")
    }

    /// `.maxntid`: the most threads of a block.
    pub fn max_block(&self) -> Option<[u32; 3]> {
        self.directive(".maxntid")
    }

    /// `.reqnctapercluster`: blocks of a cluster, if the kernel demands a number.
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        self.directive(".reqnctapercluster")
    }

    /// PTX instructions.
    pub fn instructions(&self) -> usize {
        self.function.body.len()
    }

    /// Instructions that are not known: line and what is wrong.
    pub fn unknown(&self) -> Vec<(u32, String)> {
        let code = self.code();
        let unknown = code.instructions.iter().filter_map(|instruction| match &instruction.operation {
            Operation::Unknown(text) => Some((code.places[instruction.statement as usize].0, text.clone())),
            _ => None,
        });
        unknown.collect()
    }

    /// The kernel as the machine executes it.
    pub(crate) fn code(&self) -> &'m Code {
        self.module.codes[self.number].get_or_init(|| {
            let file = &self.module.file;
            let function = inline::inline(self.function, file);
            let layout = Layout::new(&function, &file.variables, &self.module.globals.places);
            allocate::allocate(decode(&function, &layout))
        })
    }
}
