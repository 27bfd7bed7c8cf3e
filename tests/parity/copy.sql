CREATE TABLE co (id int PRIMARY KEY, v text)

-- copy: 1\tone
-- copy: 2\t\N
COPY co FROM STDIN

SELECT * FROM co WHERE id = 1

COPY co TO STDOUT

COPY co TO STDOUT (FORMAT csv, HEADER)

COPY (SELECT * FROM co WHERE id = 1) TO STDOUT (FORMAT binary)

UPDATE co SET v = 'uno' WHERE id = 1

COPY co (v) TO STDOUT

-- copy: 3\tthree
-- copy: 3\tthree
COPY co FROM STDIN

SELECT * FROM co WHERE id = 3

-- copy: 3,"thr,ee"
-- copy: 4,
COPY co FROM STDIN (FORMAT csv)

SELECT * FROM co WHERE id IN (3, 4) ORDER BY id

-- copy: 5
-- copyfail: changed my mind
COPY co FROM STDIN

-- copy: x\ty
COPY co FROM STDIN

COPY nowhere FROM STDIN

COPY co TO '/nonexistent/x'

SELECT * FROM co ORDER BY id

BEGIN

-- copy: 9\tnine
COPY co FROM STDIN

SELECT * FROM co WHERE id = 9

ROLLBACK

SELECT * FROM co WHERE id = 9

-- simple
COPY co TO STDOUT; SELECT count(*) FROM co; UPDATE co SET v = 'last' WHERE id = 4

SELECT * FROM co WHERE id = 4

DROP TABLE co
