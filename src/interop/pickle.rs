//! A reader of pickles that runs nothing.
//!
//! A pickle is a program for a stack machine (Python's `pickletools.py` documents every opcode). This machine knows
//! numbers, strings, tuples, lists and dictionaries, and of everything else exactly what `torch.save` needs to describe
//! tensors. Whatever else a pickle names (`os.system`, a class, another constructor) is refused by that name.
//!
//! Objects lie in an arena and are referred to by index, texts and storages are shared, and ranks are bounded, so that a
//! pickle can neither build a deep structure that overflows the stack nor one that is larger than a small multiple of its
//! own bytes; and of those there may be 8 MiB.

use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of the longest pickle that is read. A tensor of a state dict takes about 150.
const LONGEST: usize = 8 << 20;
/// Axes of a tensor; those of models have up to five.
const MOST_AXES: usize = 8;
/// Bytes of a storage's name, which PyTorch makes of a number.
const LONGEST_KEY: usize = 64;

/// A value on the machine's stack.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A float.
    Float(f64),
    /// Text, or bytes that are text.
    Text(Rc<str>),
    /// A function or class by name, one of those that are known.
    Global(Global),
    /// A tuple, list or dictionary in the arena.
    Object(usize),
    /// A piece of memory that tensors share.
    Storage(Rc<Storage>),
    /// A tensor, described.
    Tensor(Rc<Tensor>),
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and its sisters: the type of the elements.
    StorageType(StorageType),
}

/// The type of a storage's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageType {
    /// 64-bit floats.
    Double,
    /// 32-bit floats.
    Float,
    /// IEEE 16-bit floats.
    Half,
    /// bfloat16.
    Bfloat16,
    /// Integers or booleans of so many bytes.
    Integer(usize),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        let storage = |kind| Some(Self::StorageType(kind));
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "DoubleStorage") => storage(StorageType::Double),
            ("torch", "FloatStorage") => storage(StorageType::Float),
            ("torch", "HalfStorage") => storage(StorageType::Half),
            ("torch", "BFloat16Storage") => storage(StorageType::Bfloat16),
            ("torch", "LongStorage") => storage(StorageType::Integer(8)),
            ("torch", "IntStorage") => storage(StorageType::Integer(4)),
            ("torch", "ShortStorage") => storage(StorageType::Integer(2)),
            ("torch", "CharStorage" | "ByteStorage" | "BoolStorage") => storage(StorageType::Integer(1)),
            _ => None,
        }
    }
}

/// A piece of memory, named by the persistent id of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Type of its elements.
    pub kind: StorageType,
    /// Its name in the file.
    pub key: Rc<str>,
    /// First element of the part that a view (of old files) means.
    pub view_offset: usize,
}

/// A tensor as a pickle describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The memory it lies in.
    pub storage: Rc<Storage>,
    /// Index of its first element there.
    pub offset: usize,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How many elements apart neighbours along each axis lie.
    pub strides: Vec<usize>,
}

/// What one pickle left: its result, and the objects it refers to.
#[derive(Debug)]
pub struct Pickle {
    /// The value.
    pub value: Value,
    /// Bytes read.
    pub length: usize,
    objects: Vec<Object>,
}

#[derive(Debug)]
enum Object {
    /// A tuple or a list.
    Sequence(Vec<Value>),
    Dictionary(Vec<(Value, Value)>),
}

impl Pickle {
    /// The items of a list or tuple.
    pub fn sequence(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Object(index) => match self.objects.get(*index)? {
                Object::Sequence(items) => Some(items),
                Object::Dictionary(_) => None,
            },
            _ => None,
        }
    }

    /// The entries of a dictionary, in the order in which they were set.
    pub fn dictionary(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Object(index) => match self.objects.get(*index)? {
                Object::Dictionary(entries) => Some(entries),
                Object::Sequence(_) => None,
            },
            _ => None,
        }
    }
}

/// Reads the pickle at the start of `bytes`.
///
/// # Errors
/// What is wrong, in words: a name that is not known, an opcode that is not needed for tensors, bytes cut short.
pub fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let is_cut = bytes.len() > LONGEST;
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let mut machine =
        Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), objects: Vec::new() };
    loop {
        let step = machine.step().map_err(|error| match is_cut && error == cut_short() {
            true => format!("a pickle of more than {LONGEST} bytes, which no state dict needs"),
            false => error,
        });
        if let Some(value) = step? {
            return Ok(Pickle { value, length: machine.at, objects: machine.objects });
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    objects: Vec<Object>,
}

impl Machine<'_> {
    /// Executes one opcode; the value when it was the last.
    fn step(&mut self) -> Result<Option<Value>, String> {
        let start = self.at;
        let opcode = self.byte()?;
        match opcode {
            // PROTO, FRAME: nothing to do but to skip their argument.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => self.integer(1, false)?,
            b'M' => self.integer(2, false)?,
            b'J' => self.integer(4, true)?,
            0x8a => {
                let length = self.number(1)?;
                self.integer(length, true)?;
            }
            b'G' => {
                let bytes = self.take(8)?.try_into().map_err(|_| cut_short())?;
                self.stack.push(Value::Float(f64::from_be_bytes(bytes)));
            }
            b'X' | b'T' => self.text(4)?,
            0x8c | b'U' => self.text(1)?,
            0x8d => self.text(8)?,
            b')' => self.push_object(Object::Sequence(Vec::new())),
            b']' => self.push_object(Object::Sequence(Vec::new())),
            b'}' => self.push_object(Object::Dictionary(Vec::new())),
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::Sequence(items));
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let height = self.stack.len().checked_sub(count).ok_or_else(underflow)?;
                let items = self.stack.split_off(height);
                self.push_object(Object::Sequence(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => {
                let value = self.top()?.clone();
                self.memo.insert(self.memo.len() as u32, value);
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.push_global(&module, &name)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(&id)?;
                self.stack.push(Value::Storage(Rc::new(storage)));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = self.call(&function, &arguments)?;
                self.stack.push(made);
            }
            // BUILD sets attributes: torch gives a state dict its `_metadata`, which says nothing about tensors.
            b'b' => {
                self.pop()?;
                let Value::Object(_) = self.top()? else {
                    return Err("the pickle sets attributes of something that is no dictionary".into());
                };
            }
            other => {
                return Err(format!("opcode 0x{other:02x} at byte {start} of the pickle, which no state dict needs"));
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(count).ok_or_else(cut_short)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(cut_short)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number without sign.
    fn number(&mut self, bytes: usize) -> Result<usize, String> {
        let number = self.take(bytes)?.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).map_err(|_| cut_short())
    }

    fn integer(&mut self, bytes: usize, signed: bool) -> Result<(), String> {
        if bytes > 15 {
            return Err(format!("an integer of {bytes} bytes in the pickle"));
        }
        let digits = self.take(bytes)?;
        let mut value = digits.iter().rev().fold(0i128, |value, &byte| value << 8 | i128::from(byte));
        if signed && digits.last().is_some_and(|&byte| byte >= 0x80) {
            value -= 1 << (8 * bytes);
        }
        self.stack.push(Value::Int(value));
        Ok(())
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.number(length_bytes)?;
        let text =
            std::str::from_utf8(self.take(length)?).map_err(|_| "a text in the pickle is not UTF-8".to_owned())?;
        let text = Value::Text(text.into());
        self.stack.push(text);
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(cut_short)?;
        let line = std::str::from_utf8(&rest[..length]).map_err(|_| "a name in the pickle is not UTF-8".to_owned())?;
        self.at += length + 1;
        Ok(line.to_owned())
    }

    fn top(&self) -> Result<&Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor.min(self.stack.len())..].last().ok_or_else(underflow)
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.top()?;
        self.stack.pop().ok_or_else(underflow)
    }

    fn pop_text(&mut self) -> Result<Rc<str>, String> {
        match self.pop()? {
            Value::Text(text) => Ok(text),
            _ => Err("the pickle names something by what is no text".into()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or_else(underflow)?;
        if mark > self.stack.len() {
            return Err(underflow());
        }
        Ok(self.stack.split_off(mark))
    }

    fn push_object(&mut self, object: Object) {
        self.objects.push(object);
        self.stack.push(Value::Object(self.objects.len() - 1));
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = Global::find(module, name).ok_or_else(|| {
            let shown: String = format!("{module}.{name}").chars().take(100).collect();
            format!("the pickle asks for {shown:?}, which is not needed to read tensors and could run code")
        })?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.top()? {
            &Value::Object(index) => match &mut self.objects[index] {
                Object::Sequence(list) => {
                    list.extend(items);
                    Ok(())
                }
                Object::Dictionary(_) => Err("the pickle appends to a dictionary".into()),
            },
            _ => Err("the pickle appends to what is no list".into()),
        }
    }

    /// `items`: keys and values in turn.
    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        let &Value::Object(index) = self.top()? else {
            return Err("the pickle sets items of what is no dictionary".into());
        };
        let Object::Dictionary(entries) = &mut self.objects[index] else {
            return Err("the pickle sets items of what is no dictionary".into());
        };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            entries.push((key, items.next().ok_or_else(underflow)?));
        }
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<(), String> {
        let key = self.number(bytes)? as u32;
        let value = self.top()?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, bytes: usize) -> Result<(), String> {
        let key = self.number(bytes)? as u32;
        let value = self.memo.get(&key).cloned().ok_or("the pickle recalls what it never stored")?;
        self.stack.push(value);
        Ok(())
    }

    fn items(&self, value: &Value) -> Result<&[Value], String> {
        match value {
            Value::Object(index) => match &self.objects[*index] {
                Object::Sequence(items) => Ok(items),
                Object::Dictionary(_) => Err("a dictionary where the pickle needs a tuple".into()),
            },
            _ => Err("something where the pickle needs a tuple".into()),
        }
    }

    /// The persistent id of a storage: ("storage", type, key, device, elements\[, view\]).
    fn storage(&self, id: &Value) -> Result<Storage, String> {
        let wrong = || "a persistent id that describes no storage of torch".to_owned();
        let items = self.items(id)?;
        let [
            Value::Text(word),
            Value::Global(Global::StorageType(kind)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(_),
            rest @ ..,
        ] = items
        else {
            return Err(wrong());
        };
        if &**word != "storage" || key.len() > LONGEST_KEY {
            return Err(wrong());
        }
        let view_offset = match rest {
            [] | [Value::None] => 0,
            // (key of the view, first element, elements)
            [view] => match self.items(view)? {
                [_, offset, _] => size(offset)?,
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        Ok(Storage { kind: *kind, key: key.clone(), view_offset })
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Result<Value, String> {
        let Value::Global(function) = function else {
            return Err("the pickle calls what is no function".into());
        };
        let arguments = self.items(arguments)?;
        match function {
            Global::OrderedDict => {
                if !arguments.is_empty() {
                    return Err("the pickle makes a dictionary in an unusual way".into());
                }
                self.objects.push(Object::Dictionary(Vec::new()));
                Ok(Value::Object(self.objects.len() - 1))
            }
            Global::RebuildTensor => {
                let [Value::Storage(storage), offset, shape, strides, ..] = arguments else {
                    return Err("the pickle rebuilds a tensor without a storage".into());
                };
                let sizes = |value: &Value| {
                    let items = self.items(value)?;
                    if items.len() > MOST_AXES {
                        return Err(format!("a tensor of {} axes in the pickle", items.len()));
                    }
                    items.iter().map(size).collect::<Result<Vec<_>, _>>()
                };
                let tensor = Tensor {
                    storage: storage.clone(),
                    offset: size(offset)?,
                    shape: sizes(shape)?,
                    strides: sizes(strides)?,
                };
                Ok(Value::Tensor(Rc::new(tensor)))
            }
            Global::RebuildParameter => match arguments {
                [tensor @ Value::Tensor(_), ..] => Ok(tensor.clone()),
                _ => Err("the pickle rebuilds a parameter without a tensor".into()),
            },
            Global::StorageType(_) => Err("the pickle makes a storage outside its file".into()),
        }
    }
}

fn size(value: &Value) -> Result<usize, String> {
    match value {
        Value::Int(number) => usize::try_from(*number).map_err(|_| format!("{number} as a size in the pickle")),
        _ => Err("something that is no number as a size in the pickle".into()),
    }
}

fn cut_short() -> String {
    "the pickle is cut short".into()
}

fn underflow() -> String {
    "the pickle takes more from its stack than is there".into()
}
