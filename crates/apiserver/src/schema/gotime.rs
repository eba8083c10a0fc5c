//! Times as Go reads and writes them: RFC 3339 with seconds (`metav1.Time`) or with microseconds (`metav1.MicroTime`).

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::gofmt;

/// How fine a time is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// A fraction may be sent and is dropped.
    Seconds,
    /// Exactly six digits must be sent.
    Microseconds,
}

impl Precision {
    fn layout(self) -> &'static str {
        match self {
            Precision::Seconds => "2006-01-02T15:04:05Z07:00",
            Precision::Microseconds => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

/// The form in which a time is written again; null for Go's zero time.
///
/// # Errors
/// In Go's words, when it is no such time.
pub fn canonical(text: &str, precision: Precision) -> Result<Value, String> {
    let at = parse(text, precision)?;
    if at == zero() {
        return Ok(Value::Null);
    }
    let form = match precision {
        Precision::Seconds => "%Y-%m-%dT%H:%M:%SZ",
        Precision::Microseconds => "%Y-%m-%dT%H:%M:%S%.6fZ",
    };
    Ok(Value::from(at.strftime(form).to_string()))
}

fn zero() -> Timestamp {
    Timestamp::from_second(-62_135_596_800).unwrap_or(Timestamp::MIN)
}

struct Reader<'a> {
    whole: &'a str,
    rest: &'a str,
    precision: Precision,
}

impl Reader<'_> {
    fn fails<T>(&self, element: &str) -> Result<T, String> {
        Err(format!(
            "parsing time {} as {}: cannot parse {} as {}",
            gofmt::quote(self.whole),
            gofmt::quote(self.precision.layout()),
            gofmt::quote(self.rest),
            gofmt::quote(element)
        ))
    }

    fn out_of_range<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("parsing time {}: {what} out of range", gofmt::quote(self.whole)))
    }

    fn digits(&mut self, count: usize, element: &str) -> Result<i64, String> {
        match self.rest.get(..count) {
            Some(head) if head.bytes().all(|b| b.is_ascii_digit()) => {
                self.rest = &self.rest[count..];
                head.parse().or_else(|_| self.fails(element))
            }
            _ => self.fails(element),
        }
    }

    fn literal(&mut self, text: &str) -> Result<(), String> {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => self.fails(text),
        }
    }

    fn fraction(&mut self) -> Result<i64, String> {
        let tail = self.rest.strip_prefix(['.', ',']);
        let count = tail.map_or(0, |tail| tail.bytes().take_while(u8::is_ascii_digit).count());
        let wanted = match self.precision {
            Precision::Seconds if count == 0 => return Ok(0),
            Precision::Seconds => count,
            Precision::Microseconds if count < 6 => return self.fails(".000000"),
            Precision::Microseconds => 6,
        };
        let digits = &self.rest[1..=wanted];
        self.rest = &self.rest[wanted + 1..];
        let nine: String = digits.chars().chain(std::iter::repeat('0')).take(9).collect();
        Ok(nine.parse().unwrap_or(0))
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let digit = |at: usize| bytes.get(at).filter(|b| b.is_ascii_digit()).map(|b| i64::from(b - b'0'));
        let parts = (bytes.first(), digit(1), digit(2), bytes.get(3), digit(4), digit(5));
        let (Some(sign @ (b'+' | b'-')), Some(a), Some(b), Some(b':'), Some(c), Some(d)) = parts else {
            return self.fails("Z07:00");
        };
        let (hours, minutes) = (a * 10 + b, c * 10 + d);
        if hours > 24 {
            return self.out_of_range("time zone offset hour");
        }
        if minutes > 60 {
            return self.out_of_range("time zone offset minute");
        }
        let seconds = (hours * 60 + minutes) * 60;
        let seconds = if *sign == b'-' { -seconds } else { seconds };
        self.rest = &self.rest[6..];
        Ok(seconds)
    }
}

fn parse(text: &str, precision: Precision) -> Result<Timestamp, String> {
    let mut reader = Reader {
        whole: text,
        rest: text,
        precision,
    };
    let year = reader.digits(4, "2006")?;
    reader.literal("-")?;
    let month = reader.digits(2, "01")?;
    if !(1..=12).contains(&month) {
        return reader.out_of_range("month");
    }
    reader.literal("-")?;
    let day = reader.digits(2, "02")?;
    reader.literal("T")?;
    let hour = reader.digits(2, "15")?;
    if hour > 23 {
        return reader.out_of_range("hour");
    }
    reader.literal(":")?;
    let minute = reader.digits(2, "04")?;
    if minute > 59 {
        return reader.out_of_range("minute");
    }
    reader.literal(":")?;
    let second = reader.digits(2, "05")?;
    if second > 59 {
        return reader.out_of_range("second");
    }
    let nanos = reader.fraction()?;
    let offset = reader.offset()?;
    if !reader.rest.is_empty() {
        return Err(format!(
            "parsing time {}: extra text: {}",
            gofmt::quote(text),
            gofmt::quote(reader.rest)
        ));
    }
    let small = |n: i64| i8::try_from(n).unwrap_or(0);
    let Ok(date) = Date::new(i16::try_from(year).unwrap_or(0), small(month), small(day)) else {
        return reader.out_of_range("day");
    };
    let midnight = date.at(0, 0, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).map(|at| at.timestamp());
    let within = SignedDuration::new((hour * 60 + minute) * 60 + second - offset, i32::try_from(nanos).unwrap_or(0));
    match midnight.and_then(|at| at.checked_add(within)) {
        Ok(at) => Ok(at),
        Err(_) => reader.out_of_range("year"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_by_go() {
        for (text, precision, form) in [
            ("2026-01-01T00:00:00Z", Precision::Seconds, "2026-01-01T00:00:00Z"),
            ("2026-01-01T02:00:00.5+02:00", Precision::Seconds, "2026-01-01T00:00:00Z"),
            (
                "2026-01-01T02:00:00.123456+02:00",
                Precision::Microseconds,
                "2026-01-01T00:00:00.123456Z",
            ),
            (
                "2026-01-01T00:00:00.000000Z",
                Precision::Microseconds,
                "2026-01-01T00:00:00.000000Z",
            ),
        ] {
            assert_eq!(canonical(text, precision), Ok(Value::from(form)));
        }
        assert_eq!(canonical("0001-01-01T00:00:00Z", Precision::Seconds), Ok(Value::Null));
    }

    #[test]
    fn what_is_no_time_is_refused_in_the_words_of_go() {
        let seconds = Precision::Seconds;
        let micro = Precision::Microseconds;
        for (text, precision, why) in [
            (
                "x",
                seconds,
                "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
            ),
            (
                "2026-01-01T00:00:00Z",
                micro,
                "parsing time \"2026-01-01T00:00:00Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\"",
            ),
            (
                "2026-01-01T00:00:00.123456789Z",
                micro,
                "parsing time \"2026-01-01T00:00:00.123456789Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"789Z\" as \"Z07:00\"",
            ),
            (
                "2026-13-01T00:00:00Z",
                seconds,
                "parsing time \"2026-13-01T00:00:00Z\": month out of range",
            ),
            (
                "2026-02-30T00:00:00Z",
                seconds,
                "parsing time \"2026-02-30T00:00:00Z\": day out of range",
            ),
            (
                "2026-01-01T00:00:00Zx",
                seconds,
                "parsing time \"2026-01-01T00:00:00Zx\": extra text: \"x\"",
            ),
        ] {
            assert_eq!(canonical(text, precision), Err(why.to_owned()));
        }
    }
}
