//! Parses callgrind's output: instructions by function ("Callgrind Format Specification", Valgrind manual).

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, ensure};

/// Functions printed.
const SHOWN: usize = 25;

/// Instructions of a number of equal operations.
#[derive(Debug, Default)]
pub(super) struct Profile {
    total: u64,
    operations: u64,
    functions: HashMap<String, Cost>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    /// Of the function itself.
    own: u64,
    /// Of its callees. Counts indirect recursion twice.
    called: u64,
}

impl Profile {
    /// Reads the dump of a number of operations.
    pub(super) fn read(path: &Path, operations: u64) -> anyhow::Result<Self> {
        let file =
            File::open(path).with_context(|| format!("{}: callgrind wrote no dump", path.display()))?;
        let mut profile = Self { operations, ..Self::default() };
        let mut names = HashMap::new();
        let (mut function, mut callee, mut is_call) = (String::new(), String::new(), false);
        for line in BufReader::new(file).lines() {
            let line = line?;
            if let Some(name) = line.strip_prefix("fn=") {
                function = named(&mut names, name)?;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = named(&mut names, name)?;
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
                // A position, possibly relative, and a count.
                let count = line.split_ascii_whitespace().nth(1).map_or(Ok(0), str::parse::<u64>)?;
                let cost = profile.functions.entry(function.clone()).or_default();
                if !is_call {
                    cost.own += count;
                    profile.total += count;
                } else if callee != function {
                    cost.called += count;
                }
                is_call = false;
            }
        }
        ensure!(profile.total > 0, "{}: no instructions", path.display());
        Ok(profile)
    }

    /// Instructions per operation.
    pub(super) const fn each(&self) -> u64 {
        self.total / self.operations
    }

    /// Prints the functions with the most instructions, exclusive and inclusive of callees.
    pub(super) fn print(&self, name: &str) {
        println!("{name}: {} instructions each", self.each());
        let mut functions: Vec<_> = self.functions.iter().collect();
        for (what, cost) in [
            ("exclusive", (|cost: &Cost| cost.own) as fn(&Cost) -> u64),
            ("inclusive of callees", |cost| cost.own + cost.called),
        ] {
            println!("  {what}");
            functions.sort_by_key(|(_, is)| std::cmp::Reverse(cost(is)));
            for (function, is) in functions.iter().take(SHOWN) {
                let count = cost(is);
                println!("{:>11} {:>4}%  {function}", count / self.operations, 100 * count / self.total);
            }
        }
        println!();
    }
}

/// Resolves a name, written `(1) name` at its first occurrence and `(1)` later.
fn named(names: &mut HashMap<String, String>, text: &str) -> anyhow::Result<String> {
    let (id, name) = text.split_once(' ').unwrap_or((text, ""));
    if !name.is_empty() {
        names.insert(id.to_owned(), name.to_owned());
    }
    names.get(id).cloned().with_context(|| format!("a function without a name: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_attributed_to_functions() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let dump = "version: 1\nevents: Ir\n\nfl=(1) a.c\nfn=(1) main\n16 400\n+1 50\ncfi=(2) b.c\ncfn=(2) work\n\
                    calls=3 50\n* 600\n\nfl=(2)\nfn=(2)\n51 100\n52 500\n\ntotals: 1050\n";
        std::fs::write(file.path(), dump).unwrap();
        let profile = Profile::read(file.path(), 10).unwrap();
        assert_eq!(profile.each(), 105);
        assert_eq!((profile.functions["main"].own, profile.functions["main"].called), (450, 600));
        assert_eq!(profile.functions["work"].own, 600);
    }
}
