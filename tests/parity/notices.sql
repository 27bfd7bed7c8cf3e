CREATE TABLE no (id int PRIMARY KEY, v int)

DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$

DO $$ BEGIN RAISE WARNING 'careful' USING DETAIL = 'd', HINT = 'h', ERRCODE = '01001'; END $$

DO $$ BEGIN RAISE EXCEPTION 'own' USING DETAIL = 'd', HINT = 'h', ERRCODE = 'XX123', TABLE = 'no', COLUMN = 'v', CONSTRAINT = 'c', SCHEMA = 's', DATATYPE = 't'; END $$

DROP TABLE IF EXISTS nowhere

CREATE TABLE IF NOT EXISTS no (id int)

SET client_min_messages = error

DROP TABLE IF EXISTS nowhere

RESET client_min_messages

CREATE FUNCTION touch(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'touching %', n; UPDATE no SET v = v + 1 WHERE id = n; RETURN n; END $$

INSERT INTO no VALUES (1, 1), (2, 2)

SELECT * FROM no WHERE id = 1

SELECT touch(1)

SELECT * FROM no WHERE id = 1

SELECT touch(id) FROM no WHERE id = 1

SELECT * FROM no WHERE id = 1

DO $$ BEGIN UPDATE no SET v = 77 WHERE id = 2; END $$

SELECT * FROM no WHERE id = 2

CREATE PROCEDURE bump() LANGUAGE plpgsql AS $$ BEGIN UPDATE no SET v = v + 1; COMMIT; UPDATE no SET v = v + 1; END $$

CALL bump()

SELECT * FROM no WHERE id = 2

WITH w AS (UPDATE no SET v = 5 WHERE id = 1 RETURNING *) SELECT * FROM w, no WHERE no.id = w.id

SELECT * FROM no WHERE id = 1

DROP FUNCTION touch

DROP PROCEDURE bump

DROP TABLE no
