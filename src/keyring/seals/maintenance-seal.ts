/**
 * The seal of the switch for incidents: what it is computed over, sealed again when the seal key
 * was replaced, and sealed first by an operator.
 *
 * Invariant: what is sealed is never sealed over but by the same. Knows no PKCS#11 and no SQL.
 */
import { encodeMaintenanceSwitch } from '../../hsm/maintenance-switch.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import type { RecordAgent } from '../../hsm/token-commands.ts';
import type { SealKeyId } from '../../ids.ts';
import type { OwnerConnection } from '../../store/core/owner.ts';
import type { Query } from '../../store/core/transaction.ts';
import { findCurrentSealKey } from '../../store/hsm-token/token-objects.ts';
import {
  findMaintenance,
  MAINTENANCE_SEAL,
  type SealedMaintenance,
  writeFirstMaintenanceSeal,
} from '../../store/lifecycle/maintenance-switch.ts';
import type { SealedRecords } from './reseal.ts';

/** Undefined for what can't be a switch. */
export function maintenanceContent(
  record: Omit<SealedMaintenance, 'seal' | 'sealKeyId'>,
): Buffer | undefined {
  const { revision, paused, changedAt, changedMicroseconds, caller } = record;
  // One that no number can be made of.
  if (changedAt !== null && changedMicroseconds === null) return undefined;
  try {
    return encodeMaintenanceSwitch({ revision, paused, changedAt: changedMicroseconds, caller });
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** The switch, as a kind of record for `reseal.ts`. */
export const MAINTENANCE: SealedRecords<SealedMaintenance> = {
  kind: RECORD.maintenance,
  findFormer: MAINTENANCE_SEAL.findFormerKeys,
  readStale: async (query, former, after) => {
    const [row, sealKeyId] = [await findMaintenance({ query }), await findCurrentSealKey(query)];
    if (after !== undefined || row === undefined || row.seal === null || sealKeyId === undefined)
      return [];
    if (row.sealKeyId !== former) return [];
    const { seal } = row;
    return [{ row, resource: 'maintenance', content: maintenanceContent(row), seal, sealKeyId }];
  },
  write: MAINTENANCE_SEAL.rewrite,
};

/**
 * Seals the switch where it isn't, as the database has it, for whoever vouches for it. Returns
 * whether it was to be sealed. Throws Error, in words for the operator.
 */
export async function sealMaintenance(
  owner: Pick<OwnerConnection, 'query'>,
  agent: Pick<RecordAgent, 'seal'>,
  sealKeyId: SealKeyId,
  dryRun = false,
): Promise<SealedMaintenance | undefined> {
  const query: Query = owner.query;
  const record = await findMaintenance({ query });
  if (record === undefined) throw new Error('the database has lost its maintenance switch');
  if (record.seal !== null) return undefined;
  if (dryRun) return record;
  const content = maintenanceContent(record);
  if (content === undefined)
    throw new Error('cannot seal the maintenance switch: its row holds none; repair the row');
  const { seals } = await agent.seal({ sealKeyId, kind: RECORD.maintenance, contents: [content] });
  if (seals[0] === undefined) throw new Error('an agent sealed nothing');
  await writeFirstMaintenanceSeal(query, sealKeyId, Buffer.from(seals[0]));
  return record;
}
