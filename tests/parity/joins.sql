CREATE TYPE j_mood AS ENUM ('sad', 'ok', 'happy')

CREATE TABLE j_regions (id int PRIMARY KEY, name text, since date)

CREATE TABLE j_customers (id int PRIMARY KEY, region int, name varchar(20) COLLATE "C", mood j_mood, v numeric(8,2), tags int[], raw bytea)

CREATE TABLE j_orders (id bigint PRIMARY KEY, customer int REFERENCES j_customers, backup int, parent bigint, amount numeric, at timestamptz, doc jsonb, code uuid, c char(4))

CREATE INDEX ON j_orders (customer)

CREATE TABLE j_lines (orders bigint, n smallint, sku text, PRIMARY KEY (orders, n))

CREATE TABLE j_codes (id uuid PRIMARY KEY, label bpchar(6))

CREATE TABLE j_moods (id j_mood PRIMARY KEY, f float8, t time)

INSERT INTO j_regions VALUES (1, 'north', '2026-01-01'), (2, NULL, 'infinity'), (3, '', NULL)

INSERT INTO j_customers VALUES (1, 1, 'ann', 'ok', 1.5, '{1,NULL}', '\x0001ff'), (2, 2, 'bob', 'happy', NULL, NULL, NULL), (3, NULL, NULL, NULL, -3.25, '{}', ''), (4, 9, 'dan', 'sad', 0, '{4}', '\x00')

INSERT INTO j_orders VALUES (1, 1, 2, NULL, 10.5, '2026-01-01 12:00+00', '{"a": 1}', '00000000-0000-0000-0000-000000000001', 'ab'), (2, 1, 77, 1, 3, '2026-06-01 12:00+00', '[]', NULL, ''), (3, NULL, 1, 2, NULL, NULL, NULL, '00000000-0000-0000-0000-000000000002', NULL)

INSERT INTO j_orders VALUES (4, 4, NULL, 3, 1e20, 'infinity', 'null', '00000000-0000-0000-0000-000000000009', 'x'), (5, 3, 3, 5, 0.00, '-infinity', '"t"', NULL, 'y')

INSERT INTO j_lines VALUES (1, 1, 'one'), (1, 2, 'two'), (4, 1, NULL), (9, 9, 'nine')

INSERT INTO j_codes VALUES ('00000000-0000-0000-0000-000000000001', 'a'), ('00000000-0000-0000-0000-000000000002', NULL)

INSERT INTO j_moods VALUES ('ok', 1.5, '12:00'), ('happy', '-0', '24:00')

-- bind: '1'
SELECT o.*, c.* FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = $1

-- bind: '1'
SELECT o.*, c.* FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = $1

-- bind: '3'
SELECT o.*, c.* FROM j_orders o LEFT OUTER JOIN j_customers c ON c.id = o.customer WHERE o.id = $1

-- bind: '3'
SELECT o.*, c.* FROM j_orders o INNER JOIN j_customers c ON c.id = o.customer WHERE o.id = $1

SELECT * FROM j_orders o LEFT JOIN j_customers c ON o.backup = c.id WHERE o.id IN (1, 2, 3, 4, 5, 6) ORDER BY o.id

SELECT * FROM j_customers c JOIN j_orders o ON o.backup = c.id WHERE o.id IN (5, 4, 3, 2, 1) ORDER BY o.id DESC

-- bind: '{1,2,3,NULL}'
SELECT "j_orders"."id", "j_orders"."amount", "j_customers"."id", "j_customers"."name" FROM "j_orders" INNER JOIN "j_customers" ON ("j_orders"."customer" = "j_customers"."id") WHERE "j_orders"."id" = ANY($1) ORDER BY "j_orders"."id"

-- bind: '5', '1'
SELECT "j_orders"."id", "j_customers"."name" AS customer, T3."name" FROM "j_orders" LEFT OUTER JOIN "j_customers" ON ("j_orders"."customer" = "j_customers"."id") LEFT OUTER JOIN "j_customers" T3 ON ("j_orders"."backup" = T3."id") WHERE "j_orders"."id" IN ($1, $2) ORDER BY "j_orders"."id" LIMIT 21

SELECT o.id, c.mood, m.f, m.t, r.since, c.tags, c.raw, o.c FROM j_orders o LEFT JOIN j_customers c ON c.id = o.customer LEFT JOIN j_moods m ON m.id = c.mood LEFT JOIN j_regions r ON r.id = c.region WHERE o.id IN (1, 2, 3, 4, 5) ORDER BY o.id

SELECT o.id, p.id, g.id, g.amount FROM j_orders o JOIN j_orders p ON p.id = o.parent LEFT JOIN j_orders g ON g.id = p.parent WHERE o.id IN (1, 2, 3, 4, 5) ORDER BY 1

SELECT o.id, k.label, k.* FROM j_orders o LEFT JOIN j_codes k ON k.id = o.code WHERE o.id IN (1, 2, 3, 4) ORDER BY o.id

SELECT l.sku, o.amount FROM j_lines l JOIN j_orders o ON o.id = l.orders WHERE l.orders = 1 AND l.n = 2

SELECT l.sku, o.amount FROM j_lines l LEFT JOIN j_orders o ON o.id = l.orders WHERE l.orders IN (1, 9) AND l.n IN (1, 9) ORDER BY o.id, l.n

-- bind: '1'
SELECT o.id, o.amount * 2 AS twice, c.v + 1, coalesce(c.name, 'nobody'), c.mood FROM j_orders o, j_customers c WHERE o.customer = c.id AND o.id = $1

-- bind: '1'
SELECT o.id, c.name FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.customer = $1 ORDER BY o.id

-- bind: '1'
SELECT c.name, o.id FROM j_customers c JOIN j_orders o ON o.customer = c.id WHERE c.id = $1 ORDER BY o.id DESC LIMIT 1

SELECT count(*), sum(o.amount), max(c.v), min(c.name), avg(o.amount) FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id IN (1, 2, 3, 4, 5)

SELECT count(*), count(c.id), sum(c.v) FROM j_orders o LEFT JOIN j_customers c ON c.id = o.backup WHERE o.id IN (1, 2, 3, 4, 5)

-- bind: '2'
SELECT EXISTS(SELECT 1 AS "a" FROM j_orders o INNER JOIN j_customers c ON c.id = o.customer WHERE (o.id = $1 AND c.v > 0) LIMIT 1)

-- bind: 'x'
SELECT o.id FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = $1

SELECT id FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = 1

SELECT o.nothing FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = 1

SELECT o.amount / c.v FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = 4

SELECT o.id FROM j_orders o JOIN j_customers c ON c.id = o.customer AND c.name > 'a' WHERE o.id = 1

SELECT o.id FROM j_orders o LEFT JOIN j_customers c ON c.id = o.customer AND c.name > 'b' WHERE o.id = 1

SELECT * FROM j_customers c JOIN j_regions r USING (id) WHERE c.id = 1

SELECT * FROM j_customers c NATURAL JOIN j_regions r WHERE c.id = 1

SELECT * FROM j_customers c RIGHT JOIN j_orders o ON o.customer = c.id WHERE o.id = 3

SELECT c.id, o.id FROM j_customers c LEFT JOIN j_orders o ON o.customer = c.id WHERE c.id = 2

BEGIN

INSERT INTO j_customers (id, name) VALUES (50, 'new')

UPDATE j_orders SET backup = 50 WHERE id = 2

SELECT o.id, c.name FROM j_orders o LEFT JOIN j_customers c ON c.id = o.backup WHERE o.id IN (1, 2) ORDER BY o.id

DELETE FROM j_customers WHERE id = 50

SELECT o.id, c.name FROM j_orders o LEFT JOIN j_customers c ON c.id = o.backup WHERE o.id IN (1, 2) ORDER BY o.id

SELECT o.id, c.name FROM j_orders o JOIN j_customers c ON c.id = o.backup WHERE o.id IN (1, 2) ORDER BY o.id

ROLLBACK

SELECT o.id, c.name FROM j_orders o LEFT JOIN j_customers c ON c.id = o.backup WHERE o.id IN (1, 2) ORDER BY o.id

UPDATE j_customers SET name = 'anna' WHERE id = 1

SELECT o.id, c.name FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = 1

DELETE FROM j_regions WHERE id = 1

SELECT c.id, r.name FROM j_customers c LEFT JOIN j_regions r ON r.id = c.region WHERE c.id IN (1, 2) ORDER BY c.id

ALTER TABLE j_customers DROP COLUMN v

SELECT o.id, c.* FROM j_orders o JOIN j_customers c ON c.id = o.customer WHERE o.id = 1

ALTER TABLE j_regions RENAME TO j_places

SELECT c.id, r.name FROM j_customers c LEFT JOIN j_regions r ON r.id = c.region WHERE c.id = 2

SELECT c.id, r.name FROM j_customers c LEFT JOIN j_places r ON r.id = c.region WHERE c.id = 2

DROP TABLE j_orders, j_customers, j_places, j_lines, j_codes, j_moods

DROP TYPE j_mood
