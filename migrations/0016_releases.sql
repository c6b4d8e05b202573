-- Code of before does not run on this schema: it would miss columns that are gone, and write rows
-- that are neither sealed nor proven. It has never been released, and each of these migrations let
-- it: from here on they need release 0.2.0.
--
-- Nothing else is changed, so that it is undone by the code, not by the database.

UPDATE schema_releases SET oldest_release = '0.2.0' WHERE migration >= '0007_sealed_states';

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0016_releases', '0.2.0');
