//! Links the program as a kernel: static, without a C runtime, at 2 MiB, the second of the pages
//! that the hypervisor maps at boot.

fn main() {
    for argument in [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--image-base=0x200000",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,noexecstack",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
