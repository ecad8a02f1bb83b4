//! Which ClickHouse database is meant: `clickhouse://HOST:PORT/DATABASE`, and who asks.

use std::fmt;

use crate::error::ClickHouseError;
use crate::retry::Waiters;

const SCHEME: &str = "clickhouse://";

/// A database in a ClickHouse server. The password is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    database: String,
    secure: bool,
    user: Option<String>,
    password: Option<String>,
    waiters: Waiters,
}

impl Target {
    /// Reads `clickhouse://HOST:PORT/DATABASE[?secure=true]`; the port is that of the HTTP interface.
    ///
    /// User and password come beside the address (from `CLICKHOUSE_USER` and `CLICKHOUSE_PASSWORD`), so that no secret
    /// stands in a command line; empty ones count as none.
    ///
    /// # Errors
    /// [`ClickHouseError::Address`] when the address is none, or has a user in it.
    pub fn parse(address: &str, user: Option<String>, password: Option<String>) -> Result<Self, ClickHouseError> {
        let wrong = |reason: &str| {
            let shown = address.rsplit_once('@').map_or(address.to_owned(), |(_, rest)| format!("{SCHEME}...@{rest}"));
            ClickHouseError::Address { address: shown, reason: reason.to_owned() }
        };
        let rest = address.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with clickhouse://"))?;
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('@') {
            return Err(wrong("user and password belong into CLICKHOUSE_USER and CLICKHOUSE_PASSWORD"));
        }
        let (place, database) = rest.split_once('/').ok_or_else(|| wrong("it has no database"))?;
        let (host, port) = place.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
        if host.is_empty() || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
            return Err(wrong("it has no host"));
        }
        let port = port.parse().map_err(|_| wrong("its port is no number up to 65535"))?;
        if !is_name(database) {
            return Err(wrong("a database is named with letters, digits and underscores"));
        }
        let mut secure = false;
        for option in options.split('&').filter(|option| !option.is_empty()) {
            secure = match option {
                "secure=true" => true,
                "secure=false" => false,
                _ => return Err(wrong("the only option is secure=true")),
            };
        }
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        Ok(Self {
            host: host.to_owned(),
            port,
            database: database.to_owned(),
            secure,
            user: given(user),
            password: given(password),
            waiters: Waiters::default(),
        })
    }

    /// `host:port`, for messages.
    #[must_use]
    pub fn at(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// A table with its database and server, for messages.
    pub(crate) fn place_of(&self, table: &str) -> String {
        format!("table {table} in database {} at {}", self.database, self.at())
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}/", if self.secure { "https" } else { "http" }, self.host, self.port)
    }

    /// Those who wait for this server, through this address and its clones.
    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{SCHEME}{}:{}/{}", self.host, self.port, self.database)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Target")
            .field("address", &self.to_string())
            .field("secure", &self.secure)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .finish()
    }
}

/// Whether a name needs no quotes anywhere.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Result<Target, ClickHouseError> {
        Target::parse(address, Some("default".to_owned()), Some("hidden".to_owned()))
    }

    #[test]
    fn an_address_names_server_and_database() {
        let target = parse("clickhouse://127.0.0.1:8123/web").unwrap();
        assert_eq!((target.at().as_str(), target.database()), ("127.0.0.1:8123", "web"));
        assert_eq!(target.url(), "http://127.0.0.1:8123/");
        let secure = parse("clickhouse://[::1]:8443/web?secure=true").unwrap();
        assert_eq!(secure.url(), "https://[::1]:8443/");
    }

    #[test]
    fn a_wrong_address_gets_a_sentence() {
        for (address, reason) in [
            ("http://h:1/db", "begin with"),
            ("clickhouse://h:1", "no database"),
            ("clickhouse://h/db", "no port"),
            ("clickhouse://:1/db", "no host"),
            ("clickhouse://::1:1/db", "no host"),
            ("clickhouse://h:99999/db", "65535"),
            ("clickhouse://h:1/", "letters"),
            ("clickhouse://h:1/a b", "letters"),
            ("clickhouse://h:1/db?x=1", "secure=true"),
            ("clickhouse://me:secret@h:1/db", "CLICKHOUSE_PASSWORD"),
        ] {
            let message = parse(address).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn the_password_is_never_printed() {
        let target = parse("clickhouse://h:1/db").unwrap();
        assert!(!format!("{target} {target:?}").contains("hidden"));
    }
}
