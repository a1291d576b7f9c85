-- TRUNCATE of several tables, partitions by root, generated columns, types and names that need care, a schema change in mid-transaction.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE "Mixed ""Case" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, twice bigint GENERATED ALWAYS AS (5) STORED, "select" text);
CREATE TABLE kinds (id int PRIMARY KEY, m mood, p pair, d positive, a int[], r int4range, j jsonb, b bytea, v varchar(7), ts timestamptz, i interval);
CREATE TABLE part (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
CREATE PUBLICATION golden FOR TABLE "Mixed ""Case", kinds, part WITH (publish_via_partition_root = true);
-- captured
INSERT INTO "Mixed ""Case" ("select") VALUES ('a'), (NULL);
INSERT INTO kinds VALUES (1, 'happy', (1, 'a b'), 3, '[2:3]={1,NULL}', '[1,5)', '{"a": [1, null]}', '\xdeadbeef', 'ünï', '4713-01-01 00:00:00+00 BC', '1 mon -3 days 04:05:06.7');
INSERT INTO kinds VALUES (2, NULL, NULL, NULL, '{}', 'empty', 'null', '', '', 'infinity', '0');
INSERT INTO part VALUES (1, 1), (2, 11);
UPDATE part SET k = 12 WHERE id = 1;
DELETE FROM part WHERE id = 2;
TRUNCATE kinds, part RESTART IDENTITY CASCADE;
BEGIN;
INSERT INTO kinds (id) VALUES (3);
ALTER TABLE kinds ADD COLUMN late int DEFAULT 7;
INSERT INTO kinds (id) VALUES (4);
ALTER TABLE kinds DROP COLUMN m;
UPDATE kinds SET late = 8 WHERE id = 3;
COMMIT;
SELECT pg_logical_emit_message(true, 'prefix', 'content');
