//! One event as pieces of JSON text, which a malformed line can leave out or replace, and its rendering.

use super::skew::{Dice, Population, mix};

const VERSIONS: [&str; 8] = ["4.12.1", "4.12.0", "4.11.3", "4.11.0", "4.10.2", "4.9.0", "3.22.8", "5.0.0-beta.1"];
const SYSTEMS: [&str; 6] = ["iOS 17.4", "Android 14", "Windows", "macOS", "Linux", "Android 13"];
const SCREENS: [&str; 6] = ["1170x2532", "1080x2400", "1920x1080", "2560x1440", "1440x900", "390x844"];
const LOCALES: [&str; 7] = ["en_US", "de_DE", "fr_FR", "ja_JP", "pt_BR", "en_GB", "es_ES"];
const PLACES: [(&str, &str); 9] = [
    ("US", "New York"),
    ("DE", "Berlin"),
    ("FR", "Paris"),
    ("JP", "東京"),
    ("BR", "São Paulo"),
    ("GB", "London"),
    ("ES", "Madrid"),
    ("US", "Austin"),
    ("IN", "Mumbai"),
];
const BUTTONS: [&str; 5] = ["add-to-cart", "buy-now", "menu", "share", "close"];
const CURRENCIES: [&str; 5] = ["USD", "EUR", "USD", "GBP", "JPY"];
const MESSAGES: [&str; 4] = [
    "TypeError: undefined is not a function",
    r#"Cannot read property \"price\" of null"#,
    r"Timeout after 3000 ms\n    at fetch (app.js:120:9)",
    "NetworkError",
];
/// Types of which the pipeline has no table; they are kept all the same.
const OTHERS: [&str; 5] = ["scroll", "search", "signup", "video_play", "größe_gewählt"];

/// How an event names its tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tenant {
    /// No field: the tenant `default`.
    #[default]
    Absent,
    /// `null`: the tenant `default`.
    Null,
    /// `"default"` in words.
    Named,
    /// The second tenant.
    Acme,
}

/// How a line is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The collector's fields after the client's, no white space.
    Usual,
    /// The collector's fields first, white space between.
    Odd,
}

/// One event. The pieces of JSON text hold whole values (a text with its quotes); an empty piece is an absent field.
#[derive(Clone, Default)]
pub(super) struct Draft {
    pub(super) id: Vec<u8>,
    pub(super) kind: Vec<u8>,
    pub(super) user: Vec<u8>,
    pub(super) timestamp: Vec<u8>,
    pub(super) properties: Vec<u8>,
    pub(super) tenant: Tenant,
    /// Event time in milliseconds since 1970, whatever `timestamp` was replaced by.
    pub(super) time: u64,
    session: u64,
    who: u64,
    /// Version, or none where the context lacks it.
    version: Option<usize>,
    context: bool,
    extra: bool,
}

impl Draft {
    /// Replaces all of it by a new well-formed event at `time` (milliseconds since 1970).
    pub(super) fn fresh(&mut self, dice: &mut Dice, population: &Population, time: u64) {
        let who = population.user_at(dice, time);
        self.who = mix(who);
        self.time = time;
        self.session = Population::visit(who, time);
        self.id.clear();
        push_uuid(&mut self.id, dice.bits(), dice.bits());
        self.user.clear();
        self.user.extend_from_slice(b"\"u_");
        push_hex(&mut self.user, self.who, 8);
        self.user.push(b'"');
        self.timestamp.clear();
        push_number(&mut self.timestamp, time);
        let odd = dice.below(10_000);
        self.version = (odd >= 20).then(|| dice.small_index(VERSIONS.len()));
        self.context = odd >= 5;
        self.extra = odd >= 9_900;
        let of_acme = (self.who.is_multiple_of(8)) != (dice.below(200) == 0);
        self.tenant = match dice.below(50) {
            _ if of_acme => Tenant::Acme,
            0 => Tenant::Null,
            1..10 => Tenant::Named,
            _ => Tenant::Absent,
        };
        self.properties.clear();
        self.kind.clear();
        match dice.below(100) {
            0..58 => self.page_view(dice, population),
            58..80 => self.click(dice, population),
            80..84 => self.purchase(dice),
            84..87 => self.error(dice),
            _ => self.other(dice),
        }
    }

    pub(super) fn page_view(&mut self, dice: &mut Dice, population: &Population) {
        self.start(b"\"page_view\"");
        let page = population.page(dice);
        push_all(&mut self.properties, &[b"{\"page\":", page]);
        if dice.below(3) == 0 {
            self.properties.extend_from_slice(b",\"load_ms\":");
            push_number(&mut self.properties, 80 + dice.small(4_000));
        }
        self.properties.push(b'}');
    }

    fn click(&mut self, dice: &mut Dice, population: &Population) {
        self.start(b"\"click\"");
        let button = BUTTONS[dice.index(BUTTONS.len())].as_bytes();
        push_all(&mut self.properties, &[b"{\"button_id\":\"", button, b"\""]);
        if dice.below(2) == 0 {
            push_all(&mut self.properties, &[b",\"page\":", population.page(dice)]);
        }
        self.properties.push(b'}');
    }

    pub(super) fn purchase(&mut self, dice: &mut Dice) {
        self.start(b"\"purchase\"");
        self.properties.extend_from_slice(b"{\"amount_cents\":");
        // One in fifty is a refund.
        if dice.below(50) == 0 {
            self.properties.push(b'-');
        }
        push_number(&mut self.properties, 99 + dice.small(50_000));
        let currency = CURRENCIES[dice.index(CURRENCIES.len())].as_bytes();
        push_all(&mut self.properties, &[b",\"currency\":\"", currency, b"\",\"items\":"]);
        push_number(&mut self.properties, 1 + dice.small(9));
        self.properties.push(b'}');
    }

    fn error(&mut self, dice: &mut Dice) {
        self.start(b"\"error\"");
        let message = MESSAGES[dice.index(MESSAGES.len())].as_bytes();
        push_all(&mut self.properties, &[b"{\"message\":\"", message, b"\",\"fatal\":"]);
        self.properties.extend_from_slice(if dice.below(20) == 0 { b"true}" } else { b"false}" });
    }

    fn other(&mut self, dice: &mut Dice) {
        let kind = OTHERS[dice.index(OTHERS.len())].as_bytes();
        push_all(&mut self.kind, &[b"\"", kind, b"\""]);
        // A client may leave its properties out.
        if dice.below(20) > 0 {
            self.properties.extend_from_slice(b"{\"depth\":");
            push_number(&mut self.properties, dice.below(100));
            if dice.below(8) == 0 {
                self.properties.extend_from_slice(b",\"tags\":[\"a\",null,{\"b\":1.5}]");
            }
            self.properties.push(b'}');
        }
    }

    fn start(&mut self, kind: &[u8]) {
        self.kind.clear();
        self.kind.extend_from_slice(kind);
        self.properties.clear();
    }

    /// Makes the id something else than a lower-case UUID; still unique.
    pub(super) fn odd_id(&mut self, dice: &mut Dice) {
        match dice.below(5) {
            0 => self.id.make_ascii_uppercase(),
            1 => self.id.splice(1..1, *b"evt/").for_each(drop),
            2 => self.id.splice(1..1, "été-".bytes()).for_each(drop),
            3 => self.id.splice(1..1, *br"\u00e9t\u00e9\n").for_each(drop),
            // 36 bytes of UUID and 164 more: the longest id allowed.
            _ => self.id.splice(1..1, [b'x'; 164]).for_each(drop),
        }
    }

    /// Gives the event to the user number `edge` of those who return at the edge of a session.
    pub(super) fn edge_user(&mut self, edge: u64) {
        self.user.clear();
        self.user.extend_from_slice(b"\"edge_");
        push_number(&mut self.user, edge);
        self.user.push(b'"');
    }

    /// Appends the event as one line, without its end.
    pub(super) fn render(&self, line: &mut Vec<u8>, server_time: Option<u64>, layout: Layout) {
        match layout {
            Layout::Usual => {
                line.push(b'{');
                self.client_fields(line);
                self.collector_fields(line, server_time);
                // Each field ends in a comma, and the last one becomes the closing brace.
                *line.last_mut().expect("an event has a field at least") = b'}';
            }
            Layout::Odd => {
                line.extend_from_slice(b" {\t");
                self.collector_fields(line, server_time);
                line.push(b' ');
                self.client_fields(line);
                *line.last_mut().expect("an event has a field at least") = b' ';
                line.extend_from_slice(b"} ");
            }
        }
    }

    fn client_fields(&self, line: &mut Vec<u8>) {
        push_field(line, b"\"event_id\":", &self.id);
        push_field(line, b"\"event_type\":", &self.kind);
        push_field(line, b"\"user_id\":", &self.user);
        line.extend_from_slice(b"\"session_id\":\"");
        push_hex(line, self.session, 8);
        line.extend_from_slice(b"\",");
        push_field(line, b"\"timestamp\":", &self.timestamp);
        line.extend_from_slice(b"\"client_time\":\"");
        push_time(line, self.time);
        line.extend_from_slice(b"\",");
        push_field(line, b"\"properties\":", &self.properties);
        if self.context {
            self.context(line);
        }
        if self.extra {
            line.extend_from_slice(br#""sdk":{"name":"web","build":[7,1]},"#);
        }
    }

    fn context(&self, line: &mut Vec<u8>) {
        let pick = |from: u32, n: usize| (self.who >> from & 0xff) as usize % n;
        line.extend_from_slice(b"\"context\":{");
        if let Some(version) = self.version {
            push_all(line, &[b"\"app_version\":\"", VERSIONS[version].as_bytes(), b"\","]);
        }
        push_all(line, &[b"\"os\":\"", SYSTEMS[pick(8, SYSTEMS.len())].as_bytes()]);
        push_all(line, &[b"\",\"screen_resolution\":\"", SCREENS[pick(16, SCREENS.len())].as_bytes()]);
        push_all(line, &[b"\",\"locale\":\"", LOCALES[pick(24, LOCALES.len())].as_bytes(), b"\"},"]);
    }

    fn collector_fields(&self, line: &mut Vec<u8>, server_time: Option<u64>) {
        if let Some(time) = server_time {
            line.extend_from_slice(b"\"server_time\":");
            push_number(line, time);
            line.push(b',');
        }
        let (country, city) = PLACES[(self.who >> 32) as usize % PLACES.len()];
        line.extend_from_slice(b"\"ip\":\"");
        push_hex(line, mix(self.who), 8);
        push_all(line, &[b"\",\"geo\":{\"country\":\"", country.as_bytes()]);
        push_all(line, &[b"\",\"city\":\"", city.as_bytes(), b"\"},"]);
        match self.tenant {
            Tenant::Absent => {}
            Tenant::Null => line.extend_from_slice(b"\"tenant\":null,"),
            Tenant::Named => line.extend_from_slice(b"\"tenant\":\"default\","),
            Tenant::Acme => line.extend_from_slice(b"\"tenant\":\"acme\","),
        }
    }
}

fn push_all(line: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        line.extend_from_slice(piece);
    }
}

fn push_field(line: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if !value.is_empty() {
        push_all(line, &[name, value, b","]);
    }
}

pub(super) fn push_number(line: &mut Vec<u8>, number: u64) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

/// The last `digits` hexadecimal digits of `number`.
fn push_hex(line: &mut Vec<u8>, number: u64, digits: u32) {
    for digit in (0..digits).rev() {
        line.push(b"0123456789abcdef"[(number >> (4 * digit) & 15) as usize]);
    }
}

/// A random UUID (version 4) as JSON text.
fn push_uuid(line: &mut Vec<u8>, high: u64, low: u64) {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0xc << 60) | 0x8 << 60;
    line.push(b'"');
    push_hex(line, high >> 32, 8);
    for (number, digits) in [(high >> 16, 4), (high, 4), (low >> 48, 4), (low, 12)] {
        line.push(b'-');
        push_hex(line, number, digits);
    }
    line.push(b'"');
}

/// ISO 8601 with milliseconds, as a client's clock without a zone prints it.
fn push_time(line: &mut Vec<u8>, millis: u64) {
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil(days);
    push_number(line, year);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    for (before, number) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
        line.extend_from_slice(&[before, b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
    }
    let below = of_day % 1_000;
    line.extend_from_slice(&[b'.', b'0' + (below / 100 % 10) as u8]);
    line.extend_from_slice(&[b'0' + (below / 10 % 10) as u8, b'0' + (below % 10) as u8]);
}

/// Year, month and day of a day number since 1970-01-01, by counting in eras of 400 years from 0000-03-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_the_calendar_has_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000"),
            (951_782_399_999, "2000-02-28T23:59:59.999"),
            (951_782_400_000, "2000-02-29T00:00:00.000"),
            (1_772_323_200_007, "2026-03-01T00:00:00.007"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999"),
        ] {
            let mut line = Vec::new();
            push_time(&mut line, millis);
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
    }
}
