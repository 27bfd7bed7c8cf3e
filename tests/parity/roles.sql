CREATE TABLE ro (id int PRIMARY KEY, v int, secret text)

INSERT INTO ro VALUES (1, 1, 's'), (2, 2, 't')

CREATE ROLE parity_reader LOGIN

SELECT * FROM ro WHERE id = 1

SET ROLE parity_reader

SELECT * FROM ro WHERE id = 1

SELECT 1 FROM ro WHERE id = 99

UPDATE ro SET v = 5 WHERE id = 1

RESET ROLE

GRANT SELECT (id, v), UPDATE (v) ON ro TO parity_reader

SET ROLE parity_reader

SELECT * FROM ro WHERE id = 1

SELECT v FROM ro WHERE id = 1

SELECT secret FROM ro WHERE id = 1

UPDATE ro SET v = 5 WHERE id = 1

UPDATE ro SET secret = 'x' WHERE id = 1

UPDATE ro SET v = 6 WHERE id = 1 RETURNING secret

DELETE FROM ro WHERE id = 1

INSERT INTO ro VALUES (9, 9, '')

RESET ROLE

REVOKE ALL ON ro FROM parity_reader

SET ROLE parity_reader

SELECT v FROM ro WHERE id = 1

RESET ROLE

GRANT SELECT, INSERT, UPDATE, DELETE ON ro TO parity_reader

ALTER TABLE ro ENABLE ROW LEVEL SECURITY

CREATE POLICY small ON ro TO parity_reader USING (id < 2)

SELECT id FROM ro WHERE id IN (1, 2) ORDER BY id

SET ROLE parity_reader

SELECT id FROM ro WHERE id IN (1, 2) ORDER BY id

UPDATE ro SET v = 0 WHERE id = 2

INSERT INTO ro VALUES (3, 3, 'x')

RESET ROLE

SET SESSION AUTHORIZATION parity_reader

SELECT current_user, session_user

SELECT id FROM ro WHERE id IN (1, 2) ORDER BY id

RESET SESSION AUTHORIZATION

DROP TABLE ro

DROP ROLE parity_reader
