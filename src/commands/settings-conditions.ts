/**
 * Raises alerts about how this replica is configured, at every start: what is allowed, and should
 * not stay.
 */
import type { Configuration } from '../config.ts';
import type { PostureFinding } from '../hsm/token-profile.ts';
import type { AlertId, Alerts } from '../signals/alerts.ts';

type Settings = Configuration<
  | 'KEYWARD_MODE'
  | 'KEYWARD_AUDIT_KEPT_CHECKPOINT'
  | 'KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES'
  | 'KEYWARD_FIRST_ADMINISTRATOR'
>;

/** Raises an alert for each that holds, and ends those that do not. */
export function reportSettings(settings: Settings, alerts: Alerts): void {
  const isKept =
    settings.KEYWARD_AUDIT_KEPT_CHECKPOINT !== undefined ||
    settings.KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES !== undefined;
  const name = settings.KEYWARD_FIRST_ADMINISTRATOR;
  // A development environment has neither a place outside nor another administrator, by design.
  const isMeant = settings.KEYWARD_MODE === 'development';
  report(alerts, 'checkpoint-not-kept', 'audit log', isMeant || isKept ? undefined : {});
  report(
    alerts,
    'first-administrator-stands',
    'KEYWARD_FIRST_ADMINISTRATOR',
    isMeant || name === undefined ? undefined : { name },
  );
}

/** Raises an alert for each attribute that the token cannot enforce, and that is waived. */
export function reportWaivers(findings: readonly PostureFinding[], alerts: Alerts): void {
  for (const { role, attribute, state } of findings)
    alerts.raise('attribute-waived', `${role} ${attribute}`, { role, attribute, state });
}

function report(alerts: Alerts, id: AlertId, subject: string, fields: object | undefined): void {
  if (fields === undefined) alerts.clear(id, subject);
  else alerts.raise(id, subject, fields);
}
