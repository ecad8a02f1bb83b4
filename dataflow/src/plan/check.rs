//! What a dry build finds wrong with a plan: everything at once, each sentence with the line to change.

use std::collections::BTreeMap;

use super::{Place, Plan, Problem, line};

impl Plan {
    pub(super) fn check_id(&mut self, id: &'static str, at: Option<Place>) {
        if !well_formed(id) {
            self.wrong(at, format!("`{id}` is no id: use a-z, 0-9 and _, beginning with a letter"));
        }
        if let Some(first) = self.operator(id) {
            let first = seen_at(first.at);
            self.wrong(at, format!("the id `{id}` is used twice{first}: state and offsets are kept by id; rename one"));
        }
    }

    /// Looks at the plan as a whole, once the author's function has returned.
    pub(crate) fn finish(&mut self) {
        self.check_declared();
        self.check_sources();
        self.check_ends();
        self.check_tables();
        self.check_renames();
    }

    fn wrong(&mut self, at: Option<Place>, sentence: String) {
        self.problems.push(Problem { at, sentence });
    }

    fn check_declared(&mut self) {
        for (id, at) in std::mem::take(&mut self.declared) {
            let rest = "a source needs `.event_time(..)`, windows need `.aggregate(..)`";
            self.wrong(Some(at), format!("`{id}` is begun and never finished: {rest}"));
        }
    }

    fn check_sources(&mut self) {
        let sources: Vec<_> = self.operators.iter().filter(|o| o.family() == "source").map(|o| (o.id, o.at)).collect();
        match sources.as_slice() {
            // A source that is begun and not finished is reported as that.
            [] if self.problems.is_empty() => {
                self.wrong(None, "the pipeline reads no source: begin with `flow.source(..)`".into());
            }
            [] => {}
            [(first, first_at), more @ ..] => {
                let (first, seen) = (first.unwrap_or_default(), seen_at(*first_at));
                for (id, at) in more {
                    let id = id.unwrap_or_default();
                    let remedy = "a pipeline has one source; give it several partitions";
                    self.wrong(*at, format!("`{id}` is a second source beside `{first}`{seen}: {remedy}"));
                }
            }
        }
    }

    /// A stream that nobody reads costs work and shows nothing.
    fn check_ends(&mut self) {
        let mut read = self.used.clone();
        read.extend(self.operators.iter().flat_map(|operator| &operator.inputs));
        for node in (0..self.operators.len()).filter(|node| !read.contains(node)) {
            let operator = &self.operators[node];
            if operator.family() == "sink" {
                continue;
            }
            let name = operator.id.unwrap_or(&operator.kind);
            let sentence = format!("what `{name}` gives is never used: write it to a sink, or remove it");
            self.wrong(operator.at, sentence);
        }
    }

    /// Two sinks would write under the same names (INV-3).
    fn check_tables(&mut self) {
        let mut tables: BTreeMap<String, (&'static str, Option<Place>)> = BTreeMap::new();
        let sinks = self.operators.iter().filter_map(|o| Some((o.kind.strip_prefix("sink ")?, o.id?, o.at)));
        let sinks: Vec<_> = sinks.map(|(table, id, at)| (table.to_owned(), id, at)).collect();
        for (table, id, at) in sinks {
            if table.is_empty() {
                self.wrong(at, format!("`{id}` writes to a table without a name: name the table"));
            } else if let Some((first, first_at)) = tables.get(&table) {
                let (first, seen) = (*first, seen_at(*first_at));
                let remedy = "one sink a table; unite the streams, or name another table";
                self.wrong(at, format!("`{id}` writes to table `{table}`, and so does `{first}`{seen}: {remedy}"));
            } else {
                tables.insert(table, (id, at));
            }
        }
    }

    fn check_renames(&mut self) {
        let mut heirs: BTreeMap<&'static str, (&'static str, Option<Place>)> = BTreeMap::new();
        let renames = self.operators.iter().flat_map(|o| o.renamed_from.iter().map(|old| (*old, o.id, o.at)));
        for (old, id, at) in renames.collect::<Vec<_>>() {
            let id = id.unwrap_or_default();
            if let Some(living) = self.operator(old) {
                let seen = line_of(living.at);
                let sentence = format!("`{id}` is renamed from `{old}`, which is still in the plan{seen}: remove one");
                self.wrong(at, sentence);
            } else if let Some((heir, heir_at)) = heirs.get(old) {
                let (heir, seen) = (*heir, line_of(*heir_at));
                let sentence = format!("`{id}` is renamed from `{old}`, and so is `{heir}`{seen}: state has one heir");
                self.wrong(at, sentence);
            } else {
                heirs.insert(old, (id, at));
            }
        }
    }
}

fn seen_at(at: Option<Place>) -> String {
    at.map(|at| format!(" (first at {})", line(at))).unwrap_or_default()
}

fn line_of(at: Option<Place>) -> String {
    at.map(|at| format!(" (at {})", line(at))).unwrap_or_default()
}

fn well_formed(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
