CREATE TABLE crud (id int PRIMARY KEY, name text NOT NULL, qty int DEFAULT 7, price numeric(8,2), CHECK (qty >= 0))

INSERT INTO crud VALUES (1, 'one', 1, 1.10)

INSERT INTO crud (id, name) VALUES (2, 'two')

-- bind: 3, 'three', null, 3.335
INSERT INTO crud VALUES ($1, $2, $3, $4)

INSERT INTO crud (id, name, qty) VALUES (4, 'four', 4), (5, 'five', 5), (6, 'six', 6) RETURNING id, qty, price

SELECT * FROM crud WHERE id = 1

SELECT * FROM crud WHERE id = 2

-- bind: 3
SELECT * FROM crud WHERE id = $1

-- bind: 3
SELECT * FROM crud WHERE id = $1

SELECT * FROM crud WHERE id = 99

SELECT * FROM crud WHERE id = 99

SELECT id AS number, name || '!' AS loud, qty * 2 FROM crud WHERE id = 4

SELECT id FROM crud WHERE id IN (6, 1, 4, 1, 99) ORDER BY id

SELECT id FROM crud WHERE id IN (6, 1, 4) ORDER BY id DESC LIMIT 2

-- bind: '{5,2,2,77}'
SELECT id, name FROM crud WHERE id = ANY($1) ORDER BY id

SELECT count(*), sum(qty) FROM crud

INSERT INTO crud VALUES (1, 'again', 1, 1)

INSERT INTO crud VALUES (8, null)

INSERT INTO crud VALUES (8, 'negative', -1)

INSERT INTO crud VALUES (8, 'wide', 1, 12345678.9)

INSERT INTO crud VALUES (null, 'no key')

INSERT INTO crud VALUES ('x', 'bad key')

INSERT INTO crud (id, nonsense) VALUES (8, 1)

UPDATE crud SET qty = qty + 1 WHERE id = 1

UPDATE crud SET qty = qty + 1, name = upper(name) WHERE id = 1 RETURNING *

UPDATE crud SET qty = qty - 100 WHERE id = 1

UPDATE crud SET qty = 1 WHERE id = 99

UPDATE crud SET name = null WHERE id = 1

UPDATE crud SET id = 10 WHERE id = 1 RETURNING id

SELECT * FROM crud WHERE id = 1

SELECT * FROM crud WHERE id = 10

UPDATE crud SET id = 2 WHERE id = 10

UPDATE crud SET qty = 50 WHERE qty = 5

UPDATE crud SET qty = 60 WHERE id IN (4, 5) AND name = 'five'

SELECT id, qty FROM crud WHERE id IN (4, 5) ORDER BY id

INSERT INTO crud VALUES (2, 'deux', 22) ON CONFLICT (id) DO UPDATE SET name = excluded.name, qty = crud.qty + excluded.qty RETURNING *

INSERT INTO crud VALUES (2, 'ignored') ON CONFLICT DO NOTHING

INSERT INTO crud VALUES (2, 'ignored') ON CONFLICT (id) DO NOTHING RETURNING id

INSERT INTO crud VALUES (20, 'vingt') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING *

INSERT INTO crud VALUES (20, 'a'), (20, 'b') ON CONFLICT (id) DO UPDATE SET name = excluded.name

INSERT INTO crud VALUES (2, 'x') ON CONFLICT (name) DO NOTHING

INSERT INTO crud VALUES (2, 'x', 3) ON CONFLICT (id) DO UPDATE SET qty = 0 WHERE crud.qty > 1000

INSERT INTO crud VALUES (2, 'x', 3) ON CONFLICT ON CONSTRAINT crud_pkey DO UPDATE SET (name, qty) = (excluded.name || '!', crud.qty + 1) RETURNING *

INSERT INTO crud VALUES (2, 'x', 3) ON CONFLICT ON CONSTRAINT crud_pkey DO NOTHING

INSERT INTO crud VALUES (2, 'x', 3) ON CONFLICT ON CONSTRAINT crud_other DO NOTHING

UPDATE crud SET (name, qty) = (name || '?', DEFAULT) WHERE id = 2 RETURNING *

UPDATE crud SET (qty, name) = ROW(qty, upper(name)) WHERE id = 2

UPDATE crud SET (name, qty) = ('x', 1, 2) WHERE id = 2

UPDATE crud SET (qty) = ROW(7) WHERE id = 2

UPDATE crud SET (qty, qty) = (1, 2) WHERE id = 2

SELECT * FROM crud WHERE id = 2

DELETE FROM crud WHERE id = 3 RETURNING *

DELETE FROM crud WHERE id = 3

SELECT * FROM crud WHERE id = 3

INSERT INTO crud VALUES (3, 'back')

SELECT * FROM crud WHERE id = 3

-- bind: 'thirty', 30, 'thirty-one', 31
INSERT INTO crud (id, name) SELECT p1::INTEGER, p0::VARCHAR FROM (VALUES ($1, $2, 0), ($3, $4, 1)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING crud.id, crud.id AS id__1, qty

-- bind: 32, 'thirty-two'
INSERT INTO crud (id, name) SELECT $1, $2 RETURNING *

INSERT INTO crud (id, name, price) SELECT a, upper(b), c FROM (VALUES (33, 'x', 1), (34, 'y', 2.345)) AS v(a, b, c) RETURNING *

INSERT INTO crud (id, name) SELECT a, b FROM (VALUES (35, 'x'), (33, 'y')) AS v(a, b)

INSERT INTO crud (id, name) SELECT a, b FROM (VALUES ('36', 'x'), ('x', 'y')) AS v(a, b)

INSERT INTO crud (id, name) SELECT a::int, b FROM (VALUES ('36', 'x'), ('x', 'y')) AS v(a, b)

INSERT INTO crud (id, name, qty) SELECT a, b, c FROM (VALUES (36, 'x', 1), (37, 'y', -1)) AS v(a, b, c)

-- bind: '{40,41}', '{forty,"forty-one"}'
INSERT INTO crud (id, name) SELECT * FROM unnest($1::int[], $2::text[]) RETURNING *

-- bind: '{42,43,44}', '{forty,two}', '3'
INSERT INTO crud (id, name, qty) SELECT a, b, $3 FROM unnest($1::int[], $2::varchar[]) AS x(a, b) ON CONFLICT (id) DO NOTHING

-- bind: '{42,43}', '{forty,two}', '3'
INSERT INTO crud (id, name, qty) SELECT a, b, $3 FROM unnest($1::int[], $2::varchar[]) AS x(a, b) ON CONFLICT (id) DO UPDATE SET qty = crud.qty + excluded.qty

-- bind: '{}', '{}'
INSERT INTO crud (id, name) SELECT unnest($1::int[]), unnest($2::text[])

-- bind: null
INSERT INTO crud (id, name) SELECT unnest($1::int[]), 'none' RETURNING id

-- bind: '{x}'
INSERT INTO crud (id, name) SELECT unnest($1::int[]), 'none' RETURNING id

SELECT * FROM crud WHERE id IN (40, 41, 42, 43, 44) ORDER BY id

SELECT * FROM crud WHERE id IN (30, 31, 32, 33, 34, 35, 36, 37) ORDER BY id

DELETE FROM crud WHERE id IN (4, 5, 98)

DELETE FROM crud WHERE qty > 40

SELECT * FROM crud ORDER BY id

TRUNCATE crud

SELECT * FROM crud WHERE id = 2

DROP TABLE crud

SELECT * FROM crud WHERE id = 2

CREATE TABLE excluded (key int PRIMARY KEY, data text)

INSERT INTO excluded VALUES (1, '1')

INSERT INTO excluded VALUES (1, '2') ON CONFLICT (key) DO UPDATE SET data = excluded.data RETURNING *

INSERT INTO excluded AS target VALUES (1, '2') ON CONFLICT (key) DO UPDATE SET data = excluded.data RETURNING *

INSERT INTO excluded AS target VALUES (1, '3') ON CONFLICT (key) DO UPDATE SET data = target.data RETURNING *

DROP TABLE excluded
