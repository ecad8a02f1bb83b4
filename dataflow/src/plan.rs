//! The recorded plan: what a pipeline is made of, by id, for `explain`, for validation and for restores.
//!
//! Every call of the authoring API builds a timely operator and pushes a [`Operator`]. What the compiler cannot catch
//! (duplicate or malformed ids) is collected and reported together by a dry build, before any worker starts.

use std::fmt::{self, Write as _};

use crate::hash::hash64;

/// One recorded operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The author's id; `None` for stateless steps.
    pub id: Option<&'static str>,
    /// What it does, with its parameters.
    pub kind: String,
    /// Positions of the operators that it reads.
    pub inputs: Vec<usize>,
    /// The version of its state, if it has any.
    pub state_version: Option<u32>,
}

/// The operators of a pipeline in the order in which the author wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    operators: Vec<Operator>,
    problems: Vec<String>,
}

impl Plan {
    /// Records an operator and returns its position.
    pub fn push(&mut self, operator: Operator) -> usize {
        if let Some(id) = operator.id {
            if !well_formed(id) {
                self.problems.push(format!("`{id}` is no id: use a-z, 0-9 and _, beginning with a letter"));
            }
            if self.operators.iter().any(|other| other.id == Some(id)) {
                self.problems.push(format!("the id `{id}` is used twice: state and offsets are kept by id"));
            }
        }
        self.operators.push(operator);
        self.operators.len() - 1
    }

    /// Notes something else that makes the plan unusable.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Notes the version of an operator's state once it is known.
    pub(crate) fn set_state(&mut self, node: usize, version: u32) {
        self.operators[node].state_version = Some(version);
    }

    /// The operators, by position.
    #[must_use]
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// Everything that is wrong with it.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The state version of an operator, if it is in the plan and has state.
    #[must_use]
    pub fn state_version(&self, id: &str) -> Option<u32> {
        self.operators.iter().find(|o| o.id == Some(id))?.state_version
    }

    /// The ids of the operators of one kind (`"sink"`, `"source"`), by the first word of their description.
    pub fn ids<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'static str> + 'a {
        self.operators.iter().filter(move |o| o.kind.split(' ').next() == Some(kind)).filter_map(|o| o.id)
    }

    /// A fingerprint of the text that `explain` prints.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", hash64(self.to_string().as_bytes()))
    }
}

fn well_formed(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
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
mod tests {
    use super::*;

    fn operator(id: Option<&'static str>) -> Operator {
        Operator { id, kind: "sink".into(), inputs: vec![], state_version: None }
    }

    #[test]
    fn every_bad_id_is_reported_at_once() {
        let mut plan = Plan::default();
        for id in [Some("a_1"), Some("a_1"), Some("Bad"), Some("1x"), Some(""), None] {
            plan.push(operator(id));
        }
        assert_eq!(plan.problems().len(), 4, "{:?}", plan.problems());
    }
}
