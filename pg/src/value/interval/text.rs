//! Text forms of intervals: all four styles out, the plain spellings in. Never reads an abbreviation that depends on `IntervalStyle`.

use super::Interval;
use crate::value::calendar::{MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND};
use crate::value::render::{put_padded, put_seconds};
use crate::value::{IntervalStyle, Unsupported};
use bytes::{BufMut, BytesMut};
use std::fmt::Write;

/// The fields as they print.
struct Fields {
    years: i64,
    months: i64,
    days: i64,
    hours: i64,
    minutes: i64,
    /// Seconds and their fraction, in microseconds.
    micros: i64,
}

impl Interval {
    /// Appends `interval_out`.
    pub(crate) fn render(
        &self,
        style: IntervalStyle,
        out: &mut BytesMut,
    ) -> Result<(), Unsupported> {
        // The least days have no absolute value; more hours than that were an error before Postgres 15.
        let hours = self.micros / MICROS_PER_HOUR;
        if i32::try_from(hours).is_err() || self.days == i32::MIN {
            return Err(Unsupported);
        }
        let fields = Fields {
            years: i64::from(self.months / 12),
            months: i64::from(self.months % 12),
            days: i64::from(self.days),
            hours: self.micros / MICROS_PER_HOUR,
            minutes: self.micros % MICROS_PER_HOUR / MICROS_PER_MINUTE,
            micros: self.micros % MICROS_PER_MINUTE,
        };
        match style {
            IntervalStyle::Postgres => fields.put_postgres(out),
            IntervalStyle::PostgresVerbose => fields.put_verbose(out),
            IntervalStyle::SqlStandard => fields.put_sql(out),
            IntervalStyle::Iso8601 => fields.put_iso(out),
        }
        Ok(())
    }
}

impl Fields {
    fn has_time(&self) -> bool {
        self.hours != 0 || self.minutes != 0 || self.micros != 0
    }

    fn time_is_negative(&self) -> bool {
        self.hours < 0 || self.minutes < 0 || self.micros < 0
    }

    fn put_postgres(&self, out: &mut BytesMut) {
        let (mut first, mut before_negative) = (true, false);
        for (number, unit) in [
            (self.years, "year"),
            (self.months, "mon"),
            (self.days, "day"),
        ] {
            if number == 0 {
                continue;
            }
            let space = if first { "" } else { " " };
            let plus = if before_negative && number > 0 {
                "+"
            } else {
                ""
            };
            put(
                out,
                format_args!("{space}{plus}{number} {unit}{}", plural(number)),
            );
            (first, before_negative) = (false, number < 0);
        }
        if first || self.has_time() {
            let sign = match (self.time_is_negative(), before_negative) {
                (true, _) => "-",
                (false, true) => "+",
                _ => "",
            };
            put(out, format_args!("{}{sign}", if first { "" } else { " " }));
            put_padded(out, self.hours.abs(), 2);
            self.put_minutes(out);
        }
    }

    /// `:05:06.7`
    fn put_minutes(&self, out: &mut BytesMut) {
        out.put_u8(b':');
        put_padded(out, self.minutes.abs(), 2);
        out.put_u8(b':');
        put_seconds(out, self.micros.abs(), 2);
    }

    fn put_verbose(&self, out: &mut BytesMut) {
        out.put_u8(b'@');
        let units = [
            (self.years, "year"),
            (self.months, "mon"),
            (self.days, "day"),
            (self.hours, "hour"),
            (self.minutes, "min"),
        ];
        // The first part decides the sign of all: the others are shown relative to it.
        let (mut first, mut before) = (true, false);
        let mut shown = |number: i64| {
            if first {
                before = number < 0;
                first = false;
            }
            if before { -number } else { number }
        };
        for (number, unit) in units.into_iter().filter(|(number, _)| *number != 0) {
            let number = shown(number);
            put(out, format_args!(" {number} {unit}{}", plural(number)));
        }
        if self.micros != 0 {
            let micros = shown(self.micros);
            out.put_slice(if micros < 0 { b" -" } else { b" " });
            put_seconds(out, micros.abs(), 1);
            let one = micros.abs() == MICROS_PER_SECOND;
            out.put_slice(if one { b" sec" } else { b" secs" });
        }
        if first {
            out.put_slice(b" 0");
        }
        if before {
            out.put_slice(b" ago");
        }
    }

    fn put_sql(&self, out: &mut BytesMut) {
        let parts = [
            self.years,
            self.months,
            self.days,
            self.hours,
            self.minutes,
            self.micros,
        ];
        let (negative, positive) = (parts.iter().any(|n| *n < 0), parts.iter().any(|n| *n > 0));
        let has_months = self.years != 0 || self.months != 0;
        let has_days = self.days != 0;
        let standard = !(negative && positive) && !(has_months && (has_days || self.has_time()));
        if !negative && !positive {
            out.put_u8(b'0');
            return;
        }
        if !standard {
            return self.put_sql_signed(out);
        }
        if negative {
            out.put_u8(b'-');
        }
        if has_months {
            put(
                out,
                format_args!("{}-{}", self.years.abs(), self.months.abs()),
            );
            return;
        }
        if has_days {
            put(out, format_args!("{} ", self.days.abs()));
        }
        put(out, format_args!("{}", self.hours.abs()));
        self.put_minutes(out);
    }

    /// All fields with their signs: what the standard's syntax cannot say.
    fn put_sql_signed(&self, out: &mut BytesMut) {
        let sign = |negative: bool| if negative { '-' } else { '+' };
        let months = sign(self.years < 0 || self.months < 0);
        put(
            out,
            format_args!("{months}{}-{}", self.years.abs(), self.months.abs()),
        );
        put(
            out,
            format_args!(" {}{}", sign(self.days < 0), self.days.abs()),
        );
        put(
            out,
            format_args!(" {}{}", sign(self.time_is_negative()), self.hours.abs()),
        );
        self.put_minutes(out);
    }

    fn put_iso(&self, out: &mut BytesMut) {
        let start = out.len();
        let unit = |out: &mut BytesMut, number: i64, unit: char| {
            if number != 0 {
                put(out, format_args!("{number}{unit}"));
            }
        };
        out.put_u8(b'P');
        unit(out, self.years, 'Y');
        unit(out, self.months, 'M');
        unit(out, self.days, 'D');
        if self.has_time() {
            out.put_u8(b'T');
            unit(out, self.hours, 'H');
            unit(out, self.minutes, 'M');
            if self.micros != 0 {
                if self.micros < 0 {
                    out.put_u8(b'-');
                }
                put_seconds(out, self.micros.abs(), 1);
                out.put_u8(b'S');
            }
        }
        if out.len() == start + 1 {
            out.put_slice(b"T0S");
        }
    }
}

fn plural(number: i64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("the buffer grows");
}
