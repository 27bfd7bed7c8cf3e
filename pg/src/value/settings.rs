//! The session settings that change how values read and print. Never keeps a setting that is only half understood: it is unknown then, and
//! values that depend on it are refused.

use super::zone::Zone;

/// How dates print: the first word of `DateStyle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DateStyle {
    /// `1997-12-17`
    Iso,
    /// `12/17/1997`
    Sql,
    /// `Wed Dec 17 07:37:16 1997 PST`
    Postgres,
    /// `17.12.1997`
    German,
}

/// Order of day, month and year: the second word of `DateStyle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DateOrder {
    /// Day first.
    Dmy,
    /// Month first.
    Mdy,
    /// Year first.
    Ymd,
}

/// `IntervalStyle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntervalStyle {
    /// `1 year 2 mons 3 days 04:05:06`
    Postgres,
    /// `@ 1 year 2 mons 3 days 4 hours 5 mins 6 secs`
    PostgresVerbose,
    /// `+1-2 +3 +4:05:06`
    SqlStandard,
    /// `P1Y2M3DT4H5M6S`
    Iso8601,
}

/// What a session has set. Fields that are `None` are unknown, and values that depend on them are refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `DateStyle`.
    pub date_style: Option<(DateStyle, DateOrder)>,
    /// `IntervalStyle`.
    pub interval_style: Option<IntervalStyle>,
    /// `bytea_output`: true for `escape`, false for `hex`.
    pub bytea_escape: Option<bool>,
    /// `extra_float_digits`, -15 to 3.
    pub extra_float_digits: Option<i32>,
    pub(crate) zone: Option<Zone>,
}

impl Settings {
    /// Reads the settings by their names (`DateStyle`, `IntervalStyle`, `TimeZone`, `bytea_output`, `extra_float_digits`) with values as `SHOW`
    /// or ParameterStatus give them. The first three are always reported by Postgres, so a missing one is unknown; the other two are
    /// never reported, so a missing one is taken as Postgres's built-in default: whoever knows of another default (role, database) must give it.
    pub fn from_parameters(lookup: impl Fn(&str) -> Option<String>) -> Settings {
        let digits = lookup("extra_float_digits").map_or(Some(1), |text| text.parse().ok());
        let bytea = lookup("bytea_output").unwrap_or_else(|| "hex".to_owned());
        Settings {
            date_style: lookup("DateStyle").and_then(|text| date_style(&text)),
            interval_style: lookup("IntervalStyle").and_then(|text| interval_style(&text)),
            bytea_escape: match bytea.to_ascii_lowercase().as_str() {
                "hex" => Some(false),
                "escape" => Some(true),
                _ => None,
            },
            extra_float_digits: digits.filter(|digits| (-15..=3).contains(digits)),
            zone: lookup("TimeZone").and_then(|name| Zone::named(&name)),
        }
    }

    /// What [`Settings::from_parameters`] makes the same of again; what is unknown here is given as what nobody knows.
    pub fn to_parameters(&self) -> [(&'static str, String); 5] {
        let unknown = || "unknown".to_owned();
        let date = self.date_style.map_or_else(unknown, |(style, order)| {
            let style = match style {
                DateStyle::Iso => "ISO",
                DateStyle::Sql => "SQL",
                DateStyle::Postgres => "Postgres",
                DateStyle::German => "German",
            };
            let order = match order {
                DateOrder::Dmy => "DMY",
                DateOrder::Mdy => "MDY",
                DateOrder::Ymd => "YMD",
            };
            format!("{style}, {order}")
        });
        let interval = self.interval_style.map_or_else(unknown, |style| {
            let style = match style {
                IntervalStyle::Postgres => "postgres",
                IntervalStyle::PostgresVerbose => "postgres_verbose",
                IntervalStyle::SqlStandard => "sql_standard",
                IntervalStyle::Iso8601 => "iso_8601",
            };
            style.to_owned()
        });
        let bytea = self.bytea_escape.map_or_else(unknown, |escape| {
            if escape { "escape" } else { "hex" }.to_owned()
        });
        let digits = self.extra_float_digits;
        let digits = digits.map_or_else(unknown, |digits| digits.to_string());
        let zone = self.zone.as_ref().map_or_else(unknown, Zone::name);
        [
            ("DateStyle", date),
            ("IntervalStyle", interval),
            ("bytea_output", bytea),
            ("extra_float_digits", digits),
            ("TimeZone", zone),
        ]
    }

    /// Whether `TimeZone` is one whose rules are known here.
    pub fn knows_time_zone(&self) -> bool {
        self.zone.is_some()
    }
}

impl Default for Settings {
    /// Postgres's own defaults, in UTC.
    fn default() -> Settings {
        Settings {
            date_style: Some((DateStyle::Iso, DateOrder::Mdy)),
            interval_style: Some(IntervalStyle::Postgres),
            bytea_escape: Some(false),
            extra_float_digits: Some(1),
            zone: Zone::named("UTC"),
        }
    }
}

fn date_style(text: &str) -> Option<(DateStyle, DateOrder)> {
    let (style, order) = text.split_once(", ")?;
    let style = match style {
        "ISO" => DateStyle::Iso,
        "SQL" => DateStyle::Sql,
        "Postgres" => DateStyle::Postgres,
        "German" => DateStyle::German,
        _ => return None,
    };
    let order = match order {
        "DMY" => DateOrder::Dmy,
        "MDY" => DateOrder::Mdy,
        "YMD" => DateOrder::Ymd,
        _ => return None,
    };
    Some((style, order))
}

fn interval_style(text: &str) -> Option<IntervalStyle> {
    match text {
        "postgres" => Some(IntervalStyle::Postgres),
        "postgres_verbose" => Some(IntervalStyle::PostgresVerbose),
        "sql_standard" => Some(IntervalStyle::SqlStandard),
        "iso_8601" => Some(IntervalStyle::Iso8601),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_make_the_same_settings_again() {
        let tokyo = |name: &str| {
            let known = [("DateStyle", "German, DMY"), ("TimeZone", "Asia/Tokyo")];
            let found = known.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        for settings in [Settings::default(), Settings::from_parameters(tokyo)] {
            let parameters = settings.to_parameters();
            let again = Settings::from_parameters(|name| {
                let found = parameters.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.clone())
            });
            assert_eq!(again, settings);
        }
    }
}
