CREATE TABLE se (id int PRIMARY KEY, v text)

INSERT INTO se VALUES (1, 'public')

SHOW search_path

SELECT * FROM se WHERE id = 1

CREATE SCHEMA app

CREATE TABLE app.se (id int PRIMARY KEY, v text)

INSERT INTO app.se VALUES (1, 'app')

SET search_path = app, public

SELECT * FROM se WHERE id = 1

UPDATE se SET v = 'app!' WHERE id = 1

SELECT * FROM public.se WHERE id = 1

SET search_path = public

SELECT * FROM se WHERE id = 1

SELECT set_config('search_path', 'app', false)

SELECT * FROM se WHERE id = 1

RESET search_path

SELECT * FROM se WHERE id = 1

CREATE TEMP TABLE se (id int PRIMARY KEY, v text)

SELECT * FROM se WHERE id = 1

INSERT INTO se VALUES (1, 'temp')

SELECT * FROM se WHERE id = 1

-- session: other
SELECT * FROM se WHERE id = 1

-- session: main
UPDATE se SET v = 'temp!' WHERE id = 1

DROP TABLE se

SELECT * FROM se WHERE id = 1

PREPARE q (int) AS SELECT * FROM se WHERE id = $1

EXECUTE q(1)

PREPARE w AS UPDATE se SET v = $2 WHERE id = $1

EXECUTE w(1, 'prepared')

EXECUTE q(1)

PREPARE q AS SELECT 1

DEALLOCATE q

EXECUTE q(1)

DISCARD ALL

EXECUTE w(1, 'x')

DECLARE c CURSOR FOR SELECT * FROM se

BEGIN

DECLARE c CURSOR FOR SELECT * FROM se ORDER BY id

FETCH 1 FROM c

UPDATE se SET v = 'under cursor' WHERE CURRENT OF c

FETCH 1 FROM c

CLOSE c

COMMIT

SELECT * FROM se WHERE id = 1

DECLARE h CURSOR WITH HOLD FOR SELECT * FROM se ORDER BY id

FETCH ALL FROM h

CLOSE h

SELECT pg_advisory_lock(42)

-- session: other
SELECT pg_try_advisory_lock(42)

-- session: main
SELECT pg_advisory_unlock(42)

LISTEN ch

NOTIFY ch, 'hello'

UNLISTEN *

SELECT current_user, session_user, current_database() = current_catalog, current_schema

SET application_name = 'parity'

SHOW application_name

SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY

UPDATE se SET v = 'x' WHERE id = 1

SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE

SET standard_conforming_strings = off

SELECT 'a\nb', v FROM se WHERE id = 1

RESET standard_conforming_strings

SET statement_timeout = '50ms'

SELECT pg_sleep(5)

RESET statement_timeout

SHOW ALL THINGS

SET nonsense.setting = 'x'

SHOW nonsense.setting

EXPLAIN (COSTS OFF) SELECT * FROM se WHERE id = 1

DROP SCHEMA app CASCADE

DROP TABLE se
