/** Alerts for parts that a test makes itself. */
import { AlertSignals, type Alerts } from '../../src/signals/alerts.ts';

/** Takes alerts, and does nothing with them. */
export const NO_ALERTS: Alerts = { raise() {}, clear() {} };

/** Returns alerts whose lines `write` takes, as a log would. */
export function alertsTo(write: (fields: object, message: string) => void): Alerts {
  return new AlertSignals({ info: write, warn: write, error: write, fatal: write });
}
