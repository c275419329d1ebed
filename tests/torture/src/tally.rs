//! What a run of a layer has done and found, and where the next one goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::layers::Layer;

/// What a run of a layer has done and found.
pub struct Tally {
    layer: &'static str,
    /// What the layer counts.
    unit: &'static str,
    next: u64,
    counts: BTreeMap<String, u64>,
    findings: Vec<String>,
    state: Option<PathBuf>,
}

impl Tally {
    /// Nothing yet, or what the state file says.
    pub fn resume(layer: &Layer, seed: u64, state: Option<&Path>) -> Tally {
        let mut tally = Tally {
            layer: layer.name,
            unit: layer.unit,
            next: seed,
            counts: BTreeMap::new(),
            findings: Vec::new(),
            state: state.map(Path::to_owned),
        };
        for line in tally.lines().iter().filter_map(|line| line.strip_prefix(layer.name)?.strip_prefix('\t'))
        {
            match line.split_once('\t') {
                Some(("next", value)) => tally.next = value.parse().unwrap_or(seed),
                Some(("finding", text)) => tally.findings.push(text.to_owned()),
                Some((what, value)) => drop(tally.counts.insert(what.to_owned(), value.parse().unwrap_or(0))),
                None => {}
            }
        }
        tally
    }

    /// The lines of the state file: layer, what, value, with tabs between.
    fn lines(&self) -> Vec<String> {
        let text = self.state.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Brings the state file up to date, at once or not at all.
    pub fn save(&self) {
        let Some(file) = &self.state else { return };
        let mut lines = self.lines();
        lines.retain(|line| line.split('\t').next() != Some(self.layer));
        lines.push(format!("{}\tnext\t{}", self.layer, self.next));
        lines.extend(self.counts.iter().map(|(what, n)| format!("{}\t{what}\t{n}", self.layer)));
        lines.extend(self.findings.iter().map(|text| format!("{}\tfinding\t{text}", self.layer)));
        let temp = file.with_extension("new");
        let written = fs::write(&temp, lines.join("\n") + "\n").and_then(|()| fs::rename(&temp, file));
        if let Err(e) = written {
            eprintln!("torture: cannot keep the state in '{}': {e}", file.display());
        }
    }

    /// The number of the case that is next; the cases are numbered, so that each can be made again by its number.
    pub fn next_case(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// How much of what the layer counts has been done.
    pub fn units(&self) -> u64 {
        self.counts.get(self.unit).copied().unwrap_or(0)
    }

    pub fn count(&mut self, what: &str, n: u64) {
        *self.counts.entry(what.to_owned()).or_default() += n;
    }

    /// Something is wrong: what, and what makes it happen again.
    pub fn finding(&mut self, case: u64, text: impl AsRef<str>) {
        let text = text.as_ref().replace(['\n', '\t'], " ");
        let line = format!("{text} [torture {} --seed {case} --count 1]", self.layer);
        println!("{}: FOUND: {line}", self.layer);
        self.findings.push(line);
    }

    pub fn print(&self, took: Duration) {
        let counts: Vec<String> = self.counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
        let (found, secs) = (self.findings.len(), took.as_secs());
        println!("{}: {}; {found} findings; {secs} s", self.layer, counts.join(", "));
    }

    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }
}
