//! What a site is made of: the instruction and its note.

/// Defines a function for each site and the list of all of them.
macro_rules! sites {
    ($($(#[$doc:meta])* $kind:ident $name:ident(
        $key:ident: $key_type:ty $(, $arg:ident: $type:ty as $says:literal)* $(,)?
    );)+) => {
        /// Every site, in the order in which a request passes them.
        pub const SITES: &[Site] = &[$(Site {
            name: stringify!($name),
            arguments: &[stringify!($key) $(, $says)*],
            batch: $crate::emit::is_batch!($kind),
        }),+];

        $(
            $(#[$doc])*
            ///
            #[doc = concat!("- `rdi`: `", stringify!($key), "`")]
            $(#[doc = concat!("- `", stringify!($arg), "`: ", $says)])*
            #[inline(always)]
            pub fn $name($key: $key_type $(, $arg: $type)*) {
                $crate::emit::emit!($name, u64::from($key) $(, u64::from($arg))*);
            }
        )+
    };
}
pub(crate) use sites;

macro_rules! is_batch {
    (each) => {
        false
    };
    (batch) => {
        true
    };
}
pub(crate) use is_batch;

/// One site with one to three arguments.
///
/// The note's layout is SystemTap's: link-time address of the instruction, of `.stapsdt.base` (by which a reader would
/// notice that the file was relocated after linking) and of a semaphore (none), then provider, name and arguments, each
/// of them ending in a zero byte.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(any(feature = "off", loom, shuttle, miri))))]
macro_rules! emit {
    ($name:ident, $rdi:expr) => {
        $crate::emit::emit!(@asm $name, "8@%rdi", in("rdi") $rdi)
    };
    ($name:ident, $rdi:expr, $rsi:expr) => {
        $crate::emit::emit!(@asm $name, "8@%rdi 8@%rsi", in("rdi") $rdi, in("rsi") $rsi)
    };
    ($name:ident, $rdi:expr, $rsi:expr, $rdx:expr) => {
        $crate::emit::emit!(@asm $name, "8@%rdi 8@%rsi 8@%rdx", in("rdi") $rdi, in("rsi") $rsi, in("rdx") $rdx)
    };
    (@asm $name:ident, $args:literal, $($operands:tt)+) => {
        // The base symbol is global on purpose and defined once: `.ifndef`, and a COMDAT group across objects.
        #[allow(named_asm_labels, reason = "_.stapsdt.base is a fixed name that readers look for")]
        // SAFETY: the code is one instruction that changes no register, flag, memory or stack; everything else goes to
        // sections that are not loaded, or to one byte that nobody reads. A probe attached to it preserves all registers
        // (the kernel sees to that).
        unsafe {
            ::core::arch::asm!(
                "990: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
                ".pushsection .note.stapsdt, \"\", @note",
                ".balign 4",
                ".4byte 992f-991f, 994f-993f, 3",
                "991: .asciz \"stapsdt\"",
                "992: .balign 4",
                "993: .8byte 990b",
                ".8byte _.stapsdt.base",
                ".8byte 0",
                ".asciz \"iommu_bench\"",
                concat!(".asciz \"", stringify!($name), "\""),
                concat!(".asciz \"", $args, "\""),
                "994: .balign 4",
                ".popsection",
                ".ifndef _.stapsdt.base",
                ".pushsection .stapsdt.base, \"aG\", @progbits, .stapsdt.base, comdat",
                ".weak _.stapsdt.base",
                ".hidden _.stapsdt.base",
                "_.stapsdt.base: .space 1",
                ".size _.stapsdt.base, 1",
                ".popsection",
                ".endif",
                $($operands)+,
                options(nomem, nostack, preserves_flags)
            );
        }
    };
}

#[cfg(not(all(
    target_arch = "x86_64",
    target_os = "linux",
    not(any(feature = "off", loom, shuttle, miri))
)))]
macro_rules! emit {
    ($name:ident $(, $argument:expr)+) => {
        $(let _ = $argument;)+
    };
}
pub(crate) use emit;
