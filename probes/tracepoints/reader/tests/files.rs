//! Hand-made files: relocated, thrown away, malformed.

use iommu_site_reader::{NoteError, SitesError, parse, sites_of};
use proptest::prelude::*;

const CODE_AT: u64 = 0x40_1000;
const CODE: [u8; 16] =
    [0x90, 0x90, 0x0f, 0x1f, 0x44, 0, 0, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90];
const BASE_AT: u64 = 0x40_2000;

/// A note as the assembler would write it.
fn note(address: u64, base: u64, name: &str) -> Vec<u8> {
    let mut descriptor: Vec<u8> = [address, base, 0].into_iter().flat_map(u64::to_le_bytes).collect();
    for text in ["iommu_bench", name, "8@%rdi"] {
        descriptor.extend(text.bytes());
        descriptor.push(0);
    }
    raw_note(&descriptor)
}

fn raw_note(descriptor: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [8, descriptor.len() as u32, 3].into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend(b"stapsdt\0");
    bytes.extend(descriptor);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An ELF file with one segment of code, notes, and a base section at `base`.
fn program(notes: &[u8], base: u64) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.note.stapsdt\0.stapsdt.base\0.shstrtab\0";
    let code = 64 + 56;
    let note_at = code + CODE.len();
    let names_at = note_at + notes.len();
    let sections_at = (names_at + NAMES.len()).next_multiple_of(8);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&mut file, &[(2, 2), (62, 2), (1, 4), (CODE_AT, 8), (64, 8), (sections_at as u64, 8), (0, 4)]);
    put(&mut file, &[(64, 2), (56, 2), (1, 2), (64, 2), (4, 2), (3, 2)]);
    let len = CODE.len() as u64;
    put(
        &mut file,
        &[(1, 4), (5, 4), (code as u64, 8), (CODE_AT, 8), (CODE_AT, 8), (len, 8), (len, 8), (16, 8)],
    );
    file.extend(CODE);
    file.extend(notes);
    file.extend(NAMES);
    file.resize(sections_at, 0);
    let section = |file: &mut Vec<u8>, name: u64, kind: u64, addr: u64, at: usize, len: usize, align: u64| {
        let (at, len) = (at as u64, len as u64);
        put(file, &[(name, 4), (kind, 4), (0, 8), (addr, 8), (at, 8), (len, 8), (0, 8), (align, 8), (0, 8)]);
    };
    section(&mut file, 0, 0, 0, 0, 0, 0);
    section(&mut file, 1, 7, 0, note_at, notes.len(), 4);
    section(&mut file, 15, 1, base, code, 1, 1);
    section(&mut file, 29, 3, 0, names_at, NAMES.len(), 1);
    file
}

fn put(file: &mut Vec<u8>, fields: &[(u64, usize)]) {
    for (value, bytes) in fields {
        file.extend(&value.to_le_bytes()[..*bytes]);
    }
}

#[test]
fn a_site_is_found_at_its_offset() {
    let sites = parse(&*program(&note(CODE_AT + 2, BASE_AT, "kick"), BASE_AT)).unwrap();
    let [site] = &sites[..] else { panic!("{sites:?}") };
    assert_eq!((site.name.as_str(), site.address, site.file_offset), ("kick", CODE_AT + 2, 64 + 56 + 2));
    assert_eq!(site.instruction, iommu_sites::NOP);
}

#[test]
fn a_file_relocated_after_linking_is_followed_by_its_base() {
    let moved = parse(&*program(&note(0x1002, 0x2000, "kick"), 0x2000 + CODE_AT - 0x1000)).unwrap();
    assert_eq!(moved[0].address, CODE_AT + 2);
}

#[test]
fn code_that_was_thrown_away_has_no_site() {
    let notes = [note(0, BASE_AT, "gone"), note(CODE_AT, BASE_AT, "here")].concat();
    let sites = parse(&*program(&notes, BASE_AT)).unwrap();
    assert_eq!(sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>(), ["here"]);
}

#[test]
fn the_last_byte_of_the_code_can_be_a_site() {
    let sites = parse(&*program(&note(CODE_AT + 15, BASE_AT, "last"), BASE_AT)).unwrap();
    assert_eq!(sites[0].instruction, [0x90, 0, 0, 0, 0]);
}

#[test]
fn what_cannot_be_read_says_why() {
    let text = |data: &[u8]| parse(data).unwrap_err().to_string();
    assert!(text(b"#!/bin/sh\n").contains("not a readable 64-bit ELF file"));
    let mut arm = program(&[], BASE_AT);
    arm[18] = 183;
    assert!(matches!(parse(&*arm), Err(SitesError::Machine { machine: 183 })));
    let outside = program(&note(0x1234, BASE_AT, "lost"), BASE_AT);
    assert!(matches!(parse(&*outside), Err(SitesError::NoCode { address: 0x1234, .. })));
    let short = program(&[note(CODE_AT, BASE_AT, "good"), raw_note(&[1, 2, 3])].concat(), BASE_AT);
    let error = parse(&*short).unwrap_err();
    let short = NoteError::Short { bytes: 3 };
    assert!(matches!(&error, SitesError::Note { number: 1, source } if *source == short), "{error}");
    assert!(matches!(sites_of("/nonexistent".as_ref()), Err(SitesError::Open { .. })));
}

proptest! {
    /// Whatever is broken, the reader does not panic, and what it finds lies in the file.
    #[test]
    fn damaged_files(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
                     keep in any::<prop::sample::Index>(), cut: bool) {
        let notes = [note(CODE_AT + 2, BASE_AT, "kick"), note(CODE_AT, BASE_AT, "submit")].concat();
        let mut file = program(&notes, BASE_AT);
        for (at, value) in damage {
            let at = at.index(file.len());
            file[at] = value;
        }
        if cut {
            file.truncate(keep.index(file.len()));
        }
        for site in parse(&*file).unwrap_or_default() {
            prop_assert!(site.file_offset < file.len() as u64);
        }
    }
}
