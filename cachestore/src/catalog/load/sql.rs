//! The queries that read the catalog, for Postgres 13 to 18. Never reads a user table. `search_path` is `pg_catalog` and OIDs below 16384 are the system's.

/// Functions of `pg_catalog` that read or write tables, large objects or files, or run a text as SQL.
macro_rules! denied {
    () => {
        "'^(query|table|schema|database|cursor)_to_xml|^lo_|^loread$|^lowrite$|^pg_logical_slot_|^pg_logical_emit|^ts_stat$|^ts_rewrite$|^brin_|^gin_clean\
         |^pg_read_|^pg_ls_|^pg_stat_file$|^pg_file_|^pg_restore_|^pg_clear_|^binary_upgrade_|^pg_extension_config_dump$|^plpgsql_|^pg_get_loaded|^amvalidate$'"
    };
}

/// What the transaction sees.
pub const SNAPSHOT: &str = "SELECT pg_current_snapshot()::text";

/// One row about the database.
pub const DATABASE: &str = "SELECT current_setting('server_version_num')::int, d.datname::text, pg_encoding_to_char(d.encoding)::text, \
    CASE WHEN coalesce(to_jsonb(d)->>'datlocprovider', 'c') = 'c' AND d.datcollate IN ('C', 'POSIX') \
           OR to_jsonb(d)->>'datlocprovider' = 'b' AND to_jsonb(d)->>'datlocale' = 'C' THEN 'C' ELSE 'd' END, d.datdba, \
    EXISTS (SELECT FROM pg_event_trigger WHERE evtenabled <> 'D'), \
    EXISTS (SELECT FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oid >= 16384 AND p.prolang NOT IN (12, 13)) \
      OR EXISTS (SELECT FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc WHERE c.oid >= 16384 AND p.prolang NOT IN (12, 13)) \
      OR EXISTS (SELECT FROM pg_constraint c JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid \
                 JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid WHERE c.contypid <> 0 AND p.prolang NOT IN (12, 13)), \
    ARRAY(SELECT DISTINCT oprname::text FROM pg_operator WHERE oid >= 16384), \
    EXISTS (SELECT FROM pg_proc p WHERE p.oid >= 16384 AND (p.prosrc ~* '(curr|last)val' OR to_jsonb(p)->>'prosqlbody' ~ ':funcid (1575|2559) ')) \
      OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class >= 16384 AND ev_action::text ~ ':funcid (1575|2559) ') \
      OR EXISTS (SELECT FROM pg_attrdef WHERE adbin::text ~ ':funcid (1575|2559) ') \
      OR EXISTS (SELECT FROM pg_constraint WHERE contype = 'c' AND conbin::text ~ ':funcid (1575|2559) ') \
      OR EXISTS (SELECT FROM pg_policy WHERE concat(polqual::text, polwithcheck::text) ~ ':funcid (1575|2559) ') \
    FROM pg_database d WHERE d.datname = current_database()";

/// OID, name, roles with USAGE.
pub const NAMESPACES: &str = "SELECT n.oid, n.nspname::text, \
    ARRAY(SELECT a.grantee FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a WHERE a.privilege_type = 'USAGE') \
    FROM pg_namespace n WHERE n.nspname !~ '^pg_toast'";

/// Roles.
pub const ROLES: &str =
    "SELECT oid, rolname::text, rolsuper, rolbypassrls, rolinherit FROM pg_roles";

/// Memberships; `inherit_option` exists from 16 on.
pub const MEMBERS: &str =
    "SELECT m.member, m.roleid, (to_jsonb(m)->>'inherit_option')::boolean FROM pg_auth_members m";

/// Functions, overloads summed up. The system's own SQL functions (`round(numeric)`, `lpad`, `obj_description`) read no user table.
pub const FUNCTIONS: &str = concat!(
    "SELECT pronamespace, proname::text, bool_and(pronamespace = 11 AND oid < 16384 AND prolang IN (12, 13, 14) AND proname !~ ",
    denied!(),
    "), max(CASE provolatile WHEN 'i' THEN 0 WHEN 's' THEN 1 ELSE 2 END)::int FROM pg_proc GROUP BY 1, 2"
);

/// Types: all but the row types of relations, unless a column has one.
pub const TYPES: &str = "SELECT t.oid, format_type(t.oid, -1), t.typlen, t.typtype::text, t.typbasetype, \
    t.typnotnull OR EXISTS (SELECT FROM pg_constraint c WHERE c.contypid = t.oid), \
    CASE WHEN t.typelem <> 0 AND t.typlen = -1 AND e.typarray = t.oid THEN t.typelem ELSE 0::oid END, \
    ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder) \
    FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem \
    WHERE (t.typrelid = 0 AND coalesce(e.typrelid, 0) = 0) \
       OR t.oid IN (SELECT atttypid FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0)";

/// Relations that a statement can name.
pub const RELATIONS: &str = "SELECT c.oid, c.relnamespace, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, \
    c.relnatts, c.relowner, c.relrowsecurity OR c.relforcerowsecurity, c.relispartition, c.relreplident::text, \
    c.oid < 16384 OR n.nspname IN ('pg_catalog', 'information_schema'), c.relfilenode \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_toast'";

/// Live columns. The collation is '-', 'C', 'd' (deterministic), 'x' (not) or '*' (the database's).
pub const COLUMNS: &str = "SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, a.attnotnull, \
    CASE WHEN a.attcollation = 0 THEN '-' WHEN a.attcollation = 100 THEN '*' WHEN NOT l.collisdeterministic THEN 'x' \
         WHEN l.collprovider = 'c' AND l.collcollate IN ('C', 'POSIX') THEN 'C' ELSE 'd' END, \
    pg_get_expr(d.adbin, d.adrelid), a.attgenerated::text, a.attidentity::text, a.attcollation NOT IN (0, 100) \
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
    LEFT JOIN pg_collation l ON l.oid = a.attcollation \
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
    ORDER BY a.attrelid, a.attnum";

/// Sequences. `currval` needs USAGE or SELECT, `nextval` USAGE or UPDATE.
pub const SEQUENCES: &str = "SELECT c.oid, c.relfilenode, s.xmin::text, s.seqincrement, \
    CASE WHEN s.seqincrement > 0 THEN s.seqmax ELSE s.seqmin END, \
    c.relpersistence = 'p' AND s.seqcache = 1 AND NOT s.seqcycle, \
    ARRAY(SELECT a.grantee FROM aclexplode(coalesce(c.relacl, acldefault('s', c.relowner))) a WHERE a.privilege_type IN ('USAGE', 'UPDATE')), \
    ARRAY(SELECT a.grantee FROM aclexplode(coalesce(c.relacl, acldefault('s', c.relowner))) a WHERE a.privilege_type IN ('USAGE', 'SELECT')) \
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid";

/// The one sequence that a column's default depends on, or that its identity is.
pub const COLUMN_SEQUENCES: &str = "SELECT f.adrelid, f.adnum, min(d.refobjid) FROM pg_attrdef f \
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass \
    JOIN pg_sequence s ON s.seqrelid = d.refobjid WHERE f.adrelid >= 16384 GROUP BY 1, 2 HAVING count(DISTINCT d.refobjid) = 1 \
    UNION ALL SELECT d.refobjid, d.refobjsubid::int2, d.objid FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid \
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype = 'i'";

/// Privileges on tables (attnum 0) and columns.
pub const GRANTS: &str = "SELECT c.oid, 0::int2, a.privilege_type, a.grantee \
    FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a \
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') \
    UNION ALL SELECT t.attrelid, t.attnum, a.privilege_type, a.grantee FROM pg_attribute t, aclexplode(t.attacl) a \
    WHERE t.attacl IS NOT NULL AND t.attrelid >= 16384 AND t.attnum > 0 AND NOT t.attisdropped";

/// Indexes. "Computed": has expressions or a predicate; "whole row": these mention the row as a whole; "unusual": neither btree nor hash, or a user-made operator class.
pub const INDEXES: &str = "SELECT i.indrelid, i.indexrelid, i.indisprimary, i.indisunique, i.indisexclusion, i.indimmediate AND i.indisvalid, \
    i.indnkeyatts, i.indkey::int2[], i.indisreplident, i.indexprs IS NOT NULL OR i.indpred IS NOT NULL, \
    (coalesce(i.indexprs::text, '') || coalesce(i.indpred::text, '')) ~ ':varattno 0 ', \
    am.amname NOT IN ('btree', 'hash') OR EXISTS (SELECT FROM unnest(i.indclass::oid[]) o WHERE o >= 16384), \
    NOT i.indimmediate, x.relname::text, am.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL \
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am am ON am.oid = x.relam JOIN pg_class c ON c.oid = i.indrelid \
    WHERE i.indrelid >= 16384 AND c.relkind IN ('r', 'p', 'm')";

/// Columns that index expressions and predicates (index OID) or generated columns (relation OID) compute with.
pub const COMPUTED_FROM: &str = "SELECT d.objid, d.refobjsubid FROM pg_depend d JOIN pg_index i ON i.indexrelid = d.objid \
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0 \
      AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) \
    UNION SELECT i.indexrelid, d.refobjsubid FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid AND i.indrelid = c.conrelid \
    JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid \
    WHERE c.contype = 'x' AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.conrelid AND d.refobjsubid > 0 \
    UNION SELECT d.refobjid, d.refobjsubid FROM pg_attribute a JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid OR d.classid = 'pg_class'::regclass AND d.objid = a.attrelid AND d.objsubid = a.attnum \
    WHERE a.attgenerated <> '' AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid > 0 AND d.refobjsubid <> a.attnum";

/// Constraints of tables. `{enforced}` is a condition of version 18.
pub fn constraints(version: u32) -> String {
    let enforced = if version >= 180_000 {
        "AND c.conenforced"
    } else {
        ""
    };
    format!(
        "SELECT c.conrelid, c.conname::text, c.contype::text, coalesce(c.conkey, '{{}}'), c.confrelid, coalesce(c.confkey, '{{}}'), \
         c.confdeltype::text, c.confupdtype::text, c.convalidated, CASE WHEN c.contype = 'c' THEN pg_get_expr(c.conbin, c.conrelid) END, c.condeferrable, \
         c.contype = 'f' AND c.confmatchtype = 's' AND coalesce(to_jsonb(c)->>'conperiod', 'false') = 'false' \
         FROM pg_constraint c WHERE c.conrelid >= 16384 AND c.contype IN ('c', 'f') {enforced} ORDER BY c.conrelid, c.conname"
    )
}

/// What reads (r) or contains (i: parent, child) what.
pub const EDGES: &str = "SELECT r.ev_class, d.refobjid, 'r' FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
    WHERE r.ev_type = '1' AND r.ev_class >= 16384 AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class \
    UNION SELECT p.polrelid, d.refobjid, 'r' FROM pg_policy p JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid \
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> p.polrelid \
    UNION SELECT inhparent, inhrelid, 'i' FROM pg_inherits";

/// Relations with triggers (t) or rules other than a view's own (r) that are not disabled.
pub const HOOKS: &str = "SELECT DISTINCT tgrelid, 't' FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D' \
    UNION SELECT DISTINCT ev_class, 'r' FROM pg_rewrite WHERE ev_type <> '1' AND ev_enabled <> 'D' AND ev_class >= 16384";

/// Relations whose view definition or policy (r), or default, check, index, generated column (w) calls user code or a denied function.
pub const OPAQUE: &str = concat!(
    "WITH denied AS MATERIALIZED (SELECT format(':(funcid|aggfnoid|winfnoid) (%s) ', string_agg(oid::text, '|')) AS pattern \
     FROM pg_proc WHERE oid < 16384 AND proname ~ ",
    denied!(),
    "), used AS (SELECT classid, objid, objsubid FROM pg_depend \
        WHERE refobjid >= 16384 AND refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)), \
     tree(relation, kind, body) AS ( \
        SELECT ev_class, 'r', ev_action::text FROM pg_rewrite WHERE ev_class >= 16384 AND ev_type = '1' \
        UNION ALL SELECT polrelid, 'r', concat(polqual::text, polwithcheck::text) FROM pg_policy \
        UNION ALL SELECT adrelid, 'w', adbin::text FROM pg_attrdef \
        UNION ALL SELECT conrelid, 'w', conbin::text FROM pg_constraint WHERE contype = 'c' AND conrelid >= 16384 \
        UNION ALL SELECT indrelid, 'w', concat(indexprs::text, indpred::text) FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL) \
     SELECT relation, kind FROM tree, denied WHERE body ~ pattern \
     UNION SELECT r.ev_class, 'r' FROM pg_rewrite r JOIN used u ON u.classid = 'pg_rewrite'::regclass AND u.objid = r.oid WHERE r.ev_type = '1' \
     UNION SELECT p.polrelid, 'r' FROM pg_policy p JOIN used u ON u.classid = 'pg_policy'::regclass AND u.objid = p.oid \
     UNION SELECT a.adrelid, 'w' FROM pg_attrdef a JOIN used u ON u.classid = 'pg_attrdef'::regclass AND u.objid = a.oid \
     UNION SELECT c.conrelid, 'w' FROM pg_constraint c JOIN used u ON u.classid = 'pg_constraint'::regclass AND u.objid = c.oid WHERE c.conrelid <> 0 \
     UNION SELECT i.indrelid, 'w' FROM pg_index i JOIN used u ON u.classid = 'pg_class'::regclass AND u.objid = i.indexrelid \
     UNION SELECT u.objid, 'w' FROM used u WHERE u.classid = 'pg_class'::regclass AND u.objsubid > 0 \
     UNION SELECT i.indrelid, 'w' FROM pg_index i WHERE i.indrelid >= 16384 AND EXISTS (SELECT FROM unnest(i.indclass::oid[]) o WHERE o >= 16384)"
);

/// A hash over everything the queries above read, without what ordinary writes, ANALYZE, VACUUM, TRUNCATE and temporary tables change.
pub const FINGERPRINT: &str = "WITH relation AS MATERIALIZED (SELECT * FROM pg_class WHERE relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relnamespace <> 99), \
    part(name, row) AS ( \
    SELECT 'class', concat_ws(':', oid, relname, relnamespace, relkind, relpersistence, relnatts, relowner, relrowsecurity, relforcerowsecurity, relispartition, relreplident, relacl::text) FROM relation \
    UNION ALL SELECT 'attribute', concat_ws(':', a.attrelid, a.attnum, a.xmin) FROM pg_attribute a JOIN relation c ON c.oid = a.attrelid WHERE c.oid >= 16384 AND a.attnum > 0 \
    UNION ALL SELECT 'sequence', concat_ws(':', s.seqrelid, s.xmin, c.relfilenode) FROM pg_sequence s JOIN relation c ON c.oid = s.seqrelid \
    UNION ALL SELECT 'default', concat_ws(':', a.oid, a.xmin) FROM pg_attrdef a JOIN relation c ON c.oid = a.adrelid \
    UNION ALL SELECT 'constraint', concat_ws(':', o.oid, o.xmin) FROM pg_constraint o LEFT JOIN relation c ON c.oid = o.conrelid WHERE o.conrelid = 0 OR c.oid IS NOT NULL \
    UNION ALL SELECT 'index', concat_ws(':', i.indexrelid, i.xmin) FROM pg_index i JOIN relation c ON c.oid = i.indrelid WHERE c.oid >= 16384 \
    UNION ALL SELECT 'trigger', concat_ws(':', t.oid, t.xmin) FROM pg_trigger t JOIN relation c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal \
    UNION ALL SELECT 'rewrite', concat_ws(':', r.oid, r.xmin) FROM pg_rewrite r JOIN relation c ON c.oid = r.ev_class WHERE r.ev_class >= 16384 \
    UNION ALL SELECT 'inherits', concat_ws(':', inhrelid, inhparent) FROM pg_inherits \
    UNION ALL SELECT 'policy', concat_ws(':', oid, xmin) FROM pg_policy \
    UNION ALL SELECT 'type', concat_ws(':', t.oid, t.xmin) FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid >= 16384 AND t.typrelid = 0 AND coalesce(e.typrelid, 0) = 0 \
    UNION ALL SELECT 'enum', concat_ws(':', oid, xmin) FROM pg_enum \
    UNION ALL SELECT 'function', concat_ws(':', oid, xmin) FROM pg_proc WHERE oid >= 16384 \
    UNION ALL SELECT 'operator', concat_ws(':', oid, xmin) FROM pg_operator WHERE oid >= 16384 \
    UNION ALL SELECT 'cast', concat_ws(':', oid, xmin) FROM pg_cast WHERE oid >= 16384 \
    UNION ALL SELECT 'collation', concat_ws(':', oid, xmin) FROM pg_collation WHERE oid >= 16384 \
    UNION ALL SELECT 'event trigger', concat_ws(':', oid, xmin) FROM pg_event_trigger \
    UNION ALL SELECT 'schema', concat_ws(':', oid, nspname, nspowner, nspacl::text) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_' \
    UNION ALL SELECT 'role', concat_ws(':', oid, rolname, rolsuper, rolbypassrls, rolinherit) FROM pg_roles \
    UNION ALL SELECT 'member', concat_ws(':', member, roleid, xmin) FROM pg_auth_members \
    UNION ALL SELECT 'database', concat_ws(':', datname, encoding, datcollate, datdba) FROM pg_database WHERE datname = current_database()) \
    SELECT concat_ws('.', current_setting('server_version_num'), count(*), sum(hashtextextended(concat_ws(':', name, row), 0)), sum(hashtextextended(concat_ws(':', name, row), 1))) FROM part";
