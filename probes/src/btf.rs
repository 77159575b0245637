//! The kernel's type information (BTF), as far as probes need it: a function's arguments, a structure's members.
//!
//! Format: the kernel's `Documentation/bpf/btf.rst`. aya reads BTF too, but only tells the number of a type.

mod parse;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use thiserror::Error;

pub use parse::Btf;

/// BTF that is not well formed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BtfError {
    /// The file ends before something that it announces.
    #[error("ends at byte {length}, before byte {needed}")]
    Short {
        /// Bytes there are.
        length: usize,
        /// Bytes there would have to be.
        needed: usize,
    },
    /// Not BTF, or of another byte order.
    #[error("begins with {0:#06x}, which is not BTF of this machine's byte order")]
    Magic(u16),
    /// A kind of type that this reader does not know.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// Its number.
        id: u32,
        /// Its kind.
        kind: u32,
    },
}

/// A function's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the source.
    pub name: String,
    /// Its size, bytes; 8 at most where it can be read from a register.
    pub size_bytes: u32,
    /// The structure it points to, if it does.
    pub points_to: Option<String>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its arguments, in order.
    pub parameters: Vec<Parameter>,
    /// Size of what it returns, bytes; 0 for nothing.
    pub returns_bytes: u32,
    /// It is described in the kernel's own BTF, not in that of a module.
    pub built_in: bool,
}

/// A structure's member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it lies, bytes.
    pub offset_bytes: u32,
    /// Its size, bytes.
    pub size_bytes: u32,
}

/// BTF of the kernel and of its modules.
#[derive(Debug)]
pub struct KernelTypes {
    kernel: Arc<Btf>,
    modules: Vec<Btf>,
}

/// Where the kernel shows its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

impl KernelTypes {
    /// Reads the running kernel's, and those of the modules named.
    ///
    /// # Errors
    ///
    /// The kernel's own BTF does not exist or is malformed. A module's that is so is left out: its functions are then not
    /// found.
    pub fn read(modules: &[&str]) -> Result<Self, crate::ProbeError> {
        let path = Path::new(KERNEL_BTF);
        let bytes = std::fs::read(path)
            .map_err(|source| crate::ProbeError::NoBtf { path: path.to_path_buf(), source })?;
        let kernel = Arc::new(Btf::parse(bytes, None)?);
        let modules = modules
            .iter()
            .filter_map(|module| std::fs::read(path.with_file_name(module)).ok())
            .filter_map(|bytes| match Btf::parse(bytes, Some(Arc::clone(&kernel))) {
                Ok(module) => Some(module),
                Err(error) => {
                    tracing::warn!(%error, "type information of a module is left out");
                    None
                }
            })
            .collect();
        Ok(Self { kernel, modules })
    }

    /// The function of that name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Function> {
        if let Some(function) = self.kernel.function(name) {
            return Some(Function { built_in: true, ..function });
        }
        self.modules.iter().find_map(|module| module.function(name))
    }

    /// The member of that name of a structure.
    #[must_use]
    pub fn member(&self, structure: &str, member: &str) -> Option<Member> {
        self.kernel
            .member(structure, member)
            .or_else(|| self.modules.iter().find_map(|module| module.member(structure, member)))
    }
}
