//! The plan for other eyes than a terminal's: a Mermaid flowchart, which GitHub and many wikis draw, and JSON.

use std::fmt::Write as _;

use super::{Operator, Plan};

impl Plan {
    /// The plan as a Mermaid flowchart, top down: sources round, sinks as drums, operators with state with double sides.
    #[must_use]
    pub fn mermaid(&self) -> String {
        let mut chart = String::from("flowchart TD\n");
        for (position, operator) in self.operators().iter().enumerate() {
            let (open, close) = shape(operator);
            writeln!(chart, "    n{position}{open}\"{}\"{close}", label(operator))
                .expect("a string takes what is written");
        }
        for (position, operator) in self.operators().iter().enumerate() {
            for input in &operator.inputs {
                writeln!(chart, "    n{input} --> n{position}").expect("a string takes what is written");
            }
        }
        chart
    }

    /// The operators as a JSON array; `inputs` are positions in it.
    #[must_use]
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self.operators()).expect("an operator is plain data");
        json.push('\n');
        json
    }
}

fn shape(operator: &Operator) -> (&'static str, &'static str) {
    match (operator.family(), operator.state_version) {
        ("source", _) => ("([", "])"),
        ("sink", _) => ("[(", ")]"),
        (_, Some(_)) => ("[[", "]]"),
        (_, None) => ("[", "]"),
    }
}

fn label(operator: &Operator) -> String {
    let lines = [
        operator.id.map(str::to_owned),
        Some(operator.kind.clone()),
        operator.state_version.map(|version| format!("state v{version}")),
    ];
    let lines: Vec<String> = lines.iter().flatten().map(|text| escaped(text)).collect();
    lines.join("<br/>")
}

/// Text inside a quoted label: whatever Mermaid could take for markup is written as an entity.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => escaped.push_str("#quot;"),
            '<' => escaped.push_str("#lt;"),
            '>' => escaped.push_str("#gt;"),
            '&' => escaped.push_str("#amp;"),
            '#' => escaped.push_str("#35;"),
            '`' => escaped.push_str("#96;"),
            '\n' | '\r' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}
