//! What a statement may be before anybody plans it: pure, iterative, and of the text alone.
//!
//! Flat chains (`1+1+..`, `a OR b OR ..`) become trees as deep as they are long, which no limit of the parser sees; so
//! operators are counted, not only brackets (DataFusion issues 22229, 22936).

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::QueryError;

/// Bytes of a statement.
const MOST_BYTES: usize = 64 << 10;
/// Words, numbers, texts and signs.
const MOST_TOKENS: usize = 10_000;
/// Signs and words that join, nest or repeat something.
const MOST_OPERATORS: usize = 500;
/// Brackets and `CASE`s in each other.
const MOST_DEPTH: usize = 50;

/// Whether the statement is within what one may be.
///
/// # Errors
/// [`QueryError::TooComplex`] names the bound; [`QueryError::Unreadable`] where it is no text of SQL.
pub(crate) fn check(statement: &str) -> Result<(), QueryError> {
    let most = |most: usize, what: &'static str| Err(QueryError::TooComplex { most, what });
    if statement.len() > MOST_BYTES {
        return most(MOST_BYTES, "bytes");
    }
    let tokens = Tokenizer::new(&GenericDialect {}, statement).tokenize();
    let tokens = tokens.map_err(|error| QueryError::Unreadable { reason: error.to_string() })?;
    let (mut counted, mut operators, mut depth) = (0, 0, 0_usize);
    for token in &tokens {
        match token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => {
                depth += 1;
                operators += 1;
            }
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            Token::Word(word) => match word.keyword {
                Keyword::CASE => {
                    depth += 1;
                    operators += 1;
                }
                Keyword::END => depth = depth.saturating_sub(1),
                keyword => operators += usize::from(joins(keyword)),
            },
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::Comma
            | Token::Period
            | Token::SemiColon
            | Token::EOF => {}
            _ => operators += 1,
        }
        counted += 1;
        if counted > MOST_TOKENS {
            return most(MOST_TOKENS, "words and signs");
        }
        if operators > MOST_OPERATORS {
            return most(MOST_OPERATORS, "operators, calls and joins");
        }
        if depth > MOST_DEPTH {
            return most(MOST_DEPTH, "levels of brackets");
        }
    }
    Ok(())
}

/// Whether each such word makes the tree of the statement deeper.
fn joins(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::AND
            | Keyword::OR
            | Keyword::XOR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::SIMILAR
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::BETWEEN
            | Keyword::DIV
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::INTERVAL
            | Keyword::EXISTS
            | Keyword::ANY
            | Keyword::ALL
            | Keyword::SELECT
            | Keyword::FROM
            | Keyword::JOIN
            | Keyword::UNION
            | Keyword::INTERSECT
            | Keyword::EXCEPT
            | Keyword::EXPLAIN
            | Keyword::OVER
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_people_ask_are_within_the_limits() {
        let pages: Vec<String> = (0..4_000).map(|page| format!("'/p/{page}'")).collect();
        for statement in [
            "SELECT page, sum(views) AS v FROM page_views_by_minute WHERE tenant = 'default' GROUP BY page ORDER BY v DESC",
            "WITH a AS (SELECT 1 AS n), b AS (SELECT n + 1 AS n FROM a) SELECT * FROM a JOIN b ON a.n = b.n - 1",
            "SHOW TABLES",
            &format!("SELECT count(*) FROM raw_events WHERE page IN ({})", pages.join(",")),
            &format!("SELECT {} FROM sessions", vec!["coalesce(event_count, 0) + 1"; 100].join(", ")),
        ] {
            check(statement).unwrap_or_else(|refused| panic!("{statement}: {refused}"));
        }
    }

    #[test]
    fn every_way_to_be_deep_or_long_is_refused() {
        let many = |piece: &str| piece.repeat(600);
        for (statement, what) in [
            (format!("SELECT 1{}", many("+1")), "operators"),
            (format!("SELECT 1 WHERE true{}", many(" OR true")), "operators"),
            (format!("SELECT {}1", many("- ")), "operators"),
            (format!("SELECT {}true", many("NOT ")), "operators"),
            (format!("SELECT 1{}", many("::int")), "operators"),
            (format!("SELECT x{}", many("[0]")), "operators"),
            (format!("SELECT 'a'{}", many("||'a'")), "operators"),
            (format!("SELECT 1{}", many(" UNION ALL SELECT 1")), "operators"),
            (format!("SELECT * FROM a{}", many(" JOIN a ON true")), "operators"),
            (format!("SELECT 1 WHERE a{}", many(" IS NOT NULL")), "operators"),
            (format!("SELECT 1{}", many(" AT TIME ZONE 'UTC'")), "operators"),
            (format!("{}SELECT 1", many("EXPLAIN ")), "operators"),
            (format!("SELECT {}1{}", "(".repeat(60), ")".repeat(60)), "levels"),
            (format!("SELECT {}1{}", "[".repeat(60), "]".repeat(60)), "levels"),
            (format!("SELECT {} 1 {}", "CASE WHEN true THEN ".repeat(60), "END ".repeat(60)), "levels"),
            (format!("SELECT {}1", "1,".repeat(10_000)), "words"),
            (format!("SELECT '{}'", "a".repeat(100_000)), "bytes"),
        ] {
            let refused = check(&statement).expect_err(&statement[..40]).to_string();
            assert!(refused.contains(what), "{}: {refused}", &statement[..40]);
        }
        assert!(matches!(check("SELECT 'a"), Err(QueryError::Unreadable { .. })));
    }
}
