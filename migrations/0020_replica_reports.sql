-- What each replica reports of itself, for the page that shows how the service is doing: under no
-- seal, as the sighting itself, and nothing is decided by it.
--
-- Null in rows that older code writes, which goes on doing so.

ALTER TABLE replicas
  -- As audit entries name it.
  ADD COLUMN name text,
  ADD COLUMN release text,
  ADD COLUMN started_at timestamptz DEFAULT clock_timestamp(),
  ADD COLUMN agents integer,
  ADD COLUMN agents_ready integer,
  -- Why it cannot serve calls; empty while it can.
  ADD COLUMN problems text[];
GRANT UPDATE (name, release, agents, agents_ready, problems) ON replicas TO keyward_reconciler;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0020_replica_reports', '0.2.0');
