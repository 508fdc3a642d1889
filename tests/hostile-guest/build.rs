//! Links the program as a kernel: static, without a C runtime, in pages that no number which a device
//! writes by itself names to the balloon.

fn main() {
    for argument in [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--image-base=0x1234000",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,noexecstack",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
