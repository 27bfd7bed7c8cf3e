//! Lets everything in the simulation find its source of chance, also what looks for it by name (see `tests/sim/chance.rs`).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic");
}
