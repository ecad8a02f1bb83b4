//! What a request asks for: parameters become typed questions, or one message that names every mistake.

use std::collections::BTreeMap;

use super::refusal::Refusal;
use super::time_range::{Range, Span, Step, instant};

/// Buckets that one answer has at most.
pub(super) const MOST_BUCKETS: u64 = 10_000;

/// Rows of a ranking at most.
const MOST_RANKS: usize = 1_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    /// Page views.
    Views,
    /// Different users: of a longer time the union of its minutes.
    UniqueUsers,
    /// Revenue in cents.
    RevenueCents,
    /// Errors.
    Errors,
    /// Sessions, counted where they began.
    Sessions,
}

const METRICS: [(&str, Metric); 5] = [
    ("views", Metric::Views),
    ("unique_users", Metric::UniqueUsers),
    ("revenue_cents", Metric::RevenueCents),
    ("errors", Metric::Errors),
    ("sessions", Metric::Sessions),
];

const STEPS: [(&str, Step); 3] = [("minute", Step::Minute), ("hour", Step::Hour), ("day", Step::Day)];

/// What a ranking ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ranked {
    /// Pages.
    Page,
    /// App versions that errors were met in.
    ErrorVersion,
    /// Currencies.
    Currency,
}

const RANKED: [(&str, Ranked); 3] =
    [("page", Ranked::Page), ("error_version", Ranked::ErrorVersion), ("currency", Ranked::Currency)];

impl Ranked {
    /// What it can be ranked by, the usual first.
    fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Page => &[Metric::Views, Metric::UniqueUsers],
            Self::ErrorVersion => &[Metric::Errors, Metric::UniqueUsers],
            Self::Currency => &[Metric::RevenueCents],
        }
    }
}

/// A metric over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetricQuery {
    /// What is counted.
    pub(super) metric: Metric,
    /// Over which time.
    pub(super) span: Span,
    /// In buckets of which length.
    pub(super) step: Step,
    /// Of which tenant.
    pub(super) tenant: String,
    /// Of one page alone (views and users).
    pub(super) page: Option<String>,
    /// In which currency (revenue).
    pub(super) currency: Option<String>,
}

/// A ranking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopQuery {
    /// What is ranked.
    pub(super) by: Ranked,
    /// By which number.
    pub(super) metric: Metric,
    /// Over which time.
    pub(super) span: Span,
    /// Of which tenant.
    pub(super) tenant: String,
    /// How many at most.
    pub(super) limit: usize,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// A metric in buckets.
    Timeseries(MetricQuery),
    /// A ranking.
    Top(TopQuery),
    /// All metrics of a range.
    Totals {
        /// Over which time.
        span: Span,
        /// Of which tenant.
        tenant: String,
    },
    /// Sessions: begun over time, and how long.
    Sessions {
        /// Over which time.
        span: Span,
        /// In buckets of which length.
        step: Step,
        /// Of which tenant.
        tenant: String,
    },
    /// The first and the last minute with data.
    Range {
        /// Of which tenant; none: of all.
        tenant: Option<String>,
    },
    /// A statement of SQL.
    Sql {
        /// The statement.
        text: String,
        /// Whether the answer is wanted as CSV.
        csv: bool,
    },
}

/// The pairs after the `?`, decoded.
pub(super) type Pairs = [(String, String)];

/// Reads `/timeseries`.
pub(super) fn timeseries(pairs: &Pairs) -> Result<Question, Refusal> {
    let mut given = Given::new(pairs);
    let metric = given.choice("metric", &METRICS, None);
    let (span, step, tenant) = (given.span(), given.choice("step", &STEPS, Some(Step::Minute)), given.tenant());
    let (page, currency) = (given.text("page"), given.text("currency"));
    let pageless = metric.is_some_and(|metric| !matches!(metric, Metric::Views | Metric::UniqueUsers));
    if page.is_some() && pageless {
        given.mistake("page: only views and unique_users are known by page; leave it out");
    }
    if currency.is_some() && metric.is_some_and(|metric| metric != Metric::RevenueCents) {
        given.mistake("currency: only revenue_cents has one; leave it out");
    }
    given.finish()?;
    let (Some(metric), Some(step)) = (metric, step) else { return Err(incomplete()) };
    Ok(Question::Timeseries(MetricQuery { metric, span, step, tenant, page, currency }))
}

/// Reads `/top`.
pub(super) fn top(pairs: &Pairs) -> Result<Question, Refusal> {
    let mut given = Given::new(pairs);
    let by = given.choice("by", &RANKED, None);
    let usual = by.map(|by| by.metrics()[0]);
    let metric = given.choice("metric", &METRICS, Some(usual.unwrap_or(Metric::Views)));
    if let (Some(by), Some(metric)) = (by, metric)
        && !by.metrics().contains(&metric)
    {
        let known = METRICS.iter().filter(|(_, each)| by.metrics().contains(each)).map(|(name, _)| *name);
        let known: Vec<&str> = known.collect();
        given.mistake(&format!("metric: what is asked for is ranked by {}", known.join(" or ")));
    }
    let (span, tenant) = (given.span(), given.tenant());
    let limit = given.text("limit").map_or(Some(10), |text| text.parse().ok().filter(|n| (1..=MOST_RANKS).contains(n)));
    if limit.is_none() {
        given.mistake(&format!("limit: a number from 1 to {MOST_RANKS}"));
    }
    given.finish()?;
    let (Some(by), Some(metric), Some(limit)) = (by, metric, limit) else { return Err(incomplete()) };
    Ok(Question::Top(TopQuery { by, metric, span, tenant, limit }))
}

/// Reads `/totals`.
pub(super) fn totals(pairs: &Pairs) -> Result<Question, Refusal> {
    let mut given = Given::new(pairs);
    let (span, tenant) = (given.span(), given.tenant());
    given.finish()?;
    Ok(Question::Totals { span, tenant })
}

/// Reads `/sessions`.
pub(super) fn sessions(pairs: &Pairs) -> Result<Question, Refusal> {
    let mut given = Given::new(pairs);
    let (span, step, tenant) = (given.span(), given.choice("step", &STEPS, Some(Step::Minute)), given.tenant());
    given.finish()?;
    let step = step.ok_or_else(incomplete)?;
    Ok(Question::Sessions { span, step, tenant })
}

/// Reads `/range`.
pub(super) fn range(pairs: &Pairs) -> Result<Question, Refusal> {
    let mut given = Given::new(pairs);
    let tenant = given.text("tenant");
    given.finish()?;
    Ok(Question::Range { tenant })
}

/// Reads `/sql`.
pub(super) fn sql(pairs: &Pairs, csv: bool) -> Result<Question, Refusal> {
    let mut given = Given::new(pairs);
    let text = given.text("q");
    if text.as_ref().is_none_or(|text| text.trim().is_empty()) {
        given.mistake("q: the statement, for example q=SELECT page, views FROM page_views_by_minute LIMIT 10");
    }
    given.finish()?;
    Ok(Question::Sql { text: text.ok_or_else(incomplete)?, csv })
}

/// That a range has few enough buckets.
///
/// # Errors
/// When it has more than one answer may have.
pub(super) fn few_enough(range: Range, step: Step) -> Result<usize, Refusal> {
    let buckets = range.buckets(step);
    let most = usize::try_from(buckets).ok().filter(|_| buckets <= MOST_BUCKETS);
    most.ok_or_else(|| {
        Refusal::Asked(format!(
            "the range has {buckets} buckets of a {step}, and an answer has at most {MOST_BUCKETS}; give a shorter range \
             (from, to) or a longer step"
        ))
    })
}

fn incomplete() -> Refusal {
    Refusal::Asked("the parameters are incomplete".to_owned())
}

/// The parameters of a request while they are read.
struct Given<'a> {
    left: BTreeMap<&'a str, &'a str>,
    known: Vec<&'static str>,
    mistakes: Vec<String>,
}

impl<'a> Given<'a> {
    fn new(pairs: &'a Pairs) -> Self {
        let mut given = Self { left: BTreeMap::new(), known: Vec::new(), mistakes: Vec::new() };
        for (name, value) in pairs {
            if given.left.insert(name, value).is_some() {
                given.mistake(&format!("{name}: it is given twice"));
            }
        }
        given
    }

    fn mistake(&mut self, text: &str) {
        self.mistakes.push(text.to_owned());
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.left.remove(name).map(str::to_owned)
    }

    fn choice<T: Copy>(&mut self, name: &'static str, options: &[(&str, T)], usual: Option<T>) -> Option<T> {
        let given = self.text(name);
        let found = match &given {
            Some(text) => options.iter().find(|(option, _)| option == text).map(|(_, value)| *value),
            None => usual,
        };
        if found.is_none() {
            let names: Vec<&str> = options.iter().map(|(option, _)| *option).collect();
            self.mistake(&format!("{name}: one of {}", names.join(", ")));
        }
        found
    }

    fn instant(&mut self, name: &'static str) -> Option<i64> {
        let text = self.text(name)?;
        let found = instant(&text);
        if found.is_none() {
            self.mistake(&format!(
                "{name}: a time such as 2026-01-01T14:00:00Z, or milliseconds since 1970 (a + has to be written %2B)"
            ));
        }
        found
    }

    fn span(&mut self) -> Span {
        let span = Span { from: self.instant("from"), to: self.instant("to") };
        if let (Some(from), Some(to)) = (span.from, span.to)
            && from > to
        {
            self.mistake("from: it is after to; exchange them");
        }
        span
    }

    fn tenant(&mut self) -> String {
        let tenant = self.text("tenant").unwrap_or_else(|| "default".to_owned());
        if tenant.is_empty() {
            self.mistake("tenant: a name; leave it out for `default`");
        }
        tenant
    }

    /// # Errors
    /// All mistakes in one message.
    fn finish(mut self) -> Result<(), Refusal> {
        for name in self.left.keys() {
            let text = format!("{name}: there is no such parameter; known are {}", self.known.join(", "));
            self.mistakes.push(text);
        }
        if self.mistakes.is_empty() { Ok(()) } else { Err(Refusal::Asked(self.mistakes.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = fn(&Pairs) -> Result<Question, Refusal>;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        text.split('&').filter_map(pair).collect()
    }

    #[test]
    fn parameters_become_typed_questions() {
        let expected = MetricQuery {
            metric: Metric::UniqueUsers,
            span: Span { from: Some(0), to: Some(3_600_000) },
            step: Step::Hour,
            tenant: "acme".into(),
            page: Some("/a'b".into()),
            currency: None,
        };
        let text = "metric=unique_users&from=0&to=1970-01-01T01:00:00Z&step=hour&page=/a'b&tenant=acme";
        assert_eq!(timeseries(&pairs(text)).unwrap(), Question::Timeseries(expected));
        let usual = TopQuery {
            by: Ranked::ErrorVersion,
            metric: Metric::Errors,
            span: Span::default(),
            tenant: "default".into(),
            limit: 10,
        };
        assert_eq!(top(&pairs("by=error_version")).unwrap(), Question::Top(usual));
        assert_eq!(range(&[]).unwrap(), Question::Range { tenant: None });
        let csv = Question::Sql { text: "SELECT 1".into(), csv: true };
        assert_eq!(sql(&pairs("q=SELECT 1"), true).unwrap(), csv);
    }

    #[test]
    fn every_mistake_is_named_in_one_message() {
        let asked: Read = |pairs| sql(pairs, false);
        for (read, text, mistakes) in [
            (timeseries as Read, "", vec!["metric: one of views, unique_users, revenue_cents, errors, sessions"]),
            (timeseries, "metric=view&step=week", vec!["metric: one of", "step: one of minute, hour, day"]),
            (timeseries, "metric=views&from=yesterday&to=x", vec!["from: a time such as", "to: a time such as"]),
            (timeseries, "metric=views&from=2&to=1", vec!["from: it is after to"]),
            (timeseries, "metric=errors&page=/a&currency=EUR", vec!["page: only views", "currency: only revenue"]),
            (timeseries, "metric=views&metric=errors", vec!["metric: it is given twice"]),
            (timeseries, "metric=views&tenant=", vec!["tenant: a name"]),
            (timeseries, "metric=views&colour=red", vec!["colour: there is no such parameter; known are metric, from"]),
            (top, "", vec!["by: one of page, error_version, currency"]),
            (top, "by=page&metric=errors", vec!["metric: what is asked for is ranked by views or unique_users"]),
            (top, "by=currency&limit=0", vec!["limit: a number from 1 to 1000"]),
            (top, "by=page&limit=ten&from=", vec!["limit:", "from:"]),
            (totals, "step=hour", vec!["step: there is no such parameter; known are from, to, tenant"]),
            (sessions, "step=", vec!["step: one of"]),
            (range, "from=0", vec!["from: there is no such parameter; known are tenant"]),
            (asked, "", vec!["q: the statement"]),
            (asked, "q= ", vec!["q: the statement"]),
        ] {
            let error = read(&pairs(text)).unwrap_err();
            assert_eq!(error.status(), axum::http::StatusCode::BAD_REQUEST);
            for mistake in mistakes {
                assert!(error.to_string().contains(mistake), "{text}: {error}");
            }
        }
    }

    #[test]
    fn too_many_buckets_are_refused_with_what_to_do() {
        let days = |days: i64| Range { from: 0, to: days * 86_400_000 };
        assert_eq!(few_enough(days(6), Step::Minute).unwrap(), 8_640);
        let error = few_enough(days(7), Step::Minute).unwrap_err().to_string();
        assert!(
            error.starts_with("the range has 10080 buckets of a minute, and an answer has at most 10000"),
            "{error}"
        );
        assert_eq!(few_enough(days(10_000), Step::Day).unwrap(), 10_000);
    }
}
