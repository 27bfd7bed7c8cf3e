//! The address of the system of record. Never prints its password.

use std::fmt;

/// A `postgres://user:password@host:port/database?option=value` URL. `Debug` and `Display` leave the password out.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UpstreamUrl(String);

impl UpstreamUrl {
    /// Takes a URL; the options are checked when it is dialled.
    ///
    /// # Errors
    /// Says what is wrong, without the URL: it may hold a password.
    pub fn parse(text: &str) -> Result<UpstreamUrl, String> {
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or("not a URL that begins with postgres:// or postgresql://")?;
        let url = UpstreamUrl(text.to_owned());
        if url.host_port().contains(',') {
            return Err(
                "names several hosts; Ripen stands in front of one system of record".to_owned(),
            );
        }
        let (_, port) = url.host_port().rsplit_once(':').unwrap_or_default();
        if !port.is_empty() && !port.ends_with(']') && port.parse::<u16>().is_err() {
            return Err(format!("\"{port}\" is not a port"));
        }
        if rest.is_empty() {
            return Err("names neither host nor database".to_owned());
        }
        Ok(url)
    }

    /// The whole URL, password included: for dialling only.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `host:port` as written; empty when the URL leaves the host to its options.
    pub fn host_port(&self) -> &str {
        let (_, rest) = self.0.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host)
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return Ok(());
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        write!(f, "{scheme}://")?;
        match authority.rsplit_once('@') {
            Some((login, host)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let mask = if password.is_empty() { "" } else { ":***" };
                write!(f, "{user}{mask}@{host}")?;
            }
            None => write!(f, "{authority}")?,
        }
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        write!(f, "{path}")?;
        for (n, option) in query
            .split('&')
            .filter(|option| !option.is_empty())
            .enumerate()
        {
            let shown = if option.starts_with("password=") {
                "password=***"
            } else {
                option
            };
            write!(f, "{}{shown}", if n == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_never_shown() {
        let shown = |text| UpstreamUrl::parse(text).expect("a good URL").to_string();
        assert_eq!(
            shown("postgres://u:p@h:5/d?a=b&password=x"),
            "postgres://u:***@h:5/d?a=b&password=***"
        );
        assert_eq!(shown("postgresql://u@h/d"), "postgresql://u@h/d");
        let url = UpstreamUrl::parse("postgres://u:s3cret@h/d").expect("a good URL");
        assert!(!format!("{url:?}").contains("s3cret"));
        assert_eq!(url.as_str(), "postgres://u:s3cret@h/d");
    }

    #[test]
    fn host_and_port_are_found() {
        let host = |text| UpstreamUrl::parse(text).map(|url| url.host_port().to_owned());
        assert_eq!(host("postgres://u:p@h:5432/d"), Ok("h:5432".to_owned()));
        assert_eq!(
            host("postgres:///d?host=/run/postgresql"),
            Ok(String::new())
        );
        assert_eq!(host("postgres://[::1]/d"), Ok("[::1]".to_owned()));
        assert!(host("mysql://h/d").is_err());
        assert!(host("postgres://").is_err());
        assert!(host("postgres://a,b/d").is_err());
        assert!(host("postgres://h:70000/d").is_err());
    }
}
