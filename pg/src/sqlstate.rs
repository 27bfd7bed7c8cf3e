//! SQLSTATE codes and the fields of an ErrorResponse or NoticeResponse, kept as the bytes that came. Never changes or drops a field that Postgres sent.

use std::borrow::Cow;
use std::fmt;

/// The five characters of a SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SqlState(pub [u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* #[doc = concat!("`", $code, "`")] pub const $name: SqlState = SqlState::of($code);)*
        }
    };
}

states! {
    SUCCESSFUL_COMPLETION = "00000";
    WARNING = "01000";
    CONNECTION_EXCEPTION = "08000";
    CONNECTION_DOES_NOT_EXIST = "08003";
    CONNECTION_FAILURE = "08006";
    CANNOT_CONNECT = "08001";
    CONNECTION_REJECTED = "08004";
    TRANSACTION_RESOLUTION_UNKNOWN = "08007";
    PROTOCOL_VIOLATION = "08P01";
    FEATURE_NOT_SUPPORTED = "0A000";
    CARDINALITY_VIOLATION = "21000";
    DATA_EXCEPTION = "22000";
    STRING_DATA_RIGHT_TRUNCATION = "22001";
    NUMERIC_VALUE_OUT_OF_RANGE = "22003";
    NULL_VALUE_NOT_ALLOWED = "22004";
    INVALID_DATETIME_FORMAT = "22007";
    DATETIME_FIELD_OVERFLOW = "22008";
    DIVISION_BY_ZERO = "22012";
    INVALID_PARAMETER_VALUE = "22023";
    CHARACTER_NOT_IN_REPERTOIRE = "22021";
    INVALID_TEXT_REPRESENTATION = "22P02";
    INVALID_BINARY_REPRESENTATION = "22P03";
    UNTRANSLATABLE_CHARACTER = "22P05";
    INTEGRITY_CONSTRAINT_VIOLATION = "23000";
    RESTRICT_VIOLATION = "23001";
    NOT_NULL_VIOLATION = "23502";
    FOREIGN_KEY_VIOLATION = "23503";
    UNIQUE_VIOLATION = "23505";
    CHECK_VIOLATION = "23514";
    EXCLUSION_VIOLATION = "23P01";
    INVALID_CURSOR_STATE = "24000";
    INVALID_TRANSACTION_STATE = "25000";
    ACTIVE_SQL_TRANSACTION = "25001";
    READ_ONLY_SQL_TRANSACTION = "25006";
    NO_ACTIVE_SQL_TRANSACTION = "25P01";
    IN_FAILED_SQL_TRANSACTION = "25P02";
    IDLE_IN_TRANSACTION_TIMEOUT = "25P03";
    INVALID_SQL_STATEMENT_NAME = "26000";
    INVALID_AUTHORIZATION = "28000";
    INVALID_PASSWORD = "28P01";
    INVALID_CURSOR_NAME = "34000";
    INVALID_SAVEPOINT = "3B001";
    INVALID_CATALOG_NAME = "3D000";
    INVALID_SCHEMA_NAME = "3F000";
    TRANSACTION_ROLLBACK = "40000";
    SERIALIZATION_FAILURE = "40001";
    STATEMENT_COMPLETION_UNKNOWN = "40003";
    DEADLOCK_DETECTED = "40P01";
    INSUFFICIENT_PRIVILEGE = "42501";
    SYNTAX_ERROR = "42601";
    DUPLICATE_CURSOR = "42P03";
    DUPLICATE_PREPARED_STATEMENT = "42P05";
    DUPLICATE_OBJECT = "42710";
    UNDEFINED_TABLE = "42P01";
    UNDEFINED_COLUMN = "42703";
    UNDEFINED_FUNCTION = "42883";
    UNDEFINED_OBJECT = "42704";
    UNDEFINED_PARAMETER = "42P02";
    DATATYPE_MISMATCH = "42804";
    INDETERMINATE_DATATYPE = "42P18";
    INSUFFICIENT_RESOURCES = "53000";
    DISK_FULL = "53100";
    OUT_OF_MEMORY = "53200";
    TOO_MANY_CONNECTIONS = "53300";
    CONFIGURATION_LIMIT_EXCEEDED = "53400";
    PROGRAM_LIMIT_EXCEEDED = "54000";
    STATEMENT_TOO_COMPLEX = "54001";
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    OBJECT_IN_USE = "55006";
    CANT_CHANGE_RUNTIME_PARAM = "55P02";
    LOCK_NOT_AVAILABLE = "55P03";
    OPERATOR_INTERVENTION = "57000";
    QUERY_CANCELED = "57014";
    ADMIN_SHUTDOWN = "57P01";
    CRASH_SHUTDOWN = "57P02";
    CANNOT_CONNECT_NOW = "57P03";
    DATABASE_DROPPED = "57P04";
    IDLE_SESSION_TIMEOUT = "57P05";
    SYSTEM_ERROR = "58000";
    IO_ERROR = "58030";
    INTERNAL_ERROR = "XX000";
    DATA_CORRUPTED = "XX001";
    INDEX_CORRUPTED = "XX002";
}

impl SqlState {
    const fn of(code: &str) -> SqlState {
        let code = code.as_bytes();
        assert!(code.len() == 5, "a SQLSTATE has five characters");
        SqlState([code[0], code[1], code[2], code[3], code[4]])
    }

    /// A code from its characters; `None` when they are not five.
    pub fn from_bytes(code: &[u8]) -> Option<SqlState> {
        code.try_into().ok().map(SqlState)
    }

    /// The two characters of its class, `23` in `23505`.
    pub fn class(self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The fields of an ErrorResponse or NoticeResponse, by their codes on the wire
/// (<https://www.postgresql.org/docs/current/protocol-error-fields.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// Severity, perhaps translated.
    LocalizedSeverity = b'S',
    /// Severity, never translated.
    Severity = b'V',
    /// SQLSTATE.
    Code = b'C',
    /// Primary message.
    Message = b'M',
    /// Detail.
    Detail = b'D',
    /// Hint.
    Hint = b'H',
    /// Cursor position in the statement, in characters from 1.
    Position = b'P',
    /// Cursor position in `InternalQuery`.
    InternalPosition = b'p',
    /// Text of an internally generated command.
    InternalQuery = b'q',
    /// Context, as a call stack.
    Where = b'W',
    /// Schema name.
    Schema = b's',
    /// Table name.
    Table = b't',
    /// Column name.
    Column = b'c',
    /// Data type name.
    DataType = b'd',
    /// Constraint name.
    Constraint = b'n',
    /// Source file.
    File = b'F',
    /// Source line.
    Line = b'L',
    /// Source routine.
    Routine = b'R',
}

/// `V` of an error or notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The server goes down.
    Panic,
    /// The session ends.
    Fatal,
    /// The statement fails.
    Error,
    /// A notice that asks for attention.
    Warning,
    /// A notice.
    Notice,
    /// A notice for debugging.
    Debug,
    /// A notice that was asked for.
    Info,
    /// A notice for the log.
    Log,
}

impl Severity {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Panic => "PANIC",
            Severity::Fatal => "FATAL",
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
            Severity::Debug => "DEBUG",
            Severity::Info => "INFO",
            Severity::Log => "LOG",
        }
    }

    fn from_bytes(word: &[u8]) -> Option<Severity> {
        use Severity::*;
        [Panic, Fatal, Error, Warning, Notice, Debug, Info, Log]
            .into_iter()
            .find(|known| known.as_str().as_bytes() == word)
    }
}

/// An error or a notice with all its fields, in the order they came. Bytes are in the client encoding of the session they belong to.
#[derive(Clone, PartialEq, Eq)]
pub struct ErrorFields(Vec<(u8, Vec<u8>)>);

impl ErrorFields {
    /// No field yet; for decoders.
    pub(crate) fn empty() -> ErrorFields {
        ErrorFields(Vec::new())
    }

    /// Appends a field as it came, known or not; for decoders.
    pub(crate) fn push(&mut self, code: u8, value: &[u8]) {
        self.0.push((code, value.to_vec()));
    }

    /// An error, notice or warning of that severity.
    pub fn new(severity: Severity, state: SqlState, message: impl Into<String>) -> ErrorFields {
        let word = severity.as_str();
        ErrorFields(Vec::with_capacity(6))
            .with(Field::LocalizedSeverity, word)
            .with(Field::Severity, word)
            .with(Field::Code, state.as_str())
            .with(Field::Message, message)
    }

    /// An error that ends the statement.
    pub fn error(state: SqlState, message: impl Into<String>) -> ErrorFields {
        ErrorFields::new(Severity::Error, state, message)
    }

    /// An error that ends the session.
    pub fn fatal(state: SqlState, message: impl Into<String>) -> ErrorFields {
        ErrorFields::new(Severity::Fatal, state, message)
    }

    /// A warning.
    pub fn warning(state: SqlState, message: impl Into<String>) -> ErrorFields {
        ErrorFields::new(Severity::Warning, state, message)
    }

    /// A notice.
    pub fn notice(message: impl Into<String>) -> ErrorFields {
        ErrorFields::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message)
    }

    /// Sets a field, replacing what it was.
    #[must_use]
    pub fn with(mut self, field: Field, value: impl Into<String>) -> ErrorFields {
        let value = value.into().into_bytes();
        match self.0.iter_mut().find(|(code, _)| *code == field as u8) {
            Some((_, old)) => *old = value,
            None => self.0.push((field as u8, value)),
        }
        self
    }

    /// Sets the detail: whole sentences.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> ErrorFields {
        self.with(Field::Detail, detail)
    }

    /// Sets the hint: whole sentences.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> ErrorFields {
        self.with(Field::Hint, hint)
    }

    /// Sets the position in the statement, in characters from 1.
    #[must_use]
    pub fn position(self, position: usize) -> ErrorFields {
        self.with(Field::Position, position.to_string())
    }

    /// Sets the context.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> ErrorFields {
        self.with(Field::Where, context)
    }

    /// Sets schema and table.
    #[must_use]
    pub fn table(self, schema: impl Into<String>, table: impl Into<String>) -> ErrorFields {
        self.with(Field::Schema, schema).with(Field::Table, table)
    }

    /// Sets the column.
    #[must_use]
    pub fn column(self, column: impl Into<String>) -> ErrorFields {
        self.with(Field::Column, column)
    }

    /// Sets the data type.
    #[must_use]
    pub fn data_type(self, data_type: impl Into<String>) -> ErrorFields {
        self.with(Field::DataType, data_type)
    }

    /// Sets the constraint.
    #[must_use]
    pub fn constraint(self, constraint: impl Into<String>) -> ErrorFields {
        self.with(Field::Constraint, constraint)
    }

    /// A field's bytes.
    pub fn get(&self, field: Field) -> Option<&[u8]> {
        self.iter()
            .find(|(code, _)| *code == field as u8)
            .map(|(_, value)| value)
    }

    /// A field as text for people; bytes that are not UTF-8 are replaced.
    pub fn text(&self, field: Field) -> Option<Cow<'_, str>> {
        self.get(field).map(String::from_utf8_lossy)
    }

    /// The SQLSTATE; `XX000` when it is missing or malformed.
    pub fn state(&self) -> SqlState {
        self.get(Field::Code)
            .and_then(SqlState::from_bytes)
            .unwrap_or(SqlState::INTERNAL_ERROR)
    }

    /// The severity; `Error` when it is missing or unknown.
    pub fn severity(&self) -> Severity {
        self.get(Field::Severity)
            .or_else(|| self.get(Field::LocalizedSeverity))
            .and_then(Severity::from_bytes)
            .unwrap_or(Severity::Error)
    }

    /// The primary message.
    pub fn message(&self) -> Cow<'_, str> {
        self.text(Field::Message).unwrap_or_default()
    }

    /// All fields as (code, bytes), in order, unknown ones included.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }
}

impl fmt::Display for ErrorFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity().as_str();
        write!(
            f,
            "{severity}: {} (SQLSTATE {})",
            self.message(),
            self.state()
        )
    }
}

/// Without detail, which may hold row values.
impl fmt::Debug for ErrorFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ErrorFields {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_set_once() {
        let error = ErrorFields::error(SqlState::UNIQUE_VIOLATION, "duplicate key")
            .detail("a")
            .detail("b");
        assert_eq!(error.get(Field::Detail), Some(&b"b"[..]));
        assert_eq!(error.iter().count(), 5);
        assert_eq!(error.state(), SqlState::UNIQUE_VIOLATION);
        assert_eq!(error.state().class(), *b"23");
        assert_eq!(error.severity(), Severity::Error);
        assert_eq!(error.to_string(), "ERROR: duplicate key (SQLSTATE 23505)");
    }

    #[test]
    fn missing_fields_have_harmless_readings() {
        let error = ErrorFields::empty();
        assert_eq!(error.state(), SqlState::INTERNAL_ERROR);
        assert_eq!(error.severity(), Severity::Error);
        assert_eq!(error.message(), "");
    }
}
