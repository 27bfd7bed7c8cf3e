CREATE TABLE prefs (id int PRIMARY KEY, doc jsonb NOT NULL DEFAULT '{}', raw json)

INSERT INTO prefs VALUES (1, '{"theme": "dark", "n": 1, "tags": ["a", "b"]}', '{"b":1, "a":2}'), (2, '[1, "x"]', null), (3, '"text"', '[]')

SELECT doc -> 'theme' AS theme, doc ->> 'theme', doc -> 'tags' -> 0, doc -> 'tags' ->> -1, doc -> 'none', doc ? 'n' FROM prefs WHERE id = 1

-- bind: 'n', 1
SELECT doc -> $1, doc ->> $1 FROM prefs WHERE id = $2

SELECT doc -> 0, doc ->> 1, doc -> 'a', doc ? 'x' FROM prefs WHERE id = 2

SELECT doc -> 0, doc -> -1, doc ->> 0, doc ? 'text' FROM prefs WHERE id = 3

UPDATE prefs SET doc = doc || '{"theme": "light", "new": [1, 2.50]}' WHERE id = 1 RETURNING *

-- bind: '{"from": {"a": "client"}}', 1
UPDATE prefs SET doc = doc || $1 WHERE id = $2 RETURNING doc, doc -> 'from' ->> 'a'

UPDATE prefs SET doc = doc - 'n' - 'none' WHERE id = 1 AND doc ->> 'theme' = 'light' RETURNING doc

UPDATE prefs SET doc = jsonb_set(doc, '{from,a}', '"set"') WHERE id = 1 RETURNING doc

UPDATE prefs SET doc = jsonb_set(doc, '{from,b}', '3', false) WHERE id = 1 RETURNING doc

-- bind: '{from,c}', '4', 1
UPDATE prefs SET doc = jsonb_set(doc, $1, $2) WHERE id = $3 RETURNING doc

UPDATE prefs SET doc = jsonb_set(doc, '{tags,0}', '"c"') WHERE id = 1 RETURNING doc

UPDATE prefs SET doc = doc || '"more"' WHERE id = 2 RETURNING doc

UPDATE prefs SET doc = doc - 0 WHERE id = 2 RETURNING doc

UPDATE prefs SET doc = doc - 0 WHERE id = 3

UPDATE prefs SET doc = doc - 'a' WHERE id = 3

UPDATE prefs SET doc = doc || NULL WHERE id = 3

UPDATE prefs SET doc = doc || '{' WHERE id = 1

SELECT raw -> 'a', raw ->> 'b' FROM prefs WHERE id = 1

INSERT INTO prefs (id, doc) VALUES (1, '{"up": 1}') ON CONFLICT (id) DO UPDATE SET doc = prefs.doc || excluded.doc RETURNING doc

SELECT * FROM prefs WHERE id IN (1, 2, 3) ORDER BY id

DROP TABLE prefs
