//! From an ELF file to its notes, and from addresses to file offsets.

use object::{
    LittleEndian as LE,
    elf::{EM_X86_64, FileHeader64, PF_X, PT_LOAD, ProgramHeader64, SectionHeader64},
    read::{
        ReadRef,
        elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader, SectionTable},
    },
};

use crate::{FoundSite, SitesError, note::Note};

const SECTION: &[u8] = b".note.stapsdt";
const BASE_SECTION: &[u8] = b".stapsdt.base";
const OWNER: &[u8] = b"stapsdt";
/// `NT_STAPSDT`.
const NOTE_TYPE: u32 = 3;

type Header = FileHeader64<LE>;

/// The sites of a program file, all providers', by file offset.
///
/// # Errors
/// When it is no ELF file for x86-64, or has malformed notes.
pub fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Vec<FoundSite>, SitesError> {
    let header = Header::parse(data)?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    if machine != EM_X86_64 {
        return Err(SitesError::Machine { machine });
    }
    let sections = header.sections(endian, data)?;
    let program = Program {
        data,
        segments: header.program_headers(endian, data)?,
        base: named(&sections, BASE_SECTION).next().map(|section| section.sh_addr(endian)),
    };
    let mut found = Vec::new();
    let mut number = 0;
    for section in named(&sections, SECTION) {
        let Some(mut notes) = section.notes(endian, data)? else { continue };
        while let Some(note) = next(&mut notes)? {
            if let Some(descriptor) = note {
                let note = Note::parse(descriptor).map_err(|source| SitesError::Note { number, source })?;
                found.extend(program.locate(&note)?);
            }
            number += 1;
        }
    }
    found.sort_by_key(|site| site.file_offset);
    Ok(found)
}

/// The next note's descriptor; `Some(None)` for a note of another kind.
fn next<'data>(
    notes: &mut NoteIterator<'data, Header>,
) -> Result<Option<Option<&'data [u8]>>, object::Error> {
    let note = notes.next()?;
    Ok(note.map(|note| (note.name() == OWNER && note.n_type(LE) == NOTE_TYPE).then(|| note.desc())))
}

fn named<'a, 'data, R: ReadRef<'data>>(
    sections: &'a SectionTable<'data, Header, R>,
    name: &'static [u8],
) -> impl Iterator<Item = &'data SectionHeader64<LE>> + use<'a, 'data, R> {
    sections.iter().filter(move |section| sections.section_name(LE, section).is_ok_and(|found| found == name))
}

/// What is needed to find an address in the file.
struct Program<'data, R> {
    data: R,
    segments: &'data [ProgramHeader64<LE>],
    /// Where `.stapsdt.base` is; notes say where it was when they were written.
    base: Option<u64>,
}

impl<'data, R: ReadRef<'data>> Program<'data, R> {
    fn locate(&self, note: &Note<'_>) -> Result<Option<FoundSite>, SitesError> {
        // The linker threw the site's code away, and zeroed what points to it.
        if note.address == 0 {
            return Ok(None);
        }
        let moved = match self.base {
            Some(base) if note.base != 0 => base.wrapping_sub(note.base),
            _ => 0,
        };
        let address = note.address.wrapping_add(moved);
        let code = self.code_at(address);
        let (file_offset, instruction) =
            code.ok_or_else(|| SitesError::NoCode { name: note.name.to_owned(), address })?;
        Ok(Some(FoundSite {
            provider: note.provider.to_owned(),
            name: note.name.to_owned(),
            arguments: note.arguments.to_owned(),
            address,
            file_offset,
            semaphore: (note.semaphore != 0).then(|| note.semaphore.wrapping_add(moved)),
            instruction,
        }))
    }

    /// Offset in the file and the bytes there, for an address in executable memory.
    fn code_at(&self, address: u64) -> Option<(u64, [u8; 5])> {
        let (segment, into) = self.segments.iter().find_map(|segment| {
            let into = address.checked_sub(segment.p_vaddr(LE))?;
            let code = segment.p_type(LE) == PT_LOAD && segment.p_flags(LE) & PF_X != 0;
            (code && into < segment.p_filesz(LE)).then_some((segment, into))
        })?;
        let offset = segment.p_offset(LE).checked_add(into)?;
        // A one-byte no-operation may be the last instruction of the code.
        let len = (segment.p_filesz(LE) - into).min(5);
        let bytes = self.data.read_bytes_at(offset, len).ok()?;
        let mut instruction = [0; 5];
        instruction[..bytes.len()].copy_from_slice(bytes);
        Some((offset, instruction))
    }
}
