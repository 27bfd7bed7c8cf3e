CREATE TABLE ex (id int PRIMARY KEY, i int, b bigint, f float8, n numeric, t text, ok boolean, d timestamp, j jsonb)

INSERT INTO ex VALUES (1, 10, 100, 1.5, 2.50, 'abc', true, '2024-01-31 10:00', '{"k": 1}'), (2, null, null, null, null, null, null, null, null)

SELECT i + b, i - b, i * b, i / 3, i % 3, -i, @ i, i::bigint, i::text, i::float8, i::numeric FROM ex WHERE id = 1

SELECT f + 1, f * 2, f / 3, f ^ 2, -f, f::int, (f + 1)::int, f::numeric, f::text FROM ex WHERE id = 1

SELECT n + 1, n * 1.10, n / 3, n - 2.5, n % 2, -n, round(n), n::int, n::text, n::float8, abs(-n) FROM ex WHERE id = 1

SELECT t || 'x', t || i, upper(t), length(t), substr(t, 2), t LIKE 'a%', t = 'abc', t < 'b', t ~ '^a' FROM ex WHERE id = 1

SELECT ok AND false, ok OR null, NOT ok, ok = true, ok IS TRUE, ok IS NOT NULL, ok::text, ok::int FROM ex WHERE id = 1

SELECT i + 1, t || 'x', ok AND false, ok OR true, i IS NULL, coalesce(i, 5), nullif(i, 5), i = 1, i IS DISTINCT FROM 1 FROM ex WHERE id = 2

SELECT CASE WHEN i > 5 THEN 'big' WHEN i IS NULL THEN 'none' ELSE 'small' END FROM ex WHERE id IN (1, 2) ORDER BY id

SELECT CASE i WHEN 10 THEN 1 ELSE 1 / 0 END FROM ex WHERE id = 1

SELECT greatest(i, 3), least(i, b, 7), greatest(null, 1) FROM ex WHERE id = 1

SELECT d + interval '1 month', d - interval '1 day', d + '36 hours', d::date, extract(year FROM d), date_trunc('month', d), d - '2024-01-01'::timestamp FROM ex WHERE id = 1

SELECT j->'k', j->>'k', j || '{"l": null}', j = '{"k": 1.0}' FROM ex WHERE id = 1

SELECT i BETWEEN 5 AND 15, i NOT IN (1, 2), i = ANY('{10,11}'), (i, b) = (10, 100) FROM ex WHERE id = 1

SELECT 1, 'x', null, 1.0, true, 'now'::text, 2147483648, -5, 1e3, E'\\', U&'\0041', B'101', '{}'::jsonb FROM ex WHERE id = 1

SELECT now() = now(), current_date = now()::date, clock_timestamp() >= now() FROM ex WHERE id = 1

SELECT i AS "Odd Name", i AS i, i FROM ex WHERE id = 1

SELECT 2147483647 + i FROM ex WHERE id = 1

SELECT 9223372036854775807 + b FROM ex WHERE id = 1

SELECT 1e308 * f * 10 FROM ex WHERE id = 1

SELECT i / (i - 10) FROM ex WHERE id = 1

SELECT t::int FROM ex WHERE id = 1

SELECT (t || '1')::boolean FROM ex WHERE id = 1

SELECT (i * 10000)::smallint FROM ex WHERE id = 1

UPDATE ex SET i = i + 1, b = b * i, f = f / 3, n = n * 1.01, t = t || i, ok = NOT ok WHERE id = 1 RETURNING *

UPDATE ex SET i = b, b = i WHERE id = 1 RETURNING i, b

UPDATE ex SET i = coalesce(i, 0) + 1, n = coalesce(n, 0.00) + 1 WHERE id = 2 RETURNING i, n

UPDATE ex SET (i, b) = (1, 2) WHERE id = 1 RETURNING i, b

UPDATE ex SET (i, b) = (SELECT 3, 4) WHERE id = 1 RETURNING i, b

UPDATE ex SET i = DEFAULT WHERE id = 1 RETURNING i

UPDATE ex SET i = 2147483647 WHERE id = 1

UPDATE ex SET i = i + 1 WHERE id = 1

UPDATE ex SET n = n + 0.001, f = f + 0.1 WHERE id = 1 RETURNING n, f

-- bind: 5, 'x'
UPDATE ex SET b = b + $1, t = $2 WHERE id = 1 RETURNING b, t

-- bind: 5
UPDATE ex SET n = n * $1 WHERE id = 1 RETURNING n

-- bind: 1, 7
UPDATE ex SET i = $2 WHERE id = $1 AND i > $2 RETURNING i

-- bind: 1, 7
SELECT $2::int + i, $2 || 'x' FROM ex WHERE id = $1

-- bind: 'k'
UPDATE ex SET j = jsonb_set(j, array[$1], '9') WHERE id = 1 RETURNING j

SELECT * FROM ex ORDER BY id

DROP TABLE ex
