SET search_path TO pg_temp, public

SELECT pg_my_temp_schema() = 0

SELECT 1

SELECT pg_my_temp_schema() = 0

SET search_path TO ' PG_TEMP'

SELECT 1

SELECT pg_my_temp_schema() = 0

CREATE TABLE here (id int PRIMARY KEY)

INSERT INTO here VALUES (1)

SELECT * FROM here WHERE id = 1

SELECT pg_my_temp_schema() = 0

RESET search_path

SELECT * FROM here WHERE id = 1

DROP TABLE here
