//! The backend's task of a session withstands any host.
#![no_main]

mod steps;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| shellbridge_backend::fuzzing::withstand(steps::steps(data)));
