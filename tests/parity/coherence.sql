CREATE TABLE cc (id int PRIMARY KEY, v int, t text)

INSERT INTO cc SELECT n, n, 'row ' || n FROM generate_series(1, 50) n

-- session: a
SELECT * FROM cc WHERE id = 7

-- session: b
SELECT * FROM cc WHERE id = 7

UPDATE cc SET v = 70 WHERE id = 7

-- session: a
SELECT * FROM cc WHERE id = 7

SELECT sum(v) FROM cc

-- session: b
UPDATE cc SET v = v + 1 WHERE v >= 49

-- session: a
SELECT * FROM cc WHERE id = 7

SELECT * FROM cc WHERE id IN (7, 48, 49, 50) ORDER BY id

-- session: b
DELETE FROM cc WHERE id % 2 = 0

-- session: a
SELECT id FROM cc WHERE id IN (1, 2, 3, 4, 5, 6) ORDER BY id

UPDATE cc SET v = 1 WHERE id = 2

INSERT INTO cc VALUES (2, 2, 'two again')

-- session: b
SELECT * FROM cc WHERE id = 2

SELECT count(*), sum(v) FROM cc

BEGIN

SELECT * FROM cc WHERE id = 3 FOR UPDATE

-- session: a
SELECT * FROM cc WHERE id = 3

-- session: b
UPDATE cc SET v = 33 WHERE id = 3

-- session: a
SELECT * FROM cc WHERE id = 3

-- session: b
COMMIT

-- session: a
SELECT * FROM cc WHERE id = 3

UPDATE cc SET v = v + 1 WHERE id = 3

-- session: b
MERGE INTO cc USING (VALUES (3, 300), (1000, 1)) AS s (id, v) ON cc.id = s.id WHEN MATCHED THEN UPDATE SET v = cc.v + s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v, 'merged')

-- session: a
SELECT * FROM cc WHERE id IN (3, 1000) ORDER BY id

-- session: b
TRUNCATE cc

-- session: a
SELECT * FROM cc WHERE id = 3

INSERT INTO cc VALUES (3, 1, 'new')

-- session: b
UPDATE cc SET t = repeat('long ', 1000) WHERE id = 3

UPDATE cc SET v = v + 1 WHERE id = 3

-- session: a
SELECT length(t), v FROM cc WHERE id = 3

SELECT md5(t) FROM cc WHERE id = 3

DROP TABLE cc
