-- Every replica identity, TOAST values that were not touched, key changes, NULLs.
CREATE TABLE by_key (id int PRIMARY KEY, t text, n numeric(10,2));
CREATE TABLE by_index (a int NOT NULL, b int NOT NULL, c text);
CREATE UNIQUE INDEX by_index_b ON by_index (b);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b;
CREATE TABLE by_row (a int, b text, big text);
ALTER TABLE by_row REPLICA IDENTITY FULL;
ALTER TABLE by_row ALTER big SET STORAGE EXTERNAL;
CREATE TABLE inserts_only (a int);
CREATE TABLE toast (id text PRIMARY KEY, big text, x int);
ALTER TABLE toast ALTER big SET STORAGE EXTERNAL;
CREATE PUBLICATION golden FOR TABLE by_key, by_index, by_row, inserts_only, toast;
-- captured
INSERT INTO by_key VALUES (1, 'one', 1.5), (2, NULL, NULL), (3, '', 0);
UPDATE by_key SET t = 'eins' WHERE id = 1;
UPDATE by_key SET id = 20 WHERE id = 2;
DELETE FROM by_key WHERE id = 20;
INSERT INTO by_index VALUES (1, 2, 'c');
UPDATE by_index SET a = 5;
UPDATE by_index SET b = 6;
DELETE FROM by_index;
INSERT INTO by_row VALUES (1, NULL, repeat('z', 3000));
UPDATE by_row SET b = 'b';
DELETE FROM by_row;
INSERT INTO inserts_only VALUES (1), (NULL);
INSERT INTO toast VALUES ('k', repeat('y', 3000), 1);
UPDATE toast SET x = 2;
UPDATE toast SET id = 'l';
DELETE FROM toast;
