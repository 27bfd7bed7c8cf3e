CREATE TABLE s_orders (id int PRIMARY KEY, customer int, status text COLLATE "C", amount numeric(10,2), n numeric, big bigint, small smallint, at timestamptz)

CREATE INDEX ON s_orders (customer)

INSERT INTO s_orders VALUES (1, 1, 'open', 10.50, 1.5, 9223372036854775807, 1, '2026-01-01 12:00+00'), (2, 1, 'paid', 0.25, 2.25, 9223372036854775807, 2, '2026-01-02 12:00+00'), (3, 1, NULL, NULL, NULL, NULL, NULL, NULL)

INSERT INTO s_orders VALUES (4, 2, 'open', 3, 0.001, -5, -32768, '2026-02-01 12:00+00'), (5, 2, 'open', 3.00, 7, 5, 32767, '2025-02-01 12:00+00'), (6, NULL, 'lost', 1, 1, 1, 1, 'infinity')

SELECT * FROM s_orders WHERE customer = 1 ORDER BY id

-- bind: '1'
SELECT id, amount FROM s_orders WHERE customer = $1 ORDER BY amount DESC NULLS LAST, id

SELECT id FROM s_orders WHERE customer IN (1, 2, 3, NULL) ORDER BY id

-- bind: '2', '1', null
SELECT id, status FROM s_orders WHERE customer IN ($1, $2, $3) ORDER BY id DESC LIMIT 4

-- bind: '{2,NULL,1,2,77}'
SELECT id FROM s_orders WHERE customer = ANY($1) ORDER BY id

-- bind: '{}'
SELECT id FROM s_orders WHERE customer = ANY($1) ORDER BY id

-- bind: null
SELECT id FROM s_orders WHERE customer = ANY($1) ORDER BY id

-- bind: '{x}'
SELECT id FROM s_orders WHERE customer = ANY($1) ORDER BY id

-- bind: '1'
SELECT EXISTS (SELECT 1 FROM s_orders WHERE customer = $1) AS anon_1

SELECT EXISTS(SELECT * FROM s_orders WHERE customer = 3)

-- bind: '1', '1'
SELECT EXISTS(SELECT 1 AS "a" FROM s_orders WHERE customer = $1 LIMIT $2)

-- bind: '1', '-1'
SELECT EXISTS(SELECT 1 AS "a" FROM s_orders WHERE customer = $1 LIMIT $2)

-- bind: '4'
SELECT EXISTS (SELECT s_orders.id FROM s_orders WHERE s_orders.id = $1)

-- bind: '1'
SELECT 1 AS "a" FROM s_orders WHERE customer = $1 LIMIT 1

SELECT count(*), count(amount), sum(amount), sum(n), sum(big), sum(small), sum(id) FROM s_orders WHERE customer = 1

SELECT count(*), count(amount), sum(amount), sum(n), sum(big), sum(small), sum(id) FROM s_orders WHERE customer = 3

SELECT avg(amount), avg(n), avg(big), avg(small) AS x FROM s_orders WHERE customer IN (1, 2)

SELECT min(amount), max(status), min(at), max(big), min(small), max(id) FROM s_orders WHERE customer = 2

SELECT min(amount) FROM s_orders WHERE customer = 77

-- bind: '1'
SELECT coalesce(sum(amount), 0) AS total, max(id) + 1, count(*) > 2 FROM s_orders WHERE customer = $1

-- bind: '3'
SELECT coalesce(sum(amount), 0) AS total, max(id) + 1, count(*) > 2 FROM s_orders WHERE customer = $1

SELECT sum(amount), max(status) FROM s_orders WHERE id IN (1, 2, 6)

SELECT sum(id / (customer - 1)) FROM s_orders WHERE customer = 1

SELECT customer, count(*) FROM s_orders WHERE customer = 1

SELECT sum(status) FROM s_orders WHERE customer = 1

UPDATE s_orders SET customer = 3, amount = amount + 1 WHERE id = 1

SELECT sum(amount), count(*), min(id) FROM s_orders WHERE customer = ANY('{1,3}')

SELECT EXISTS (SELECT 1 FROM s_orders WHERE customer = 3)

DELETE FROM s_orders WHERE id = 1

SELECT EXISTS (SELECT 1 FROM s_orders WHERE customer = 3)

DROP TABLE s_orders
