/**
 * Sealing tenants that nobody has sealed: the ones that `migrate` makes, by `token init`; and those
 * that were made before tenants were sealed, by an operator's `token seal-states`.
 *
 * Invariants: what is sealed is never sealed over. It vouches for whatever the database says at
 * that moment, so nothing in the service calls it. Knows no PKCS#11 and no SQL.
 */
import { RECORD } from '../../hsm/record-seal.ts';
import { encodeTenantState } from '../../hsm/tenant-state.ts';
import type { RecordAgent } from '../../hsm/token-commands.ts';
import type { SealKeyId } from '../../ids.ts';
import { formatTenantName } from '../../names.ts';
import type { OwnerConnection } from '../../store/core/owner.ts';
import {
  countSealedTenants,
  readUnsealedTenants,
  recordFirstTenantSeals,
  writeFirstTenantSeals,
} from '../../store/tenants/tenant-seals.ts';
import type { StoredTenant } from '../../store/tenants/tenants.ts';

export interface TenantSealing {
  readonly owner: OwnerConnection;
  readonly agent: Pick<RecordAgent, 'seal'>;
  /** The current one. */
  readonly sealKeyId: SealKeyId;
}

/**
 * Seals all tenants that aren't, in the transaction that is open; returns them. Throws Error, in
 * words for the operator, for what can't be a tenant's row.
 */
export async function sealTenants({
  owner,
  agent,
  sealKeyId,
}: TenantSealing): Promise<StoredTenant[]> {
  const unsealed = await readUnsealedTenants(owner.query);
  if (unsealed.length === 0) return [];
  const request = { sealKeyId, kind: RECORD.tenant, contents: unsealed.map(contentOf) };
  const { seals } = await agent.seal(request);
  const sealed = unsealed.map((before, index) => {
    const seal = seals[index];
    if (seal === undefined) throw new Error('an agent answered for other tenants');
    return { before, sealKeyId, seal: Buffer.from(seal) };
  });
  await writeFirstTenantSeals(owner.query, sealed);
  return unsealed;
}

/** As {@link sealTenants}, for an operator who is told before what is vouched for. */
export async function sealTenantsByOperator(
  sealing: TenantSealing,
  {
    caller,
    dryRun,
    say,
  }: {
    readonly caller: string;
    /** Only look. */
    readonly dryRun: boolean;
    readonly say: (line: string) => void;
  },
): Promise<void> {
  const { owner } = sealing;
  const unsealed = await owner.transaction(() => readUnsealedTenants(owner.query));
  const before = await countSealedTenants(owner.query);
  say(`${unsealed.length} tenants are not sealed${unsealed.length > 0 ? ':' : ''}`);
  for (const tenant of unsealed) say(`  ${inWords(tenant)}`);
  say(`${before} tenants are already sealed and are left unchanged`);
  if (dryRun || unsealed.length === 0) return;
  const method = 'keyward-server token seal-states';
  const sealed = await owner.transaction(async () => {
    const done = await sealTenants(sealing);
    await recordFirstTenantSeals(owner, { caller, method }, done);
    return done;
  });
  say(`sealed ${sealed.length} tenants`);
}

function inWords({ claims }: StoredTenant): string {
  const { tenantId, name, state, dedicatedRootKey } = claims;
  const root = dedicatedRootKey ? ', with a root key of its own' : '';
  return `${formatTenantName({ tenant: name })} ${tenantId} ${state}${root}`;
}

function contentOf({ claims }: StoredTenant): Buffer {
  try {
    return encodeTenantState(claims);
  } catch (cause) {
    throw new Error(
      `cannot seal ${formatTenantName({ tenant: claims.name })}: its row holds no possible tenant; repair the row`,
      { cause },
    );
  }
}
