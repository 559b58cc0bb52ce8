//! A session's host serves any backend without a panic: the real driver, with a real terminal.
#![no_main]

mod steps;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| shellbridge_host::fuzzing::serve(steps::steps(data)));
