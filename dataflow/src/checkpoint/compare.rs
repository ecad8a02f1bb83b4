//! What changed between the plan that a checkpoint was written by and the plan that is to go on from it.
//!
//! Pure, and done before anything runs: everything that cannot be gone on with is said in one message, each sentence with
//! the line of the author's file; everything else that changed is said, too. State is kept by (id, family, meaning, version):
//! what does not fit in one of them is never read (INV-7 says what else it is not kept by). Checkpoints that say no meaning
//! are compared by the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::manifest::Manifest;
use crate::plan::{Operator, Place, Plan, family, line};

/// What became of one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Nothing happened to it.
    Unchanged {
        /// Its id.
        id: String,
    },
    /// The checkpoint does not know it, or knows it without state.
    New {
        /// Its id.
        id: String,
        /// Whether it keeps state, which then starts empty.
        stateful: bool,
    },
    /// It has another id, and goes on with what the old one had.
    Renamed {
        /// Its id.
        id: String,
        /// What the checkpoint calls it.
        from: String,
    },
    /// Its parameters differ; its state, if it has any, is kept as it is.
    Altered {
        /// Its id.
        id: String,
        /// Its description in the checkpoint.
        before: String,
        /// Its description now.
        now: String,
        /// Whether it goes on with state.
        stateful: bool,
    },
    /// Its state is of an older version, and is migrated.
    Migrated {
        /// Its id.
        id: String,
        /// The oldest version among its pieces.
        from: u32,
        /// Today's version.
        to: u32,
    },
    /// Its state is given up, as asked.
    Dropped {
        /// The id in the checkpoint.
        id: String,
        /// Whether the plan goes on with an operator of this id, which then starts empty.
        lives_on: bool,
    },
    /// The run that wrote the checkpoint dropped this state already; what is there now is newer, and stays.
    DroppedBefore {
        /// The id.
        id: String,
    },
    /// A table gets rows from now on.
    TableBegins {
        /// The sink.
        id: String,
        /// The table.
        table: String,
    },
    /// A table gets no more rows.
    TableEnds {
        /// The sink that wrote it.
        id: String,
        /// The table.
        table: String,
    },
    /// Refused: it holds state in the checkpoint, and the plan has nothing that takes it.
    Gone {
        /// Its id.
        id: String,
        /// Its state version.
        version: u32,
        /// Whether the plan has an operator of this id, which keeps no state.
        lives_on: bool,
    },
    /// Refused: the source has another id, and nothing says that it is the same.
    SourceGone {
        /// Its id in the checkpoint.
        id: String,
        /// The plan's.
        now: String,
    },
    /// Refused: the id belongs to something else now.
    Replaced {
        /// The id.
        id: String,
        /// What it was.
        before: String,
        /// What it is.
        now: String,
        /// Whether the checkpoint holds state of what it was.
        stateful: bool,
    },
    /// Refused: its state would be taken for something else than what it is of.
    Reinterpreted {
        /// The id.
        id: String,
        /// What the state in the checkpoint means.
        before: String,
        /// What it would be taken for.
        now: String,
    },
    /// Refused: its state was written by a newer build.
    TooNew {
        /// Its id.
        id: String,
        /// The version in the checkpoint.
        stored: u32,
        /// Today's.
        now: u32,
    },
    /// Refused: its state is older than any migration.
    TooOld {
        /// Its id.
        id: String,
        /// The oldest version in the checkpoint.
        stored: u32,
        /// The oldest that this build reads.
        oldest: u32,
        /// Today's version.
        now: u32,
    },
    /// Refused: the checkpoint knows neither it nor the id that it is said to have had.
    NeverKnown {
        /// Its id.
        id: String,
        /// The ids it is said to have had.
        from: Vec<&'static str>,
        /// The ids that the checkpoint knows.
        known: Vec<String>,
    },
    /// Refused: state is to be dropped that is not there.
    NothingToDrop {
        /// What was asked for.
        id: String,
        /// The ids that have state.
        known: Vec<String>,
    },
}

impl Change {
    /// Whether the plan cannot go on from the checkpoint because of it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(
            self,
            Change::Gone { .. }
                | Change::SourceGone { .. }
                | Change::Replaced { .. }
                | Change::Reinterpreted { .. }
                | Change::TooNew { .. }
                | Change::TooOld { .. }
                | Change::NeverKnown { .. }
                | Change::NothingToDrop { .. }
        )
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Unchanged { id } => write!(f, "`{id}` is what it was"),
            Change::New { id, stateful: true } => write!(f, "`{id}` has no state in the checkpoint and starts empty"),
            Change::New { id, stateful: false } => write!(f, "`{id}` is new"),
            Change::Renamed { id, from } => write!(f, "`{id}` goes on with what `{from}` had"),
            Change::Altered { id, before, now, stateful } => {
                let kept = if *stateful { "; its state is kept" } else { "" };
                write!(f, "`{id}` was `{before}` and is `{now}`{kept}")
            }
            Change::Migrated { id, from, to } => write!(f, "`{id}`: its state is migrated from version {from} to {to}"),
            Change::Dropped { id, lives_on: false } => write!(f, "the state of `{id}` is dropped, as asked"),
            Change::Dropped { id, lives_on: true } => {
                write!(
                    f,
                    "the state of `{id}` is dropped, as asked; it starts empty, and takes back none of the rows that it \
                     wrote: build its tables anew with `replay`, or have it write to others"
                )
            }
            Change::DroppedBefore { id } => write!(
                f,
                "--drop-state {id}: the run before dropped it, and nothing more is dropped; leave the option out from now on"
            ),
            Change::TableBegins { id, table } => {
                write!(f, "`{id}` writes to table `{table}` from here on; what came before is not in it")
            }
            Change::TableEnds { id, table } => {
                write!(f, "table `{table}` (`{id}`) gets nothing more; what was committed to it stays")
            }
            Change::Gone { id, version, lives_on } => {
                let now = if *lives_on { "keeps none in the plan" } else { "is not in the plan" };
                write!(
                    f,
                    "`{id}` has state (version {version}) in the checkpoint and {now}: put it back, say \
                     .renamed_from(\"{id}\") where it lives on, or give its state up with --drop-state {id}"
                )
            }
            Change::SourceGone { id, now } => write!(
                f,
                "the source was `{id}` and is `{now}`, and offsets are kept by id: say .renamed_from(\"{id}\") if it is the \
                 same, or start in a new folder"
            ),
            Change::Replaced { id, before, now, stateful } => {
                write!(f, "`{id}` was `{before}` and is `{now}`: give the new one an id of its own")?;
                if *stateful {
                    write!(f, ", or give up the state of the old one with --drop-state {id}")?;
                }
                Ok(())
            }
            Change::Reinterpreted { id, before, now } => write!(
                f,
                "`{id}` has state of `{before}` in the checkpoint and would take it for that of `{now}`: give the new one an \
                 id of its own, or give up the state of the old one with --drop-state {id}"
            ),
            Change::TooNew { id, stored, now } => write!(
                f,
                "`{id}` has state version {stored} in the checkpoint and this build has {now}: go on with the build that \
                 wrote it, or give its state up with --drop-state {id}"
            ),
            Change::TooOld { id, stored, oldest, now } => {
                write!(f, "`{id}` has state version {stored} in the checkpoint and this build has {now}, ")?;
                match oldest {
                    oldest if oldest == now => f.write_str("without a migration from it")?,
                    oldest => write!(f, "with migrations from {oldest} on")?,
                }
                write!(f, ": go on with a build that reads {stored}, or give its state up with --drop-state {id}")
            }
            Change::NeverKnown { id, from, known } => write!(
                f,
                "`{id}` is renamed from {}, and the checkpoint knows neither; it knows {}: correct the old id, or leave it \
                 out",
                listed(from),
                listed(known)
            ),
            Change::NothingToDrop { id, known } => {
                write!(f, "--drop-state {id}: there is no such state; the checkpoint has state of {}", listed(known))
            }
        }
    }
}

fn listed(ids: &[impl AsRef<str>]) -> String {
    if ids.is_empty() {
        return "nothing".into();
    }
    ids.iter().map(|id| format!("`{}`", id.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Everything that changed, and where the state of the plan's operators comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In the order of the plan; what is gone comes last.
    found: Vec<(Change, Option<Place>)>,
    /// Ids of the checkpoint whose state goes on under another id.
    heirs: BTreeMap<String, String>,
    /// Ids of the checkpoint whose state is given up.
    dropped: BTreeSet<String>,
}

impl Changes {
    /// All of them; `Unchanged` ones, too.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.found.iter().map(|(change, _)| change)
    }

    /// Why the plan cannot go on: all reasons at once, each with the line of the author's file; `None` if it can.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let refused = self.found.iter().filter(|(change, _)| change.is_refused());
        let sentence = |(change, at): &(Change, Option<Place>)| match at {
            Some(at) => format!("{}: {change}", line(at)),
            None => change.to_string(),
        };
        let sentences: Vec<String> = refused.map(sentence).collect();
        (!sentences.is_empty()).then(|| sentences.join("\n"))
    }

    /// What changed and can be gone on with, in sentences.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let accepted = self.iter().filter(|change| !change.is_refused() && !matches!(change, Change::Unchanged { .. }));
        accepted.map(Change::to_string)
    }

    /// Under which id state that the checkpoint has of `id` goes on; `None` if it is given up.
    pub(crate) fn heir<'a>(&'a self, id: &'a str) -> Option<&'a str> {
        (!self.dropped.contains(id)).then(|| self.heirs.get(id).map_or(id, String::as_str))
    }

    fn note(&mut self, change: Change, at: Option<Place>) {
        self.found.push((change, at));
    }
}

/// What a checkpoint has of one operator.
#[derive(Clone, Copy, Debug, Default)]
struct Stored<'a> {
    /// What it did; unknown in older checkpoints.
    kind: Option<&'a str>,
    /// What its state meant; unknown in older checkpoints, and where the kind says all.
    meaning: Option<&'a str>,
    /// The newest and the oldest version among its pieces.
    versions: Option<(u32, u32)>,
}

/// Compares what a checkpoint holds with what the plan asks for; the state of the operators in `drop_state` is given up.
#[must_use]
pub fn compare(manifest: &Manifest, plan: &Plan, drop_state: &BTreeSet<String>) -> Changes {
    let stored = stored(manifest);
    let mut changes = Changes::default();
    let with_state = || stored.iter().filter(|(_, known)| known.versions.is_some());
    for id in drop_state {
        if manifest.dropped.contains(id) {
            changes.note(Change::DroppedBefore { id: id.clone() }, None);
        } else if with_state().any(|(known, _)| known == id) {
            changes.dropped.insert(id.clone());
            changes.note(Change::Dropped { id: id.clone(), lives_on: plan.state_version(id).is_some() }, None);
        } else {
            let known = with_state().map(|(known, _)| (*known).to_owned()).collect();
            changes.note(Change::NothingToDrop { id: id.clone(), known }, None);
        }
    }
    let mut taken = BTreeSet::new();
    for operator in plan.operators() {
        let Some(id) = operator.id else { continue };
        let named = std::iter::once(id).chain(operator.renamed_from.iter().copied());
        match named.into_iter().find_map(|name| stored.get_key_value(name)) {
            Some((name, known)) => {
                taken.insert(*name);
                if *name != id && !changes.dropped.contains(*name) {
                    changes.heirs.insert((*name).to_owned(), id.to_owned());
                    changes.note(Change::Renamed { id: id.to_owned(), from: (*name).to_owned() }, operator.at);
                }
                changes.fit(name, known, operator);
            }
            None => changes.unknown(operator, manifest, &stored),
        }
    }
    for (id, known) in stored.iter().filter(|(id, _)| !taken.contains(*id)) {
        changes.left(id, known, plan);
    }
    changes
}

fn stored(manifest: &Manifest) -> BTreeMap<&str, Stored<'_>> {
    let mut stored: BTreeMap<&str, Stored<'_>> = BTreeMap::new();
    for planned in &manifest.plan {
        let known = stored.entry(&planned.id).or_default();
        (known.kind, known.meaning) = (Some(planned.kind.as_str()), planned.meaning.as_deref());
    }
    for operator in &manifest.operators {
        let mut versions = (operator.version, operator.version);
        for version in operator.pieces.iter().filter_map(|piece| piece.version) {
            versions = (versions.0.max(version), versions.1.min(version));
        }
        stored.entry(&operator.id).or_default().versions = Some(versions);
    }
    stored
}

impl Changes {
    /// An operator and what the checkpoint has of it, under its own or an old id.
    fn fit(&mut self, name: &str, known: &Stored<'_>, operator: &Operator) {
        let (id, at) = (operator.id.unwrap_or_default().to_owned(), operator.at);
        let dropped = self.dropped.contains(name);
        let kept = known.versions.filter(|_| !dropped);
        let said = self.found.len();
        let altered = known.kind.filter(|before| *before != operator.kind);
        if let Some(before) = altered {
            if family(before) != operator.family() && !dropped {
                let (before, now, stateful) = (before.to_owned(), operator.kind.clone(), kept.is_some());
                return self.note(Change::Replaced { id, before, now, stateful }, at);
            }
            if let (Some(before), Some(now)) = (table(before), table(&operator.kind)) {
                self.note(Change::TableEnds { id: id.clone(), table: before.to_owned() }, at);
                self.note(Change::TableBegins { id, table: now.to_owned() }, at);
                return;
            }
        }
        if let (Some(_), Some(before), Some(now)) = (kept, known.meaning, &operator.meaning)
            && before != now
        {
            return self.note(Change::Reinterpreted { id, before: before.to_owned(), now: now.clone() }, at);
        }
        if let Some(before) = altered.filter(|_| !dropped) {
            let (before, now, stateful) = (before.to_owned(), operator.kind.clone(), kept.is_some());
            self.note(Change::Altered { id: id.clone(), before, now, stateful }, at);
        }
        match (kept, operator.state_version) {
            (Some((version, _)), None) => {
                self.note(Change::Gone { id: name.to_owned(), version, lives_on: true }, at);
            }
            (Some((stored, _)), Some(now)) if stored > now => self.note(Change::TooNew { id, stored, now }, at),
            (Some((_, from)), Some(to)) if from < to => {
                let oldest = operator.oldest_version.unwrap_or(to);
                let too_old = Change::TooOld { id: id.clone(), stored: from, oldest, now: to };
                self.note(if from < oldest { too_old } else { Change::Migrated { id, from, to } }, at);
            }
            (None, Some(_)) if !dropped => self.note(Change::New { id, stateful: true }, at),
            _ if self.found.len() == said && !dropped && name == id => self.note(Change::Unchanged { id }, at),
            _ => {}
        }
    }

    /// An operator that the checkpoint does not know by any of its ids.
    fn unknown(&mut self, operator: &Operator, manifest: &Manifest, stored: &BTreeMap<&str, Stored<'_>>) {
        let (id, at, stateful) = (operator.id.unwrap_or_default().to_owned(), operator.at, operator.state_version);
        // Older checkpoints know only what has state.
        if manifest.plan.is_empty() && stateful.is_none() {
            return;
        }
        if !operator.renamed_from.is_empty() {
            let known = stored.keys().map(|known| (*known).to_owned()).collect();
            return self.note(Change::NeverKnown { id, from: operator.renamed_from.clone(), known }, at);
        }
        match table(&operator.kind) {
            Some(table) if written(manifest, table) => self.note(Change::New { id, stateful: false }, at),
            Some(table) => self.note(Change::TableBegins { id, table: table.to_owned() }, at),
            // The other half of a source that is gone.
            None if operator.family() == "source" => {}
            None => self.note(Change::New { id, stateful: stateful.is_some() }, at),
        }
    }

    /// What the checkpoint has and no operator of the plan takes.
    fn left(&mut self, id: &str, known: &Stored<'_>, plan: &Plan) {
        if let Some((version, _)) = known.versions {
            if !self.dropped.contains(id) {
                self.note(Change::Gone { id: id.to_owned(), version, lives_on: false }, None);
            }
            return;
        }
        let Some(kind) = known.kind else { return };
        if family(kind) == "source" {
            let source = plan.operators().iter().find(|operator| operator.family() == "source");
            let now = source.and_then(|source| source.id).unwrap_or_default().to_owned();
            self.note(Change::SourceGone { id: id.to_owned(), now }, source.and_then(|source| source.at));
        }
        let still = |table: &str| plan.operators().iter().any(|operator| self::table(&operator.kind) == Some(table));
        if let Some(table) = table(kind).filter(|table| !still(table)) {
            self.note(Change::TableEnds { id: id.to_owned(), table: table.to_owned() }, None);
        }
    }
}

/// The table of a sink.
fn table(kind: &str) -> Option<&str> {
    kind.strip_prefix("sink ")
}

/// Whether the plan of a checkpoint wrote a table.
fn written(manifest: &Manifest, name: &str) -> bool {
    manifest.plan.iter().any(|planned| table(&planned.kind) == Some(name))
}

#[cfg(test)]
mod tests;
