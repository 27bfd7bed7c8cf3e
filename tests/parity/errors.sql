CREATE TABLE er (id int PRIMARY KEY, v int)

SELEC 1

SELECT * FROM nowhere

SELECT nonsense FROM er WHERE id = 1

  SELECT   v, vv FROM er WHERE id = 1

SELECT v FROM er WHERE idd = 1

SELECT er2.v FROM er WHERE id = 1

SELECT v FROM er WHERE id = '1x'

SELECT v FROM er WHERE id = true

SELECT v FROM er WHERE id = 1 AND v = 'x'

SELECT "é", nonsense FROM er WHERE id = 1

SELECT v FROM er WHERE id =

SELECT nofunction(v) FROM er WHERE id = 1

SELECT v + 'x'::text FROM er WHERE id = 1

-- extended
SELECT $2 FROM er WHERE id = $1

-- bind: 1, 2
SELECT v FROM er WHERE id = $1

UPDATE er SET nonsense = 1 WHERE id = 1

UPDATE er SET v = 1, v = 2 WHERE id = 1

UPDATE er SET id = null WHERE id = 1

INSERT INTO er VALUES (1, 2, 3)

INSERT INTO er VALUES (2147483648, 1)

INSERT INTO er (id, id) VALUES (1, 1)

INSERT INTO er SELECT 1, 1 UNION SELECT 2, 2

INSERT INTO er VALUES (1, 1), (3, 3)

SELECT v / 0 FROM er WHERE id = 1

SELECT 1 / v FROM er WHERE id = 99

SELECT v FROM er WHERE id = 1 AND 1 / (v - 1) = 1

SELECT v::smallint FROM er WHERE id = 1

SELECT (v * 2147483647) + 1 FROM er WHERE id = 1

CREATE TABLE er (id int)

DROP TABLE nowhere

RESET nonsense

SET nonsense = 1

SHOW nonsense

EXECUTE nonsense

DEALLOCATE nonsense

FETCH FROM nonsense

ROLLBACK TO nonsense

DROP TABLE er
