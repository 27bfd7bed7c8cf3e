\set a random(1, 100000)
SELECT count(*) FROM generate_series(1, 3) AS g(i) WHERE i <> :a;
