CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')

CREATE DOMAIN small AS int CHECK (VALUE < 100)

CREATE TABLE types (id bigint PRIMARY KEY, b boolean, i2 smallint, i4 int, i8 bigint, f4 real, f8 double precision, n numeric, n2 numeric(10,3), t text, v varchar(5), c char(5), nm name, by bytea, u uuid, d date, ti time, tz timetz, ts timestamp, tst timestamptz, iv interval, j json, jb jsonb, ia int[], ta text[], m mood, sm small, ip inet, mac macaddr, bt bit(4), r int4range, p point, o oid, mo money)

INSERT INTO types VALUES (1, true, -32768, 2147483647, -9223372036854775808, 1.5, 0.1, 12345678901234567890.123456789, 1.5, 'tëxt', 'abcde', 'ab', 'name', '\x00ff10', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2024-02-29', '23:59:59.999999', '12:00:00+05:30', '2024-01-01 00:00:00', '2024-07-01 12:00:00+02', '1 year 2 months 3 days 04:05:06.7', '{"a": 1,  "a": 2}', '{"a": 1,  "a": 2}', '{1,NULL,3}', '{"a b",NULL,"\"q\""}', 'ok', 42, '10.0.0.1/8', '08:00:2b:01:02:03', B'1010', '[1,10)', '(1.5,-2)', 123, '12.34')

INSERT INTO types (id) VALUES (2)

INSERT INTO types (id, f4, f8, n, d, ts, tst, iv) VALUES (3, 'NaN', '-Infinity', 'NaN', 'infinity', '-infinity', 'infinity', '-1 day +02:03:04'), (4, -0.0, 1e-300, 'Infinity', '0044-03-15 BC', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999+00', '-178000000 years')

SELECT * FROM types WHERE id = 1

SELECT * FROM types WHERE id = 1

SELECT * FROM types WHERE id = 2

SELECT * FROM types WHERE id IN (3, 4) ORDER BY id

SET TimeZone = 'America/New_York'

SELECT d, ti, tz, ts, tst, iv FROM types WHERE id = 1

SET DateStyle = 'German, DMY'

SELECT d, ti, tz, ts, tst, iv FROM types WHERE id = 1

SET DateStyle = 'SQL, MDY'

SELECT d, ti, tz, ts, tst, iv FROM types WHERE id = 1

SET IntervalStyle = 'iso_8601'

SELECT iv FROM types WHERE id IN (1, 3) ORDER BY id

SET IntervalStyle = 'sql_standard'

SELECT iv FROM types WHERE id IN (1, 3) ORDER BY id

SET bytea_output = 'escape'

SELECT by FROM types WHERE id = 1

SET extra_float_digits = 0

SELECT f4, f8 FROM types WHERE id = 1

SET extra_float_digits = -5

SELECT f4, f8 FROM types WHERE id = 1

SET client_encoding = 'LATIN1'

SELECT t FROM types WHERE id = 1

RESET client_encoding

RESET ALL

UPDATE types SET t = 'toolongforvarchar' WHERE id = 1

UPDATE types SET v = 'toolong' WHERE id = 1

UPDATE types SET v = 'abc     ' WHERE id = 1 RETURNING v, length(v)

UPDATE types SET c = 'x' WHERE id = 1 RETURNING c, length(c), c = 'x  ', octet_length(c)

UPDATE types SET sm = 100 WHERE id = 1

UPDATE types SET m = 'angry' WHERE id = 1

UPDATE types SET m = 'happy' WHERE id = 1 RETURNING m > 'ok'

UPDATE types SET n2 = 1.23456 WHERE id = 1 RETURNING n2

UPDATE types SET i2 = i2 - 1 WHERE id = 1

UPDATE types SET i4 = i4 + 1 WHERE id = 1

UPDATE types SET i8 = i8 - 1 WHERE id = 1

UPDATE types SET f8 = f8 * 3 WHERE id = 1 RETURNING f8

UPDATE types SET n = n / 3 WHERE id = 1 RETURNING n

UPDATE types SET n = n / 0 WHERE id = 1

UPDATE types SET i4 = i4 / 0 WHERE id = 1

UPDATE types SET ts = ts + interval '1 month' WHERE id = 1 RETURNING ts

UPDATE types SET tst = tst + '1 day' WHERE id = 1 RETURNING tst

UPDATE types SET jb = jb || '{"b": [1, 2.50]}' WHERE id = 1 RETURNING jb, jb->'b'

UPDATE types SET ia = ia || 4, ta = ta || 'z'::text WHERE id = 1 RETURNING ia, ta, ia[2]

UPDATE types SET b = NOT b WHERE id = 1 RETURNING b

-- bind: '12.5', 'f', '\x01', '{7}'
UPDATE types SET n = $1, b = $2, by = $3, ia = $4 WHERE id = 1 RETURNING n, b, by, ia

-- bind: 'not a number'
UPDATE types SET i4 = $1 WHERE id = 1

UPDATE types SET u = 'nonsense' WHERE id = 1

UPDATE types SET d = '2023-02-30' WHERE id = 1

SELECT * FROM types ORDER BY id

DROP TABLE types

DROP TYPE mood

DROP DOMAIN small
