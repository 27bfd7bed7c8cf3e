//! Text forms that are easily got wrong. The comparison with Postgres is in `tests/values`.

use super::*;

fn settings(date_style: &str, interval_style: &str, zone: &str) -> Settings {
    Settings::from_parameters(|name| match name {
        "DateStyle" => Some(date_style.to_owned()),
        "IntervalStyle" => Some(interval_style.to_owned()),
        "TimeZone" => Some(zone.to_owned()),
        _ => None,
    })
}

fn shown(type_oid: TypeOid, bytes: &[u8], settings: &Settings) -> String {
    let mut out = BytesMut::new();
    render_text(type_oid, bytes, settings, &mut out).unwrap();
    String::from_utf8(out.into()).unwrap()
}

#[test]
fn dates_follow_the_style() {
    let day = 8_766_i32.to_be_bytes();
    for (style, text) in [
        ("ISO, MDY", "2024-01-01"),
        ("SQL, DMY", "01/01/2024"),
        ("German, DMY", "01.01.2024"),
        ("Postgres, MDY", "01-01-2024"),
    ] {
        assert_eq!(
            shown(oid::DATE, &day, &settings(style, "postgres", "UTC")),
            text
        );
    }
    let iso = Settings::default();
    assert_eq!(shown(oid::DATE, &i32::MAX.to_be_bytes(), &iso), "infinity");
    assert_eq!(
        shown(oid::DATE, &(-730_119_i32).to_be_bytes(), &iso),
        "0001-01-01"
    );
    assert_eq!(
        shown(oid::DATE, &(-730_120_i32).to_be_bytes(), &iso),
        "0001-12-31 BC"
    );
}

#[test]
fn timestamptz_shows_the_zone_of_the_session() {
    let noon = (8_766 * 86_400_000_000_i64 + 43_200_500_000).to_be_bytes();
    for (style, zone, text) in [
        ("ISO, MDY", "UTC", "2024-01-01 12:00:00.5+00"),
        ("ISO, MDY", "Asia/Kolkata", "2024-01-01 17:30:00.5+05:30"),
        ("SQL, MDY", "Europe/Berlin", "01/01/2024 13:00:00.5 CET"),
        (
            "Postgres, MDY",
            "America/New_York",
            "Mon Jan 01 07:00:00.5 2024 EST",
        ),
    ] {
        assert_eq!(
            shown(oid::TIMESTAMPTZ, &noon, &settings(style, "postgres", zone)),
            text
        );
    }
}

#[test]
fn unknown_settings_refuse_what_depends_on_them_only() {
    let odd = settings("ISO, MDY", "postgres", "<-03>+03");
    assert!(!odd.knows_time_zone());
    let mut out = BytesMut::from("kept");
    let moment = 0_i64.to_be_bytes();
    let refused = render_text(oid::TIMESTAMPTZ, &moment, &odd, &mut out);
    assert_eq!((refused, &out[..]), (Err(Unsupported), &b"kept"[..]));
    assert_eq!(shown(oid::TIMESTAMP, &moment, &odd), "2000-01-01 00:00:00");
}

#[test]
fn intervals_follow_the_style() {
    let mut bytes = Vec::new();
    let interval = Interval {
        months: 14,
        days: -3,
        micros: 3_723_400_000,
    };
    interval.encode(&mut bytes);
    for (style, text) in [
        ("postgres", "1 year 2 mons -3 days +01:02:03.4"),
        (
            "postgres_verbose",
            "@ 1 year 2 mons -3 days 1 hour 2 mins 3.4 secs",
        ),
        ("sql_standard", "+1-2 -3 +1:02:03.4"),
        ("iso_8601", "P1Y2M-3DT1H2M3.4S"),
    ] {
        assert_eq!(
            shown(oid::INTERVAL, &bytes, &settings("ISO, MDY", style, "UTC")),
            text
        );
    }
}

#[test]
fn array_elements_are_quoted_where_they_must_be() {
    let elements: [Option<&str>; 5] = [Some("a"), None, Some("null"), Some(""), Some("b \"c\\")];
    let mut bytes = Vec::new();
    for number in [1, 1, 25, 5, 0] {
        bytes.put_i32(number);
    }
    for element in elements {
        bytes.put_i32(element.map_or(-1, |text| text.len() as i32));
        bytes.put_slice(element.unwrap_or_default().as_bytes());
    }
    let text = shown(
        oid::array_of(oid::TEXT).unwrap(),
        &bytes,
        &Settings::default(),
    );
    assert_eq!(text, r#"[0:4]={a,NULL,"null","","b \"c\\"}"#);
}

#[test]
fn addresses_shorten_the_longest_zeros() {
    let mut address = vec![3, 128, 0, 16];
    address.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        shown(oid::INET, &address, &Settings::default()),
        "2001:db8:0:0:1::"
    );
    let v4 = [2, 8, 1, 4, 10, 0, 0, 0];
    assert_eq!(shown(oid::CIDR, &v4, &Settings::default()), "10.0.0.0/8");
}

#[test]
fn damaged_bytes_are_refused() {
    let mut out = BytesMut::new();
    for type_oid in [
        oid::INT4,
        oid::UUID,
        oid::NUMERIC,
        oid::INET,
        TypeOid(1007),
        TypeOid(600),
    ] {
        let refused = render_text(type_oid, &[1, 2, 3], &Settings::default(), &mut out);
        assert_eq!(refused, Err(Unsupported));
    }
    assert!(out.is_empty());
}
