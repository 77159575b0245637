use proptest::prelude::*;

use super::*;

/// Makes BTF: types as words, names joined.
fn btf(types: &[u32], names: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xeb9f_u16.to_ne_bytes());
    bytes.extend([1, 0]);
    let types_bytes = types.len() as u32 * 4;
    for word in [24, 0, types_bytes, types_bytes, names.len() as u32] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    bytes.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
    bytes.extend(names);
    bytes
}

/// `int f(struct s *where, unsigned long size)`; `struct s { u32 a; struct { u64 b; }; }`.
fn sample() -> Vec<u8> {
    let names = b"\0u32\0u64\0s\0a\0b\0f\0where\0size\0";
    let (u32_, u64_, s, a, b, f, where_, size) = (1, 5, 9, 11, 13, 15, 17, 23);
    let info = |kind: u32, count: u32| kind << 24 | count;
    let types = [
        &[u32_, info(1, 0), 4, 32][..],           // 1: u32
        &[u64_, info(1, 0), 8, 64],               // 2: u64
        &[0, info(4, 1), 8, b, 2, 0],             // 3: struct { u64 b; }
        &[s, info(4, 2), 16, a, 1, 0, 0, 3, 64],  // 4: struct s
        &[0, info(2, 0), 4],                      // 5: struct s *
        &[0, info(13, 2), 1, where_, 5, size, 2], // 6: prototype
        &[f, info(12, 1), 6],                     // 7: f
    ]
    .concat();
    btf(&types, names)
}

#[test]
fn a_function_has_its_arguments() {
    let function = Btf::parse(sample(), None).expect("well formed").function("f").expect("is there");
    assert_eq!(function.returns_bytes, 4);
    let [first, second] = function.parameters.as_slice() else { panic!("two: {function:?}") };
    assert_eq!((first.name.as_str(), first.size_bytes, first.points_to.as_deref()), ("where", 8, Some("s")));
    assert_eq!((second.name.as_str(), second.size_bytes, second.points_to.as_deref()), ("size", 8, None));
}

#[test]
fn members_are_found_through_anonymous_ones() {
    let btf = Btf::parse(sample(), None).expect("well formed");
    assert_eq!(btf.member("s", "a"), Some(Member { offset_bytes: 0, size_bytes: 4 }));
    assert_eq!(btf.member("s", "b"), Some(Member { offset_bytes: 8, size_bytes: 8 }));
    assert_eq!(btf.member("s", "c"), None);
    assert_eq!(btf.member("t", "a"), None);
}

#[test]
fn a_module_continues_the_kernels_types_and_names() {
    let kernel = Arc::new(Btf::parse(sample(), None).expect("well formed"));
    let base_names = kernel_names(&sample());
    // Type 8: g, with the kernel's prototype 6; its name is the module's first.
    let module = btf(&[base_names, 12 << 24, 6], b"g\0");
    let module = Btf::parse(module, Some(kernel)).expect("well formed");
    assert_eq!(module.function("g").map(|function| function.parameters.len()), Some(2));
    assert_eq!(module.function("f"), None, "the kernel's own is not the module's");
}

fn kernel_names(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes[20..24].try_into().expect("four bytes"))
}

#[test]
fn a_circle_of_typedefs_ends() {
    let circle = btf(&[1, 8 << 24, 1, 1, 12 << 24, 3, 0, 13 << 24, 1], b"\0t\0");
    let btf = Btf::parse(circle, None).expect("well formed");
    assert_eq!(btf.function("t").map(|function| function.returns_bytes), Some(0));
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(Btf::parse(vec![0; 10], None).err(), Some(BtfError::Short { length: 10, needed: 24 }));
    assert_eq!(Btf::parse(vec![0; 24], None).err(), Some(BtfError::Magic(0)));
    assert_eq!(Btf::parse(btf(&[0, 31 << 24, 0], b""), None).err(), Some(BtfError::Kind { id: 1, kind: 31 }));
    let mut cut = sample();
    cut.truncate(60);
    assert!(matches!(Btf::parse(cut, None), Err(BtfError::Short { length: 60, .. })));
}

proptest! {
    /// Whatever the bytes, nothing panics or runs for ever.
    #[test]
    fn any_bytes_are_read_or_refused(changes in proptest::collection::vec((0..sample().len(), any::<u8>()), 0..12)) {
        let mut bytes = sample();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(btf) = Btf::parse(bytes, None) {
            let _ = (btf.function("f"), btf.member("s", "b"));
        }
    }
}

/// The running kernel's own, where it has one: anybody may read it.
#[test]
fn the_running_kernels_types_can_be_read() {
    let types = match KernelTypes::read(&[]) {
        Ok(types) => types,
        Err(error @ crate::ProbeError::NoBtf { .. }) => {
            iommu_equipment::missing(iommu_equipment::Equipment::Optional, error);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let open = types.function("do_sys_openat2").expect("in every kernel since 5.6");
    assert!(open.parameters.iter().any(|parameter| parameter.name == "filename"), "{open:?}");
    assert!(types.member("task_struct", "comm").is_some_and(|comm| comm.offset_bytes > 0));
}
