CREATE TABLE tx (id int PRIMARY KEY, v int)

INSERT INTO tx VALUES (1, 1), (2, 2)

BEGIN

SELECT * FROM tx WHERE id = 1

UPDATE tx SET v = 10 WHERE id = 1

SELECT * FROM tx WHERE id = 1

-- session: other
SELECT * FROM tx WHERE id = 1

-- session: main
COMMIT

-- session: other
SELECT * FROM tx WHERE id = 1

-- session: main
BEGIN

UPDATE tx SET v = 11 WHERE id = 1

INSERT INTO tx VALUES (3, 3)

ROLLBACK

SELECT * FROM tx WHERE id IN (1, 3)

BEGIN

UPDATE tx SET v = 12 WHERE id = 1

SAVEPOINT s

UPDATE tx SET v = 13 WHERE id = 1

SELECT v FROM tx WHERE id = 1

ROLLBACK TO s

SELECT v FROM tx WHERE id = 1

RELEASE s

COMMIT

SELECT v FROM tx WHERE id = 1

BEGIN

SELECT 1/0

SELECT v FROM tx WHERE id = 1

UPDATE tx SET v = 14 WHERE id = 1

COMMIT

SELECT v FROM tx WHERE id = 1

COMMIT

ROLLBACK

BEGIN

BEGIN

COMMIT

START TRANSACTION READ ONLY

SELECT v FROM tx WHERE id = 1

UPDATE tx SET v = 15 WHERE id = 1

ROLLBACK

BEGIN ISOLATION LEVEL REPEATABLE READ

SELECT v FROM tx WHERE id = 1

-- session: other
UPDATE tx SET v = 20 WHERE id = 1

SELECT v FROM tx WHERE id = 1

-- session: main
SELECT v FROM tx WHERE id = 1

UPDATE tx SET v = 21 WHERE id = 1

ROLLBACK

SELECT v FROM tx WHERE id = 1

BEGIN ISOLATION LEVEL SERIALIZABLE

SELECT v FROM tx WHERE id = 2

UPDATE tx SET v = 22 WHERE id = 2

COMMIT

SHOW transaction_isolation

SET default_transaction_isolation = 'repeatable read'

BEGIN

SHOW transaction_isolation

SELECT v FROM tx WHERE id = 2

COMMIT

RESET default_transaction_isolation

SET default_transaction_read_only = on

UPDATE tx SET v = 1 WHERE id = 2

RESET default_transaction_read_only

BEGIN

DELETE FROM tx WHERE id = 2

SELECT * FROM tx WHERE id = 2

INSERT INTO tx VALUES (2, 200)

SELECT * FROM tx WHERE id = 2

COMMIT AND CHAIN

UPDATE tx SET v = 201 WHERE id = 2

ROLLBACK AND NO CHAIN

SELECT * FROM tx WHERE id = 2

BEGIN

LOCK TABLE tx IN EXCLUSIVE MODE

UPDATE tx SET v = v + 1 WHERE id = 2

COMMIT

SELECT * FROM tx WHERE id = 2

BEGIN

TRUNCATE tx

SELECT * FROM tx WHERE id = 2

-- session: main
ROLLBACK

SELECT * FROM tx WHERE id = 2

BEGIN

SET LOCAL TimeZone = 'Asia/Tokyo'

SHOW TimeZone

COMMIT

SHOW TimeZone

BEGIN

SET TimeZone = 'Asia/Tokyo'

ROLLBACK

SHOW TimeZone

-- simple
BEGIN; UPDATE tx SET v = 500 WHERE id = 2; SELECT v FROM tx WHERE id = 2; COMMIT

-- simple
UPDATE tx SET v = 501 WHERE id = 2; SELECT 1/0; UPDATE tx SET v = 502 WHERE id = 2

SELECT v FROM tx WHERE id = 2

-- simple
UPDATE tx SET v = 501 WHERE id = 2; COMMIT; SELECT 1/0

SELECT v FROM tx WHERE id = 2

-- simple
SELECT v FROM tx WHERE id = 2; UPDATE tx SET v = v + 1 WHERE id = 2; SELECT v FROM tx WHERE id = 2;;

-- simple
;

DROP TABLE tx
