//! Where the system of record is and who Ripen is there: the parsed connection URL. Never shows the password in any output.

use crate::dial::DialTarget;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A parsed `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
///
/// A socket directory is given as `?host=/run/postgresql` or percent-encoded as the host.
#[derive(Clone)]
pub struct Upstream {
    /// How to reach the server. Cloning shares the TLS configuration.
    pub target: DialTarget,
    /// Ripen's own role.
    pub user: String,
    /// The database.
    pub database: String,
    password: Option<String>,
}

/// A TCP host name or address, or the directory of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Name or address.
    Tcp(String),
    /// Socket directory.
    Unix(PathBuf),
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// As `Prefer`: whether the server refuses plain connections is known only after the login, which is not dialling's.
    Allow,
    /// TLS if the server has it, without verification.
    Prefer,
    /// TLS or nothing; verified (as `VerifyCa`) only when a root certificate is named, as in libpq.
    Require,
    /// The server's certificate must lead to a trusted root.
    VerifyCa,
    /// And must be issued for the host.
    VerifyFull,
}

/// Why a URL was refused. Never repeats the URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid upstream URL: {0}")]
pub struct UpstreamError(String);

impl Upstream {
    /// The password of the URL, for the login only.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The same server with another database.
    pub fn with_database(&self, database: &str) -> Upstream {
        Upstream {
            database: database.to_owned(),
            ..self.clone()
        }
    }
}

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(url: &str) -> Result<Upstream, UpstreamError> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| bad("it must begin with \"postgres://\""))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let mut parts = Parts::default();
        parts.login(login)?;
        parts.place(place)?;
        if !path.is_empty() {
            parts.database = Some(decode(path)?);
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| bad("a parameter has no value"))?;
            parts.parameter(name, decode(value)?)?;
        }
        parts.finish()
    }
}

/// Shows everything but the password.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "postgres://{}@{}/{}?sslmode={}",
            self.user,
            self.target,
            self.database,
            self.target.ssl_mode()
        )
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        })
    }
}

impl FromStr for SslMode {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<SslMode, UpstreamError> {
        Ok(match text {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return Err(bad("unknown sslmode")),
        })
    }
}

#[derive(Default)]
struct Parts {
    user: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    ssl_mode: Option<SslMode>,
    root_cert: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Parts {
    fn login(&mut self, login: &str) -> Result<(), UpstreamError> {
        if login.is_empty() {
            return Ok(());
        }
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (login, None),
        };
        self.user = Some(decode(user)?);
        self.password = password;
        Ok(())
    }

    fn place(&mut self, place: &str) -> Result<(), UpstreamError> {
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| bad("an IPv6 address lacks its \"]\""))?;
            (host, after.strip_prefix(':'))
        } else {
            match place.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            }
        };
        if host.contains(',') {
            return Err(bad("several hosts are not supported"));
        }
        if !host.is_empty() {
            self.host = Some(decode(host)?);
        }
        if let Some(port) = port.filter(|port| !port.is_empty()) {
            self.port = Some(port_number(port)?);
        }
        Ok(())
    }

    fn parameter(&mut self, name: &str, value: String) -> Result<(), UpstreamError> {
        match name {
            "sslmode" => self.ssl_mode = Some(value.parse()?),
            "sslrootcert" => self.root_cert = Some(value),
            "sslcert" => self.cert = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            "host" => self.host = Some(value),
            "port" => self.port = Some(port_number(&value)?),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" => self.database = Some(value),
            other => return Err(bad(&format!("unknown parameter \"{other}\""))),
        }
        Ok(())
    }

    fn finish(self) -> Result<Upstream, UpstreamError> {
        let user = self.user.ok_or_else(|| bad("it names no user"))?;
        let host = self.host.unwrap_or_else(|| "localhost".to_owned());
        let host = if host.starts_with('/') {
            Host::Unix(host.into())
        } else {
            Host::Tcp(host)
        };
        if self.cert.is_some() != self.key.is_some() {
            return Err(bad("sslcert and sslkey belong together"));
        }
        let mode = self.ssl_mode.unwrap_or(SslMode::Prefer);
        let target = DialTarget::new(host, self.port.unwrap_or(5432), mode)
            .with_root_cert(self.root_cert)
            .with_client_cert(self.cert.zip(self.key));
        Ok(Upstream {
            target,
            database: self.database.unwrap_or_else(|| user.clone()),
            user,
            password: self.password,
        })
    }
}

fn port_number(text: &str) -> Result<u16, UpstreamError> {
    text.parse().map_err(|_| bad("the port is not a number"))
}

fn bad(what: &str) -> UpstreamError {
    UpstreamError(what.to_owned())
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, UpstreamError> {
    let broken = || bad("broken percent encoding");
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).ok_or_else(broken)?;
        let digits = std::str::from_utf8(digits).map_err(|_| broken())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| broken())?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Upstream {
        url.parse().unwrap()
    }

    #[test]
    fn all_parts_are_read_and_the_password_is_not_shown() {
        let upstream = parsed(
            "postgres://app%40x:s%3Acret@db.example:6432/shop?sslmode=verify-full&sslrootcert=/ca.pem",
        );
        assert_eq!(upstream.user, "app@x");
        assert_eq!(upstream.password(), Some("s:cret"));
        assert_eq!(upstream.database, "shop");
        assert_eq!(upstream.target.port(), 6432);
        assert_eq!(upstream.target.ssl_mode(), SslMode::VerifyFull);
        assert!(!format!("{upstream} {upstream:?}").contains("cret"));
    }

    #[test]
    fn defaults_are_those_of_libpq() {
        let upstream = parsed("postgresql://app@");
        assert_eq!(upstream.target.host(), &Host::Tcp("localhost".into()));
        assert_eq!(
            (upstream.target.port(), upstream.database.as_str()),
            (5432, "app")
        );
        assert_eq!(upstream.target.ssl_mode(), SslMode::Prefer);
    }

    #[test]
    fn sockets_and_ipv6_are_understood() {
        let socket = Host::Unix("/run/pg".into());
        assert_eq!(
            parsed("postgres://a@%2Frun%2Fpg:7/x").target.host(),
            &socket
        );
        assert_eq!(
            parsed("postgres://a@/x?host=/run/pg&port=7").target.host(),
            &socket
        );
        let six = parsed("postgres://a@[::1]:9/x");
        assert_eq!(
            (six.target.host(), six.target.port()),
            (&Host::Tcp("::1".into()), 9)
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_without_repeating_it() {
        for url in [
            "mysql://a@b",
            "postgres://b/x",
            "postgres://a:secret@b/x?sslmode=maybe",
            "postgres://a:secret@b:x/y",
            "postgres://a:secret@b,c/y",
            "postgres://a:secret@b/y?target_session_attrs=any",
            "postgres://a:%zz@b",
        ] {
            let error = url.parse::<Upstream>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
