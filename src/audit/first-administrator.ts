/**
 * The entry that names the first administrator, at every start that has one: who may make role
 * bindings by a server's settings would else be in the log only once he has made some.
 */
import { ownWork } from '../call.ts';
import { formatTenantName, SYSTEM_TENANT } from '../names.ts';
import type { AuditWriter } from './writer.ts';

/** Makes the entry durable in the log of `system`. Throws AUDIT_UNAVAILABLE. */
export function recordFirstAdministrator(
  writer: Pick<AuditWriter, 'write'>,
  replica: string,
  firstAdministrator: string,
): Promise<void> {
  const audit = { replica, detail: { firstAdministrator } };
  const call = { ...ownWork('NameFirstAdministrator'), audit };
  const resource = formatTenantName({ tenant: SYSTEM_TENANT });
  return writer.write({ call, resource, outcome: 'OK' });
}
