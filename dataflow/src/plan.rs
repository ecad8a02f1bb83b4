//! The recorded plan: what a pipeline is made of, by id, for `explain`, for validation and for restores.
//!
//! Every call of the authoring API builds a timely operator and pushes an [`Operator`], with the line of the author's
//! file that made it. What the compiler cannot catch (`check`) is collected and reported together by a dry build, before
//! any worker starts. Lines are for people: neither the text nor the fingerprint of a plan knows them.

mod check;
mod graph;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::panic::Location;

use serde::Serialize;

use crate::hash::hash64;

/// A line of the author's file.
pub type Place = &'static Location<'static>;

/// One recorded operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Operator {
    /// The author's id; `None` for stateless steps.
    pub id: Option<&'static str>,
    /// What it does, with its parameters: what it is in words first, parameters as numbers or after a comma.
    pub kind: String,
    /// What its state means: state goes on only where it means the same. `None`: whatever its [family](Operator::family)
    /// says.
    #[serde(skip)]
    pub meaning: Option<String>,
    /// Positions of the operators that it reads.
    pub inputs: Vec<usize>,
    /// The version of its state, if it has any.
    pub state_version: Option<u32>,
    /// The oldest version of its state that it can read; no larger than `state_version`.
    #[serde(skip)]
    pub oldest_version: Option<u32>,
    /// Ids under which earlier checkpoints may know it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renamed_from: Vec<&'static str>,
    /// Where its author wrote it.
    #[serde(skip)]
    pub at: Option<Place>,
}

impl Operator {
    /// What it is, without its parameters; see [`family`].
    #[must_use]
    pub fn family(&self) -> &str {
        family(&self.kind)
    }
}

/// What an operator of this description is, without its parameters: the description up to its first comma or number
/// (`window tumbling 60000 ms` is a `window tumbling`), and `sink` for every sink. State of one family is nothing to
/// another.
#[must_use]
pub fn family(kind: &str) -> &str {
    let words = kind.split(',').next().unwrap_or_default();
    if words.starts_with("sink ") {
        return "sink";
    }
    let number = words.match_indices(' ').find(|(at, _)| words[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    number.map_or(words, |(at, _)| &words[..at]).trim_end()
}

/// Something that makes a plan unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    at: Option<Place>,
    sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{}: ", line(at))?;
        }
        f.write_str(&self.sentence)
    }
}

/// `file:line`, as editors and terminals take it.
pub(crate) fn line(at: Place) -> String {
    format!("{}:{}", at.file(), at.line())
}

/// The operators of a pipeline in the order in which the author wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    operators: Vec<Operator>,
    problems: Vec<Problem>,
    /// Ids that were given on a line before the call that makes the operator.
    declared: Vec<(&'static str, Place)>,
    /// Operators that are read by something that is not in the plan.
    used: BTreeSet<usize>,
}

impl Plan {
    /// Records an operator and returns its position.
    pub fn push(&mut self, mut operator: Operator) -> usize {
        if let Some(id) = operator.id {
            if let Some(declared) = self.declared.iter().position(|(other, _)| *other == id) {
                operator.at = Some(self.declared.remove(declared).1);
            }
            self.check_id(id, operator.at);
        }
        self.operators.push(operator);
        self.operators.len() - 1
    }

    /// Notes that an id was given at this line; the operator that is recorded under it next is the one of this line.
    pub fn declare(&mut self, id: &'static str, at: Place) {
        self.declared.push((id, at));
    }

    /// Notes something else that makes the plan unusable.
    pub fn problem(&mut self, sentence: String) {
        self.problems.push(Problem { at: None, sentence });
    }

    /// Notes what is wrong with the operator that was recorded last.
    pub(crate) fn problem_of_last(&mut self, sentence: String) {
        let at = self.operators.last().and_then(|operator| operator.at);
        self.problems.push(Problem { at, sentence });
    }

    /// Notes that earlier checkpoints may know an operator as `old`.
    pub(crate) fn rename(&mut self, node: usize, old: &'static str, at: Place) {
        if self.operators[node].id.is_none() {
            let sentence =
                format!("renamed_from(\"{old}\") follows a step without an id: say it right after the operator itself");
            self.problems.push(Problem { at: Some(at), sentence });
        } else {
            self.operators[node].renamed_from.push(old);
        }
    }

    /// Notes that something outside the plan reads an operator.
    pub(crate) fn mark_used(&mut self, node: usize) {
        self.used.insert(node);
    }

    /// Notes the version of an operator's state, and the oldest one that it reads, once they are known.
    pub(crate) fn set_state(&mut self, node: usize, version: u32, oldest: u32) {
        self.operators[node].state_version = Some(version);
        self.operators[node].oldest_version = Some(oldest);
    }

    /// Notes what an operator's state means.
    pub(crate) fn set_meaning(&mut self, node: usize, meaning: String) {
        self.operators[node].meaning = Some(meaning);
    }

    /// The operators, by position.
    #[must_use]
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// The operator of this id.
    #[must_use]
    pub fn operator(&self, id: &str) -> Option<&Operator> {
        self.operators.iter().find(|operator| operator.id == Some(id))
    }

    /// Everything that is wrong with it, in the order of the author's lines, each with the line to change.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<&Problem> = self.problems.iter().collect();
        problems.sort_by_key(|problem| (problem.at.is_none(), problem.at));
        problems.into_iter().map(Problem::to_string).collect()
    }

    /// The state version of an operator, if it is in the plan and has state.
    #[must_use]
    pub fn state_version(&self, id: &str) -> Option<u32> {
        self.operator(id)?.state_version
    }

    /// The ids of the operators of one kind (`"sink"`, `"source"`), by the first word of their description.
    pub fn ids<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'static str> + 'a {
        self.operators.iter().filter(move |o| o.kind.split([' ', ',']).next() == Some(kind)).filter_map(|o| o.id)
    }

    /// The tables that it writes.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.operators.iter().filter_map(|operator| operator.kind.strip_prefix("sink "))
    }

    /// A fingerprint of the text that `explain` prints.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", hash64(self.to_string().as_bytes()))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, operator) in self.operators.iter().enumerate() {
            let mut line = format!("{position:>3}  {:<28}{}", operator.id.unwrap_or("-"), operator.kind);
            if !operator.inputs.is_empty() {
                let inputs: Vec<_> = operator.inputs.iter().map(usize::to_string).collect();
                write!(line, "  <- {}", inputs.join(", "))?;
            }
            if let Some(version) = operator.state_version {
                write!(line, "  [state v{version}]")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
