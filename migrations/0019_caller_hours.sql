-- What callers did, an hour each, and which keys they have used: what their later hours are
-- compared with, where KEYWARD_ANOMALIES is on. Statistics: nothing is allowed or refused by them.

CREATE TABLE caller_hours (
  caller text NOT NULL,
  hour timestamptz NOT NULL,
  encrypts bigint NOT NULL,
  decrypts bigint NOT NULL,
  others bigint NOT NULL,
  failures bigint NOT NULL,
  new_keys bigint NOT NULL,
  PRIMARY KEY (caller, hour)
);
CREATE INDEX caller_hours_by_hour ON caller_hours (hour);

CREATE TABLE caller_keys (
  caller text NOT NULL,
  -- The name, with its tenant.
  key text NOT NULL,
  last_used_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (caller, key)
);
CREATE INDEX caller_keys_by_use ON caller_keys (last_used_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON caller_hours, caller_keys TO keyward_reconciler;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0019_caller_hours', '0.2.0');
