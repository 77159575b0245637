//! The guest's instructions.

use crate::{DOORBELL_ADDRESS, MMIO_ADDRESS, PORT, Payload};

/// One repeated instruction.
const OUT_DX_AL: &[u8] = &[0xee];
const STORE_EAX_AT_EBX: &[u8] = &[0x89, 0x03];
const LOAD_EAX_FROM_EBX: &[u8] = &[0x8b, 0x03];
const CPUID: &[u8] = &[0x0f, 0xa2];
const HLT: u8 = 0xf4;

/// The machine code of a payload, which runs at any address.
pub(crate) fn assemble(payload: &Payload) -> Vec<u8> {
    let mut code = Vec::new();
    repeat_keeping_ecx(&mut code, payload.cpuids, CPUID);
    repeat(&mut code, payload.halts, &[HLT]);
    // mov edx, PORT
    code.push(0xba);
    code.extend(u32::from(PORT).to_le_bytes());
    repeat(&mut code, payload.port_writes, OUT_DX_AL);
    move_to_ebx(&mut code, MMIO_ADDRESS);
    repeat(&mut code, payload.mmio_writes, STORE_EAX_AT_EBX);
    repeat(&mut code, payload.mmio_reads, LOAD_EAX_FROM_EBX);
    move_to_ebx(&mut code, DOORBELL_ADDRESS);
    repeat(&mut code, payload.doorbells, STORE_EAX_AT_EBX);
    code.push(HLT);
    code
}

/// A loop of `times` rounds of two instructions, then a halt.
pub(crate) fn spin(times: u32) -> Vec<u8> {
    let mut code = Vec::new();
    repeat(&mut code, times, &[]);
    code.push(HLT);
    code
}

fn move_to_ebx(code: &mut Vec<u8>, value: u32) {
    code.push(0xbb);
    code.extend(value.to_le_bytes());
}

/// `mov ecx, times; again: access; dec ecx; jnz again`; nothing for no times.
fn repeat(code: &mut Vec<u8>, times: u32, access: &[u8]) {
    if times == 0 {
        return;
    }
    code.push(0xb9);
    code.extend(times.to_le_bytes());
    code.extend(access);
    code.push(0x49);
    // Back over the access, `dec` (one byte) and this jump (two).
    let back = -(access.len() as i8 + 3);
    code.extend([0x75, back.to_le_bytes()[0]]);
}

/// As [`repeat`], for an instruction that overwrites ecx: `mov esi, times; again: …; dec esi; jnz again`.
fn repeat_keeping_ecx(code: &mut Vec<u8>, times: u32, instruction: &[u8]) {
    let from = code.len();
    repeat(code, times, instruction);
    if times > 0 {
        // Both instructions have the register in their lowest three bits: ecx is 1, esi is 6.
        code[from] = 0xbe;
        code[from + 5 + instruction.len()] = 0x4e;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_jumps_back_to_its_decrement() {
        assert_eq!(spin(3), [0xb9, 3, 0, 0, 0, 0x49, 0x75, 0xfd, 0xf4]);
        assert_eq!(spin(0), [0xf4]);
    }

    #[test]
    fn cpuid_is_counted_in_a_register_that_it_keeps() {
        let code = assemble(&Payload { cpuids: 5, halts: 3, ..Payload::default() });
        let expected: &[u8] = &[
            0xbe, 5, 0, 0, 0, // mov esi, 5
            0x0f, 0xa2, 0x4e, 0x75, 0xfb, // cpuid; dec esi; jnz -5
            0xb9, 3, 0, 0, 0, // mov ecx, 3
            0xf4, 0x49, 0x75, 0xfc, // hlt; dec ecx; jnz -4
        ];
        assert_eq!(&code[..expected.len()], expected);
    }

    #[test]
    fn the_code_is_these_bytes() {
        let code = assemble(&Payload { port_writes: 2, mmio_reads: 0x0102_0304, ..Payload::default() });
        let expected: &[u8] = &[
            0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
            0xb9, 2, 0, 0, 0, // mov ecx, 2
            0xee, 0x49, 0x75, 0xfc, // out dx, al; dec ecx; jnz -4
            0xbb, 0, 0, 0, 0xd0, // mov ebx, 0xd0000000
            0xb9, 4, 3, 2, 1, // mov ecx, 0x01020304
            0x8b, 0x03, 0x49, 0x75, 0xfb, // mov eax, [ebx]; dec ecx; jnz -5
            0xbb, 0, 0x10, 0, 0xd0, // mov ebx, 0xd0001000
            0xf4, // hlt
        ];
        assert_eq!(code, expected);
    }
}
