//! OIDs of the built-in types that are known here (`pg_type.dat`). Never changes: Postgres fixes these numbers for good.

#![allow(missing_docs)] // The names are the documentation: pg_catalog's own.

use crate::ids::TypeOid;

pub const BOOL: TypeOid = TypeOid(16);
pub const BYTEA: TypeOid = TypeOid(17);
/// The one-byte type `"char"`, not `character`.
pub const CHAR: TypeOid = TypeOid(18);
pub const NAME: TypeOid = TypeOid(19);
pub const INT8: TypeOid = TypeOid(20);
pub const INT2: TypeOid = TypeOid(21);
pub const INT4: TypeOid = TypeOid(23);
pub const TEXT: TypeOid = TypeOid(25);
pub const OID: TypeOid = TypeOid(26);
pub const JSON: TypeOid = TypeOid(114);
pub const CIDR: TypeOid = TypeOid(650);
pub const FLOAT4: TypeOid = TypeOid(700);
pub const FLOAT8: TypeOid = TypeOid(701);
pub const UNKNOWN: TypeOid = TypeOid(705);
pub const INET: TypeOid = TypeOid(869);
pub const BPCHAR: TypeOid = TypeOid(1042);
pub const VARCHAR: TypeOid = TypeOid(1043);
pub const DATE: TypeOid = TypeOid(1082);
pub const TIME: TypeOid = TypeOid(1083);
pub const TIMESTAMP: TypeOid = TypeOid(1114);
pub const TIMESTAMPTZ: TypeOid = TypeOid(1184);
pub const INTERVAL: TypeOid = TypeOid(1186);
pub const TIMETZ: TypeOid = TypeOid(1266);
pub const TEXT_ARRAY: TypeOid = TypeOid(1009);
pub const NUMERIC: TypeOid = TypeOid(1700);
pub const UUID: TypeOid = TypeOid(2950);
pub const JSONB: TypeOid = TypeOid(3802);

/// Array types with their element types.
const ARRAYS: [(TypeOid, TypeOid); 25] = [
    (TypeOid(199), JSON),
    (TypeOid(651), CIDR),
    (TypeOid(1000), BOOL),
    (TypeOid(1001), BYTEA),
    (TypeOid(1002), CHAR),
    (TypeOid(1003), NAME),
    (TypeOid(1005), INT2),
    (TypeOid(1007), INT4),
    (TEXT_ARRAY, TEXT),
    (TypeOid(1014), BPCHAR),
    (TypeOid(1015), VARCHAR),
    (TypeOid(1016), INT8),
    (TypeOid(1021), FLOAT4),
    (TypeOid(1022), FLOAT8),
    (TypeOid(1028), OID),
    (TypeOid(1041), INET),
    (TypeOid(1115), TIMESTAMP),
    (TypeOid(1182), DATE),
    (TypeOid(1183), TIME),
    (TypeOid(1185), TIMESTAMPTZ),
    (TypeOid(1187), INTERVAL),
    (TypeOid(1231), NUMERIC),
    (TypeOid(1270), TIMETZ),
    (TypeOid(2951), UUID),
    (TypeOid(3807), JSONB),
];

/// The element type of an array type known here.
pub fn array_element(array: TypeOid) -> Option<TypeOid> {
    let found = ARRAYS.binary_search_by_key(&array, |(array, _)| *array);
    found.ok().map(|index| ARRAYS[index].1)
}

/// The array type over an element type known here.
pub fn array_of(element: TypeOid) -> Option<TypeOid> {
    let found = ARRAYS.iter().find(|(_, known)| *known == element);
    found.map(|(array, _)| *array)
}

/// Whether it is one of the scalar types above (`unknown` is not).
pub fn is_scalar(type_oid: TypeOid) -> bool {
    array_of(type_oid).is_some()
}
