//! The script that an input is: steps of one byte for what to do, one for a length, and that many bytes.

pub fn steps(mut script: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let ([what, length], rest) = script.split_first_chunk()?;
        let (step, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        script = rest;
        Some((*what, step))
    })
}
