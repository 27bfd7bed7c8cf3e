CREATE TABLE r_kinds (id int PRIMARY KEY, name text COLLATE "C", label text, weight numeric(8,2), rank smallint, big bigint, since timestamptz, on_sale boolean, tags jsonb)

INSERT INTO r_kinds VALUES (1, 'ash', 'Ash', 1.50, 3, 9223372036854775807, '2026-01-01 12:00+00', true, '{"a": 1}'), (2, 'birch', 'Birch', 0.25, 3, -5, '2026-01-02 12:00+00', false, '{"b": [1, 2]}'), (3, 'cedar', NULL, NULL, NULL, NULL, NULL, NULL, NULL)

INSERT INTO r_kinds VALUES (4, 'Elm', 'Elm', 7, -1, 5, 'infinity', true, 'null'), (5, NULL, 'x', 7.00, 1, 5, '2025-02-01 12:00+00', NULL, '[]'), (6, '', '', 100, 2, 0, '-infinity', false, '{}')

CREATE TABLE r_pairs (a int, b text COLLATE "C", n int, PRIMARY KEY (a, b))

INSERT INTO r_pairs VALUES (1, 'x', 10), (1, 'y', 20), (2, 'x', 30), (2, 'z', NULL)

SELECT * FROM r_kinds ORDER BY id

SELECT * FROM r_kinds WHERE rank > 0 ORDER BY id

-- bind: '2'
SELECT id, name FROM r_kinds WHERE rank >= $1 ORDER BY id

-- bind: 'ash'
SELECT id FROM r_kinds WHERE name = $1

-- bind: 'b'
SELECT id FROM r_kinds WHERE name > $1 ORDER BY name

SELECT id, name FROM r_kinds ORDER BY name, id

SELECT id, name FROM r_kinds ORDER BY name DESC NULLS LAST, id LIMIT 3 OFFSET 1

SELECT id FROM r_kinds WHERE label IS NULL

SELECT id FROM r_kinds WHERE on_sale ORDER BY id

SELECT id FROM r_kinds WHERE NOT on_sale OR weight > 5 ORDER BY id DESC

SELECT id, weight * 2 AS twice FROM r_kinds WHERE weight BETWEEN 1 AND 10 ORDER BY weight DESC, id

SELECT id, tags FROM r_kinds WHERE tags IS NOT NULL ORDER BY id

SELECT id FROM r_kinds WHERE id > 2 AND id <> 4 ORDER BY id

SELECT id FROM r_kinds WHERE id = 2 OR name = 'ash' ORDER BY id

SELECT count(*) FROM r_kinds

SELECT count(*), count(name), count(rank), sum(weight), sum(big), sum(rank), avg(rank), min(name), max(name), min(since), max(since) FROM r_kinds

SELECT count(*), sum(weight), min(id) FROM r_kinds WHERE id > 100

SELECT coalesce(sum(weight), 0) + 1 AS total FROM r_kinds WHERE rank = 3

SELECT min(weight) FROM r_kinds WHERE rank IS NOT NULL

SELECT EXISTS (SELECT 1 FROM r_kinds WHERE rank = 3)

-- bind: '17'
SELECT EXISTS (SELECT 1 FROM r_kinds WHERE rank = $1)

SELECT 1 FROM r_kinds WHERE rank = 2 LIMIT 1

-- bind: '0'
SELECT id FROM r_kinds WHERE 10 / rank > $1

SELECT id FROM r_kinds WHERE weight / 0 > 1

SELECT id FROM r_kinds WHERE big + 1 > 0

SELECT id FROM r_kinds WHERE false

SELECT id FROM r_kinds WHERE NULL

-- bind: null
SELECT id FROM r_kinds WHERE rank = $1

SELECT id FROM r_kinds ORDER BY id LIMIT -1

SELECT id FROM r_kinds ORDER BY label, id

SELECT DISTINCT rank FROM r_kinds ORDER BY rank

SELECT rank, count(*) FROM r_kinds GROUP BY rank ORDER BY rank

SELECT id FROM r_kinds WHERE id = 77

SELECT name FROM r_kinds WHERE id IN (1, 77, 2) ORDER BY id

SELECT a, b, n FROM r_pairs ORDER BY b, a

SELECT a, n FROM r_pairs WHERE b = 'x' ORDER BY a

SELECT sum(n), count(*) FROM r_pairs WHERE a = 1

INSERT INTO r_kinds (id, name, rank) VALUES (7, 'fir', 9)

SELECT id, name FROM r_kinds WHERE rank = 9

UPDATE r_kinds SET rank = 8 WHERE id = 7

SELECT count(*) FROM r_kinds WHERE rank = 9

SELECT id FROM r_kinds WHERE rank = 8

BEGIN

UPDATE r_kinds SET name = 'gum' WHERE id = 7

DELETE FROM r_kinds WHERE id = 1

SELECT id, name FROM r_kinds WHERE name < 'h' ORDER BY id

SELECT count(*) FROM r_kinds

ROLLBACK

SELECT id, name FROM r_kinds WHERE name < 'h' ORDER BY id

BEGIN

INSERT INTO r_kinds (id, name) VALUES (8, 'hornbeam')

SELECT max(name) FROM r_kinds

COMMIT

SELECT id FROM r_kinds WHERE name LIKE 'horn%'

DELETE FROM r_kinds WHERE id = 8

SELECT count(*) FROM r_kinds

UPDATE r_kinds SET rank = rank + 1 WHERE rank < 3

SELECT id, rank FROM r_kinds ORDER BY rank NULLS FIRST, id

DELETE FROM r_kinds WHERE weight = 7

SELECT id FROM r_kinds ORDER BY id

ALTER TABLE r_kinds ADD COLUMN more int DEFAULT 5

SELECT id, more FROM r_kinds WHERE more = 5 ORDER BY id

TRUNCATE r_kinds

SELECT count(*) FROM r_kinds

INSERT INTO r_kinds (id, name) VALUES (1, 'yew')

SELECT id, name FROM r_kinds

DROP TABLE r_kinds, r_pairs
