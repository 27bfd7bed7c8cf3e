CREATE TABLE k_num (k numeric PRIMARY KEY, v text)

INSERT INTO k_num VALUES (1.0, 'one'), (1.50, 'one and a half'), (-0.0, 'zero'), ('NaN', 'nan'), (1e20, 'big')

SELECT * FROM k_num WHERE k = 1

SELECT * FROM k_num WHERE k = 1.000

-- bind: 1.5
SELECT * FROM k_num WHERE k = $1

SELECT * FROM k_num WHERE k = 'NaN'

SELECT * FROM k_num WHERE k IN (0, 100000000000000000000)

INSERT INTO k_num VALUES (1.00, 'dup')

UPDATE k_num SET k = 1.00 WHERE k = 1 RETURNING k

SELECT k FROM k_num WHERE k = 1

CREATE TABLE k_char (k char(4) PRIMARY KEY, v int)

INSERT INTO k_char VALUES ('ab', 1), ('ab  c', 2), ('', 3)

INSERT INTO k_char VALUES ('ab', 1), ('', 3)

SELECT * FROM k_char WHERE k = 'ab'

SELECT * FROM k_char WHERE k = 'ab    '

-- bind: 'ab '
SELECT * FROM k_char WHERE k = $1

SELECT * FROM k_char WHERE k = 'ab'::text

SELECT * FROM k_char WHERE k = ''

CREATE TABLE k_text (k text PRIMARY KEY, v int)

INSERT INTO k_text VALUES ('a', 1), ('A', 2), ('a ', 3), ('', 4), ('ä', 5), (E'a\nb', 6)

SELECT * FROM k_text WHERE k = 'a'

SELECT * FROM k_text WHERE k = 'a '

SELECT * FROM k_text WHERE k IN ('ä', '', E'a\nb') ORDER BY v

SELECT * FROM k_text WHERE k = 'a'::char(3)

SELECT * FROM k_text WHERE k = 'a'::varchar

SELECT * FROM k_text WHERE lower(k) = 'a' ORDER BY v

CREATE TABLE k_f (k double precision PRIMARY KEY, v int)

INSERT INTO k_f VALUES (0.0, 1), (0.1, 2), ('NaN', 3), ('infinity', 4)

INSERT INTO k_f VALUES (-0.0, 5)

SELECT * FROM k_f WHERE k = -0.0

SELECT * FROM k_f WHERE k = 0.1

SELECT * FROM k_f WHERE k = 0.1::real

SELECT * FROM k_f WHERE k = 'NaN'

SELECT * FROM k_f WHERE k = 0

CREATE TABLE k_int (k int PRIMARY KEY, v text)

INSERT INTO k_int VALUES (5, 'five'), (-1, 'minus')

SELECT * FROM k_int WHERE k = '5'

SELECT * FROM k_int WHERE k = 5.0

SELECT * FROM k_int WHERE k = 5.5

SELECT * FROM k_int WHERE k = 5::bigint

SELECT * FROM k_int WHERE k = 5::smallint

SELECT * FROM k_int WHERE 5 = k

SELECT * FROM k_int WHERE k = 2 + 3

SELECT * FROM k_int WHERE k = 99999999999

SELECT * FROM k_int WHERE k = NULL

-- bind: null
SELECT * FROM k_int WHERE k = $1

SELECT * FROM k_int WHERE k IN (5, NULL)

SELECT * FROM k_int WHERE k = ANY(ARRAY[5, -1, 5]) ORDER BY k

SELECT * FROM k_int WHERE k = ANY('{}')

SELECT * FROM k_int WHERE k = ANY(NULL::int[])

SELECT * FROM k_int WHERE k = 'x'

SELECT * FROM k_int WHERE k = 5 AND k = -1

SELECT * FROM k_int WHERE k = 5 AND v = 'five'

SELECT * FROM k_int WHERE k = 5 AND v <> 'five'

SELECT * FROM k_int WHERE k = 5 OR k = -1 ORDER BY k

SELECT * FROM k_int WHERE k = -1 AND length(v) > 2 AND v LIKE 'm%'

SELECT * FROM k_int WHERE NOT k = 5

SELECT * FROM ONLY k_int t WHERE t.k = 5

SELECT t.*, t.k + 1 FROM public.k_int AS t (a, b) WHERE a = 5

SELECT k_int FROM k_int WHERE k = 5

SELECT ctid, xmin = xmin, tableoid::regclass::text FROM k_int WHERE k = 5

SELECT DISTINCT v FROM k_int WHERE k = 5

SELECT 1 FROM k_int WHERE k = 5 LIMIT 0

SELECT 1 FROM k_int WHERE k = 5 OFFSET 1

SELECT k FROM k_int WHERE k = 5 FOR UPDATE

SELECT (SELECT v FROM k_int WHERE k = 5)

SELECT exists(SELECT FROM k_int WHERE k = 5)

SELECT a.v, b.v FROM k_int a, k_int b WHERE a.k = 5 AND b.k = -1

CREATE TABLE k_two (a int, b text, c uuid DEFAULT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', v int, PRIMARY KEY (b, a))

INSERT INTO k_two VALUES (1, 'x', default, 1), (1, 'y', default, 2), (2, 'x', default, 3)

SELECT * FROM k_two WHERE a = 1 AND b = 'x'

SELECT * FROM k_two WHERE b = 'x' AND a = 2

SELECT * FROM k_two WHERE a = 1 ORDER BY b

SELECT v FROM k_two WHERE (a, b) = (1, 'y')

SELECT v FROM k_two WHERE (a, b) IN ((1, 'y'), (2, 'x')) ORDER BY v

SELECT v FROM k_two WHERE a IN (1, 2) AND b = 'x' ORDER BY v

UPDATE k_two SET v = v * 10 WHERE a = 1 AND b = 'x'

DELETE FROM k_two WHERE a = 1 AND b = 'z'

CREATE TABLE k_uuid (k uuid PRIMARY KEY, v int)

INSERT INTO k_uuid VALUES ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 1)

SELECT * FROM k_uuid WHERE k = '{a0eebc999c0b4ef8bb6d6bb9bd380a11}'

-- bind: 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'
SELECT * FROM k_uuid WHERE k = $1

CREATE TABLE k_ts (k timestamptz PRIMARY KEY, v int)

INSERT INTO k_ts VALUES ('2024-07-01 12:00:00+02', 1)

SELECT * FROM k_ts WHERE k = '2024-07-01 10:00:00+00'

SET TimeZone = 'Asia/Tokyo'

SELECT * FROM k_ts WHERE k = '2024-07-01 19:00:00'

SELECT * FROM k_ts WHERE k = timestamp '2024-07-01 19:00:00'

RESET TimeZone

CREATE TABLE k_none (a int, b int)

INSERT INTO k_none VALUES (1, 1), (1, 1)

UPDATE k_none SET b = 2 WHERE a = 1

SELECT * FROM k_none WHERE a = 1

CREATE TABLE k_iv (k interval PRIMARY KEY, v int)

INSERT INTO k_iv VALUES ('1 month', 1)

SELECT * FROM k_iv WHERE k = '30 days'

CREATE TABLE k_range (a int, b smallint, v text, PRIMARY KEY (a, b))

INSERT INTO k_range SELECT a, b, a || '/' || b FROM generate_series(1, 3) a, generate_series(-2, 30) b

SELECT v FROM k_range WHERE a = 1 AND b BETWEEN 3 AND 5

-- bind: '1', '3', '5'
SELECT v FROM k_range WHERE a = $1 AND b BETWEEN $2 AND $3

-- bind: '2', '29', '40000'
SELECT v FROM k_range WHERE a = $1 AND b >= $2 AND b < $3::int

-- bind: '1', null
SELECT count(*), max(b) FROM k_range WHERE a IN (2, $1) AND b BETWEEN 1 AND $2

SELECT count(*), max(b), sum(a) FROM k_range WHERE a IN (1, 2) AND b > 27 AND b <= 29

SELECT v FROM k_range WHERE b = 4 AND a BETWEEN 2 AND 9 ORDER BY b, a DESC

SELECT v FROM k_range WHERE b = 4 AND a BETWEEN 9 AND 2

SELECT v FROM k_range WHERE a = 1 AND b BETWEEN 1 AND 1 / 0

SELECT count(*) FROM k_range WHERE a = 1 AND b BETWEEN -32768 AND 32767

BEGIN

INSERT INTO k_range VALUES (1, 31, 'new')

UPDATE k_range SET v = 'changed' WHERE a = 1 AND b BETWEEN 28 AND 100

DELETE FROM k_range WHERE a = 1 AND b > 20 AND b < 30

SELECT b, v FROM k_range WHERE a = 1 AND b BETWEEN 15 AND 100 FOR UPDATE

SELECT b, v FROM k_range WHERE a = 1 AND b BETWEEN 15 AND 100

COMMIT

SELECT b, v FROM k_range WHERE a = 1 AND b BETWEEN 15 AND 100

DROP TABLE k_range, k_num, k_char, k_text, k_f, k_int, k_two, k_uuid, k_ts, k_none, k_iv
