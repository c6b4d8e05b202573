-- Which mode an environment is for, so that development settings can't be used on a production database.
--
-- Runs under release 0.1.0, whose code doesn't look at it.

-- Recorded by `token init`. Without it, as in environments from before it was recorded, production; `token init` may still
-- say otherwise then, since it needs the token and the owner's role: `npm start` does, on what earlier releases made.
ALTER TABLE environment ADD COLUMN mode text CHECK (mode IN ('production', 'development'));

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0010_mode', '0.1.0');
