-- Derivation epochs: within which bounds agents keep the key that a key's messages are derived
-- from.
--
-- Runs under release 0.2.0, whose code knows of none: it refuses a key that has them, since the
-- seal of its state has them too, and goes on with all others.

ALTER TABLE keys
  ADD COLUMN epoch_max_messages integer CHECK (epoch_max_messages BETWEEN 1 AND 100000),
  ADD COLUMN epoch_max_age_seconds integer CHECK (epoch_max_age_seconds BETWEEN 1 AND 3600),
  ADD CONSTRAINT keys_epoch_check
    CHECK ((epoch_max_messages IS NULL) = (epoch_max_age_seconds IS NULL));

GRANT UPDATE (epoch_max_messages, epoch_max_age_seconds) ON keys TO keyward_service;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0026_derivation_epochs', '0.2.0');
