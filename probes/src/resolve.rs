//! From a definition to the ways in which this kernel could serve it.

use std::sync::Arc;

use iommu_probes_common::Field;

use crate::{
    Definition, Function, ProbeError,
    definition::{Argument, Hook, Kind, Source},
    kernel::Kernel,
};

/// One end of a probe, and one way to attach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    /// Where the asked sources are found.
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Event { category: &'static str, name: &'static str },
    Function(&'static str),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event { category, name } => write!(f, "{category}:{name}"),
            Self::Function(name) => write!(f, "{name}()"),
        }
    }
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Open,
    Close,
}

/// The ways to attach the opening end, best first; if there is none, why.
pub(crate) fn opening(kernel: &Kernel, probe: &Definition) -> Result<Vec<End>, Arc<ProbeError>> {
    let when = probe.open_when.map_or(Source::NONE, |when| when.source);
    ends(kernel, &probe.open, Side::Open, &[probe.key, probe.sub, probe.value, when])
}

/// The ways to attach the closing end, if the probe has one.
pub(crate) fn closing(kernel: &Kernel, probe: &Definition) -> Result<Vec<End>, Arc<ProbeError>> {
    let Some(hook) = &probe.close else { return Ok(Vec::new()) };
    let when = probe.close_when.map_or(Source::NONE, |when| when.source);
    ends(kernel, hook, Side::Close, &[when, probe.close_value])
}

fn ends(kernel: &Kernel, hook: &Hook, side: Side, sources: &[Source]) -> Result<Vec<End>, Arc<ProbeError>> {
    let found = match hook {
        Hook::Event { category, names } => {
            [typed_event(kernel, category, names, sources), recorded_event(kernel, category, names, sources)]
        }
        Hook::Function { names } => {
            [trampoline(kernel, names, side, sources), breakpoint(kernel, names, side, sources)]
        }
    };
    let mut ends = Vec::new();
    let mut why = None;
    for end in found {
        match end {
            Ok(end) => ends.push(end),
            // The kind tried last asks least of the kernel, so its reason is the one to mend.
            Err(error) => why = Some(error),
        }
    }
    match why {
        Some(why) if ends.is_empty() => Err(why),
        _ => Ok(ends),
    }
}

type Found = Result<End, Arc<ProbeError>>;

/// As `tp_btf`: the arguments of `__traceiter_NAME`, after its private first one.
fn typed_event(
    kernel: &Kernel,
    category: &'static str,
    names: &'static [&'static str],
    sources: &[Source],
) -> Found {
    let types = kernel.types.as_ref().map_err(Arc::clone)?;
    let found = names.iter().find_map(|name| {
        // aya attaches to what the kernel's own BTF describes; a module's tracepoints are left to the other kind.
        let function = types.function(&format!("__traceiter_{name}")).filter(|function| function.built_in)?;
        Some((*name, function))
    });
    let Some((name, mut function)) = found else { return Err(no_event(category, names)) };
    if !function.parameters.is_empty() {
        function.parameters.remove(0);
    }
    let target = Target::Event { category, name };
    let fields = arguments(kernel, &target, &function, &|n| Some(8 * n), None, sources)?;
    Ok(End { kind: Kind::TpBtf, target, fields })
}

/// As a tracepoint: fields of its record, as tracefs describes it.
fn recorded_event(
    kernel: &Kernel,
    category: &'static str,
    names: &'static [&'static str],
    sources: &[Source],
) -> Found {
    let tracefs = kernel.tracefs.as_ref().map_err(Arc::clone)?;
    let mut why = no_event(category, names);
    for name in names {
        let record = match tracefs.fields(category, name) {
            Ok(record) => record,
            Err(ProbeError::NoEvent { .. }) => continue,
            Err(error) => {
                why = Arc::new(error);
                continue;
            }
        };
        let target = Target::Event { category, name };
        let fields = sources
            .iter()
            .map(|source| {
                if !source.is_used() {
                    return Ok(Field::NONE);
                }
                source
                    .record
                    .and_then(|wanted| record.iter().find(|field| field.name == wanted))
                    .filter(|field| matches!(field.size_bytes, 1 | 2 | 4 | 8))
                    .map(|field| Field::direct(field.offset_bytes, field.size_bytes as u8))
                    .map(|field| narrowed(field, source))
                    .ok_or_else(|| no_field(&target, source))
            })
            .collect::<Result<_, _>>()?;
        return Ok(End { kind: Kind::Tracepoint, target, fields });
    }
    Err(why)
}

/// As `fentry` or `fexit`: arguments in an array, what is returned after them.
fn trampoline(kernel: &Kernel, names: &'static [&'static str], side: Side, sources: &[Source]) -> Found {
    let types = kernel.types.as_ref().map_err(Arc::clone)?;
    let found = names
        .iter()
        .find_map(|name| Some((*name, types.function(name).filter(|function| function.built_in)?)));
    let Some((name, function)) = found else { return Err(no_function(names)) };
    let target = Target::Function(name);
    let returned = (side == Side::Close).then_some(8 * function.parameters.len());
    let fields = arguments(kernel, &target, &function, &|n| Some(8 * n), returned, sources)?;
    let kind = if side == Side::Open { Kind::Fentry } else { Kind::Fexit };
    Ok(End { kind, target, fields })
}

/// As kprobe or kretprobe: arguments in registers, of which none is left at the return.
fn breakpoint(kernel: &Kernel, names: &'static [&'static str], side: Side, sources: &[Source]) -> Found {
    let Some(name) = names.iter().copied().find(|name| kernel.has_symbol(name)) else {
        return Err(no_function(names));
    };
    let target = Target::Function(name);
    let unknown = Function { parameters: Vec::new(), returns_bytes: 8, built_in: false };
    let function = match &kernel.types {
        Ok(types) => types.function(name).unwrap_or(unknown),
        // Without types a probe can still count and time; it fails below if it needs an argument.
        Err(_) => unknown,
    };
    let (register, returned): (&dyn Fn(usize) -> Option<usize>, _) = match side {
        Side::Open => (&registers::argument, None),
        Side::Close => (&|_| None, Some(registers::RETURNED)),
    };
    let fields = arguments(kernel, &target, &function, register, returned, sources)?;
    let kind = if side == Side::Open { Kind::Kprobe } else { Kind::Kretprobe };
    Ok(End { kind, target, fields })
}

/// Where the sources are among the arguments; `place` says where the nth argument is.
fn arguments(
    kernel: &Kernel,
    target: &Target,
    function: &Function,
    place: &dyn Fn(usize) -> Option<usize>,
    returned: Option<usize>,
    sources: &[Source],
) -> Result<Vec<Field>, Arc<ProbeError>> {
    let find = |wanted: &str| {
        let n = function.parameters.iter().position(|parameter| parameter.name == wanted)?;
        Some((u16::try_from(place(n)?).ok()?, u8::try_from(function.parameters[n].size_bytes).ok()?))
    };
    let one = |source: &Source| match source.argument? {
        Argument::Named(name) => find(name).map(|(offset, size)| Field::direct(offset, size)),
        Argument::Member { argument, structure, member } => {
            let (offset, _) = find(argument)?;
            let member = kernel.types.as_ref().ok()?.member(structure, member)?;
            let deref = u16::try_from(member.offset_bytes).ok().filter(|&deref| deref != Field::DIRECT)?;
            Some(Field::through(offset, deref, u8::try_from(member.size_bytes).ok()?))
        }
        Argument::Returned => {
            let size = u8::try_from(function.returns_bytes).ok()?;
            Some(Field::direct(u16::try_from(returned?).ok()?, size))
        }
    };
    sources
        .iter()
        .map(|source| {
            if !source.is_used() {
                return Ok(Field::NONE);
            }
            one(source)
                .filter(|field| matches!(field.size, 1 | 2 | 4 | 8))
                .map(|field| narrowed(field, source))
                .ok_or_else(|| no_field(target, source))
        })
        .collect()
}

/// As much of the value as the source asks for: its first byte, which is the lowest where this is used.
fn narrowed(field: Field, source: &Source) -> Field {
    if source.low_byte { Field { size: 1, ..field } } else { field }
}

/// Where the registers of a call lie in `struct pt_regs`.
#[cfg(target_arch = "x86_64")]
mod registers {
    pub(super) const RETURNED: usize = 80;

    pub(super) fn argument(n: usize) -> Option<usize> {
        // rdi, rsi, rdx, rcx, r8, r9
        [112, 104, 96, 88, 72, 64].get(n).copied()
    }
}

/// Where the registers of a call lie in `struct pt_regs`.
#[cfg(not(target_arch = "x86_64"))]
mod registers {
    pub(super) const RETURNED: usize = 0;

    pub(super) fn argument(n: usize) -> Option<usize> {
        // arm64: x0 to x7. No other architecture has been tried.
        (cfg!(target_arch = "aarch64") && n < 8).then_some(8 * n)
    }
}

fn no_event(category: &str, names: &[&str]) -> Arc<ProbeError> {
    let name = names.first().copied().unwrap_or_default();
    Arc::new(ProbeError::NoEvent { category: category.to_owned(), name: name.to_owned() })
}

fn no_function(names: &[&str]) -> Arc<ProbeError> {
    Arc::new(ProbeError::NoFunction { names: names.iter().map(|name| format!("{name}()")).collect() })
}

fn no_field(target: &Target, source: &Source) -> Arc<ProbeError> {
    let field = source.record.or(match source.argument {
        Some(Argument::Named(name) | Argument::Member { member: name, .. }) => Some(name),
        Some(Argument::Returned) => Some("return value"),
        None => None,
    });
    Arc::new(ProbeError::NoField { target: target.to_string(), field: field.unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the running kernel: whatever is found, its fields fit what the programs can read.
    #[test]
    fn what_is_found_can_be_read() {
        let kernel = Kernel::look(&[]);
        for probe in crate::catalogue::all() {
            for side in [opening(&kernel, probe), closing(&kernel, probe)] {
                match side {
                    Ok(ends) => {
                        assert!(ends.is_sorted_by_key(|end| end.kind), "best kind first: {ends:?}");
                        assert!(
                            ends.iter().flat_map(|end| &end.fields).all(|field| field.size <= 8),
                            "{}: {ends:?}",
                            probe.name
                        );
                    }
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let kernel = Kernel::look(&[]);
        let hook = Hook::Function { names: &["no_such_function_anywhere"] };
        let error = ends(&kernel, &hook, Side::Open, &[]).expect_err("is not there");
        assert!(error.to_string().contains("no_such_function_anywhere()"), "{error}");
    }
}
