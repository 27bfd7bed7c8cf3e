//! The keys of Ripen's advisory locks in the system of record, together, so that no two of them meet. Holds numbers only.
//!
//! Keys of one number are in ASCII, so that who looks into `pg_locks` may recognise them; keys of two numbers are apart from those of one.

/// "ripen": who brings the schema up to date.
pub(crate) const MIGRATION: i64 = 0x72_69_70_65_6e;

/// "ripen t": who takes a log over. Apart from migrations, so that whoever holds it is known to be taking over.
pub(crate) const TAKE_OVER: i64 = 0x72_69_70_65_6e_20_74;

/// "ripen p": who changes the publication that hot caches follow.
pub const PUBLICATION: i64 = 0x72_69_70_65_6e_20_70;

/// "ripe" as the first number, a log's number as the second: the [claim](crate::claim). Beside it, members of a cluster have locked their log's identity, a number drawn
/// by chance.
pub(crate) const CLAIM: i32 = 0x72_69_70_65;
