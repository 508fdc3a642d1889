//! Guests of a few instructions, as ELF kernels that the hypervisor boots in Linux's place: in long
//! mode, with the first GiB mapped one to one and an empty interrupt table.

/// Where the code lies and begins.
const ADDRESS: u64 = 0x10_0000;

/// `cli; hlt`, and again.
pub const HALT_FOR_EVER: &[u8] = &[
    0xfa, // cli
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

/// An exception where no handler is.
pub const TRIPLE_FAULT: &[u8] = &[
    0x0f, 0x0b, // ud2
];

/// Reads and writes every port below 4096 but the keyboard controller's, then the registers of every device
/// and the places between them in words of all sizes, then resets.
pub const TOUCH_EVERYTHING_THEN_RESET: &[u8] = &[
    // the ports, in bytes and double words
    0x31, 0xd2, // xor edx, edx
    // port:
    0xec, // in al, dx
    0xed, // in eax, dx
    0x83, 0xfa, 0x64, // cmp edx, 0x64
    0x74, 0x02, // je next
    0xee, // out dx, al
    0xef, // out dx, eax
    // next:
    0xff, 0xc2, // inc edx
    0x81, 0xfa, 0x00, 0x10, 0x00, 0x00, // cmp edx, 0x1000
    0x75, 0xed, // jne port
    // map 0xd0000000 to 0xd0200000: PDPT entry 3 -> a table at 0xe000, its entry 128 a large page
    0x48, 0xc7, 0x04, 0x25, 0x18, 0xa0, 0x00, 0x00, 0x03, 0xe0, 0x00,
    0x00, // mov qword [0xa018], 0xe003
    0xb8, 0x83, 0x00, 0x00, 0xd0, // mov eax, 0xd0000083
    0x48, 0x89, 0x04, 0x25, 0x00, 0xe4, 0x00, 0x00, // mov [0xe400], rax
    // the first 32 KiB: eight register blocks
    0xbb, 0x00, 0x00, 0x00, 0xd0, // mov ebx, 0xd0000000
    // word:
    0x8a, 0x03, // mov al, [rbx]
    0x48, 0x8b, 0x03, // mov rax, [rbx]
    0x88, 0x03, // mov [rbx], al
    0x66, 0x89, 0x03, // mov [rbx], ax
    0x89, 0x03, // mov [rbx], eax
    0x48, 0x89, 0x03, // mov [rbx], rax
    0x83, 0xc3, 0x04, // add ebx, 4
    0x81, 0xfb, 0x00, 0x80, 0x00, 0xd0, // cmp ebx, 0xd0008000
    0x75, 0xe6, // jne word
    // reset
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xf4, // hlt
];

/// An ELF file with this code in one segment.
///
/// # Panics
///
/// Never: a few instructions have a length.
#[must_use]
pub fn kernel(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let len = u64::try_from(code.len()).expect("a length");
    let mut file = Vec::new();
    // e_ident: ELF, 64 bit, little endian, version 1
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let long = |file: &mut Vec<u8>, values: &[u64]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    half(&mut file, &[2, 62]); // executable, x86-64
    word(&mut file, &[1]);
    long(&mut file, &[ADDRESS, 64, 0]); // entry, program headers, no sections
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]); // sizes and counts
    // The one segment: PT_LOAD, readable and executable.
    word(&mut file, &[1, 5]);
    long(&mut file, &[HEADERS, ADDRESS, ADDRESS, len, len, 0x1000]);
    file.extend(code);
    file
}
