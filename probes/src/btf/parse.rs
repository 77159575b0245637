//! Reading the format. Every offset and every type's number may be nonsense.

use std::sync::Arc;

use super::{BtfError, Function, Member, Parameter};

/// Kinds of types that are looked into.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// How deep typedefs, qualifiers and anonymous members are followed. Real ones are below ten; a made-up circle ends here.
const DEPTH: u32 = 32;
const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;

/// One BTF: the kernel's, or a module's, whose types and names continue the kernel's.
#[derive(Debug)]
pub struct Btf {
    base: Option<Arc<Self>>,
    bytes: Vec<u8>,
    /// Where each type begins in `bytes`; type `n` of this BTF is at index `n - first`.
    types: Vec<u32>,
    strings: std::ops::Range<usize>,
}

/// A type's three words.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    info: u32,
    /// Size, or the number of another type.
    word: u32,
}

impl Type {
    const fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    const fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    const fn has_bitfields(self) -> bool {
        self.info >> 31 != 0
    }
}

impl Btf {
    /// Reads BTF; `base` is the kernel's where this is a module's.
    ///
    /// # Errors
    ///
    /// It is cut short, is not BTF of this machine's byte order, or has a kind of type that is not known.
    pub fn parse(bytes: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, BtfError> {
        let mut btf = Self { base, bytes, types: Vec::new(), strings: 0..0 };
        btf.need(HEADER_BYTES)?;
        let magic = u16::from_ne_bytes([btf.bytes[0], btf.bytes[1]]);
        if magic != MAGIC {
            return Err(BtfError::Magic(magic));
        }
        let word = |at| btf.word(at).map_or(0, |word| word as usize);
        let header = word(4);
        let section = |offset: usize, length: usize| {
            let start = header.saturating_add(word(offset));
            start..start.saturating_add(word(length))
        };
        let (types, strings) = (section(8, 12), section(16, 20));
        btf.need(types.end.max(strings.end))?;
        btf.strings = strings;
        btf.index(types)?;
        Ok(btf)
    }

    /// Notes where each type begins.
    fn index(&mut self, section: std::ops::Range<usize>) -> Result<(), BtfError> {
        let mut at = section.start;
        while at < section.end {
            let id = self.first() + self.types.len() as u32;
            let Some(found) = self.type_at(at) else { return Err(self.short(at + TYPE_BYTES)) };
            let count = found.count();
            let rest = match found.kind() {
                kind::INT | 14 | 17 => 4,
                kind::PTR
                | 7
                | kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::FUNC
                | kind::FLOAT
                | kind::TYPE_TAG => 0,
                3 => 12,
                kind::STRUCT | kind::UNION | 15 | kind::ENUM64 => 12 * count,
                kind::ENUM | kind::FUNC_PROTO => 8 * count,
                kind => return Err(BtfError::Kind { id, kind }),
            };
            self.types.push(at as u32);
            at += TYPE_BYTES + rest;
        }
        if at > section.end { Err(self.short(at)) } else { Ok(()) }
    }

    fn need(&self, bytes: usize) -> Result<(), BtfError> {
        if self.bytes.len() < bytes { Err(self.short(bytes)) } else { Ok(()) }
    }

    const fn short(&self, needed: usize) -> BtfError {
        BtfError::Short { length: self.bytes.len(), needed }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        Some(Type { name: self.word(at)?, info: self.word(at + 4)?, word: self.word(at + 8)? })
    }

    /// Number of this BTF's first type; 0 is `void`.
    fn first(&self) -> u32 {
        self.base.as_ref().map_or(1, |base| base.first() + base.types.len() as u32)
    }

    /// Where this BTF's names begin.
    fn first_name(&self) -> u32 {
        self.base.as_ref().map_or(0, |base| base.first_name() + base.strings.len() as u32)
    }

    /// A type and where what follows it begins, in the BTF that has it.
    fn find(&self, id: u32) -> Option<(&Self, Type, usize)> {
        if id == 0 {
            return None;
        }
        if id < self.first() {
            return self.base.as_ref()?.find(id);
        }
        let at = *self.types.get((id - self.first()) as usize)? as usize;
        Some((self, self.type_at(at)?, at + TYPE_BYTES))
    }

    fn name(&self, offset: u32) -> &str {
        if offset < self.first_name() {
            return self.base.as_ref().map_or("", |base| base.name(offset));
        }
        let start = self.strings.start.saturating_add((offset - self.first_name()) as usize);
        let bytes = self.bytes.get(start..self.strings.end).unwrap_or_default();
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).unwrap_or("")
    }

    /// The first of this BTF's own types that has this name and one of these kinds.
    fn named(&self, name: &str, kinds: &[u32]) -> Option<(Type, usize)> {
        self.types.iter().find_map(|&at| {
            let found = self.type_at(at as usize)?;
            (kinds.contains(&found.kind()) && self.name(found.name) == name)
                .then_some((found, at as usize + TYPE_BYTES))
        })
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<(&Self, Type, usize)> {
        for _ in 0..DEPTH {
            let found = self.find(id)?;
            match found.1.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.1.word
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn size_bytes(&self, id: u32) -> u32 {
        match self.resolve(id) {
            Some((_, found, _)) => match found.kind() {
                kind::PTR => 8,
                kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                    found.word
                }
                _ => 0,
            },
            None => 0,
        }
    }

    /// The function of that name, of this BTF's own.
    pub fn function(&self, name: &str) -> Option<Function> {
        let (function, _) = self.named(name, &[kind::FUNC])?;
        let (within, prototype, at) = self.find(function.word)?;
        if prototype.kind() != kind::FUNC_PROTO {
            return None;
        }
        let parameters = (0..prototype.count())
            .map(|n| {
                let (name, id) = (within.word(at + 8 * n)?, within.word(at + 8 * n + 4)?);
                Some(Parameter {
                    name: within.name(name).to_owned(),
                    size_bytes: within.size_bytes(id),
                    points_to: within.pointee(id),
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Function { parameters, returns_bytes: within.size_bytes(prototype.word), built_in: false })
    }

    fn pointee(&self, id: u32) -> Option<String> {
        let (within, pointer, _) = self.resolve(id)?;
        if pointer.kind() != kind::PTR {
            return None;
        }
        let (within, target, _) = within.resolve(pointer.word)?;
        let name = within.name(target.name);
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// The member of that name of a structure of this BTF's own, also inside its anonymous members. No bit fields.
    pub fn member(&self, structure: &str, member: &str) -> Option<Member> {
        let (found, at) = self.named(structure, &[kind::STRUCT, kind::UNION])?;
        self.member_of(found, at, member, 0)
    }

    fn member_of(&self, structure: Type, at: usize, wanted: &str, depth: u32) -> Option<Member> {
        if depth > DEPTH {
            return None;
        }
        for n in 0..structure.count() {
            let at = at + 12 * n;
            let (name, id, place) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let (bits, bit_offset) =
                if structure.has_bitfields() { (place >> 24, place & 0xff_ffff) } else { (0, place) };
            if self.name(name) == wanted && bits == 0 && !wanted.is_empty() {
                return Some(Member { offset_bytes: bit_offset / 8, size_bytes: self.size_bytes(id) });
            }
            if self.name(name).is_empty()
                && let Some((within, inner, inner_at)) = self.resolve(id)
                && matches!(inner.kind(), kind::STRUCT | kind::UNION)
                && let Some(found) = within.member_of(inner, inner_at, wanted, depth + 1)
            {
                return Some(Member {
                    offset_bytes: (bit_offset / 8).checked_add(found.offset_bytes)?,
                    ..found
                });
            }
        }
        None
    }
}
