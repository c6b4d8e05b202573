-- The next job to be planned is found by an index, however many run.
--
-- Runs under release 0.2.0.

CREATE INDEX rewrap_jobs_unplanned ON rewrap_jobs (job_id) WHERE state = 'RUNNING' AND NOT planned;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0027_unplanned_jobs', '0.2.0');
