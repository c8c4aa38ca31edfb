//! The fuzz target `pipeline`: any happenings at a node.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::pipeline::run(input));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::pipeline::run);
}
