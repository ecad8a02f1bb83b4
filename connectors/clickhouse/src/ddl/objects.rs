//! One table or view as it is created, and as it has to be found again.

use super::{DDL_VERSION, DEDUP_WINDOW};

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A table with an engine of its own.
    Table {
        /// The engine with its arguments.
        engine: String,
        /// `PARTITION BY`, as the server prints it; empty for none.
        partition_by: String,
        /// `ORDER BY` without brackets, as the server prints it; empty for none.
        order_by: String,
        /// Days after `inserted_at` that a row stays; `None` where rows stay for ever whatever is asked.
        retention_days: Option<u32>,
        /// Whether it remembers the tokens of inserts.
        remembers: bool,
    },
    /// A view, computed when it is read.
    View {
        /// Its query.
        query: String,
    },
}

/// A table or view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Names and types, in order.
    pub(crate) columns: Vec<(String, String)>,
    /// Columns that the server fills: name, type and default.
    pub(crate) filled: Vec<(String, String, String)>,
}

impl Object {
    pub(crate) fn table(name: impl Into<String>, engine: &str, columns: Vec<(String, String)>) -> Self {
        Self {
            name: name.into(),
            kind: Kind::Table {
                engine: engine.to_owned(),
                partition_by: String::new(),
                order_by: String::new(),
                retention_days: None,
                remembers: false,
            },
            columns,
            filled: Vec::new(),
        }
    }

    pub(crate) fn view(name: impl Into<String>, query: String, columns: Vec<(String, String)>) -> Self {
        Self { name: name.into(), kind: Kind::View { query }, columns, filled: Vec::new() }
    }

    pub(crate) fn partitioned(mut self, by: &str) -> Self {
        if let Kind::Table { partition_by, .. } = &mut self.kind {
            by.clone_into(partition_by);
        }
        self
    }

    pub(crate) fn ordered(mut self, by: &[&str]) -> Self {
        if let Kind::Table { order_by, .. } = &mut self.kind {
            *order_by = by.join(", ");
        }
        self
    }

    /// The table remembers tokens.
    pub(crate) fn remembering(mut self) -> Self {
        if let Kind::Table { remembers, .. } = &mut self.kind {
            *remembers = true;
        }
        self
    }

    /// Rows leave `days` after they arrived; `time` is the type of the column that says when that was.
    pub(crate) fn kept(mut self, days: u32, time: &str) -> Self {
        if let Kind::Table { retention_days, .. } = &mut self.kind {
            *retention_days = Some(days);
        }
        self.filled.push(("inserted_at".to_owned(), time.to_owned(), "now()".to_owned()));
        self
    }

    /// The engine's name as `system.tables` has it.
    pub(crate) fn engine(&self) -> &str {
        match &self.kind {
            Kind::Table { engine, .. } => engine.split('(').next().unwrap_or(engine),
            Kind::View { .. } => "View",
        }
    }

    /// The statement that creates it.
    pub(crate) fn create(&self) -> String {
        self.statement("CREATE")
    }

    /// The statement that puts it in the place of another version; for tables there is none.
    pub(crate) fn replace(&self) -> Option<String> {
        match &self.kind {
            Kind::View { .. } => Some(self.statement("CREATE OR REPLACE")),
            Kind::Table { .. } => None,
        }
    }

    fn statement(&self, verb: &str) -> String {
        let name = &self.name;
        let version = comment();
        match &self.kind {
            Kind::View { query } => format!("{verb} VIEW {name}\nAS {query}\nCOMMENT '{version}'"),
            Kind::Table { engine, partition_by, order_by, retention_days, remembers } => {
                let plain = self.columns.iter().map(|(column, t)| format!("    `{column}` {t}"));
                let filled = self.filled.iter().map(|(column, t, value)| format!("    `{column}` {t} DEFAULT {value}"));
                let columns = plain.chain(filled).collect::<Vec<_>>().join(",\n");
                let mut text = format!("{verb} TABLE {name}\n(\n{columns}\n)\nENGINE = {engine}");
                let mut settings = Vec::new();
                if !partition_by.is_empty() {
                    text += &format!("\nPARTITION BY {partition_by}");
                }
                if !order_by.is_empty() {
                    text += &format!("\nORDER BY ({order_by})");
                }
                if let Some(days) = retention_days {
                    if *days > 0 {
                        text += &format!("\nTTL {}", super::retention_clause(*days));
                    }
                    settings.push("ttl_only_drop_parts = 1".to_owned());
                }
                if *remembers {
                    settings.push(format!("non_replicated_deduplication_window = {DEDUP_WINDOW}"));
                }
                if !settings.is_empty() {
                    text += &format!("\nSETTINGS {}", settings.join(", "));
                }
                format!("{text}\nCOMMENT '{version}'")
            }
        }
    }
}

/// The comment that says which version of the definitions made an object.
pub(crate) fn comment() -> String {
    format!("tidemill tables, version {DDL_VERSION}")
}
