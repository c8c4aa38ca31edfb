//! The fuzz target `net`: any bytes as a packet.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::headers::run(input));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::headers::run);
}
